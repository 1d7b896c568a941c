"""A fine-tuned model as a merged LoRA would have left it: changed by a low rank in some matrices, nowhere else."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FILE = "model.safetensors"
TARGETS: Mapping[str, tuple[str, ...]] = {"q, v": ("q_proj.", "v_proj."), "linear": ("_proj.",)}
"""What adapters are put on, by parts of the tensors' names: the usual two, or every linear layer."""


def cut(base: Path, tuned: Path, rank: int, targets: Sequence[str], dtype: torch.dtype, out: Path) -> Path:
    """Write base + the `rank` largest singular directions of each target's change, in `dtype`; returns `out`.

    Singular vectors are the linear algebra library's: the bytes are the same on one machine, not on all.
    """
    before, after = load_file(base / FILE), load_file(tuned / FILE)
    made = {}
    for name, old in before.items():
        wide = old.double()
        if any(part in name for part in targets):
            left, sizes, right = torch.linalg.svd(after[name].double() - wide, full_matrices=False)
            wide = wide + (left[:, :rank] * sizes[:rank]) @ right[:rank]
        made[name] = wide.to(dtype)
    shutil.copytree(base, out, ignore=shutil.ignore_patterns(FILE), dirs_exist_ok=True)
    save_file(made, out / FILE, {"format": "pt"})
    return out


def unchanged_columns(base: Path, model: Path, targets: Sequence[str]) -> tuple[float, float]:
    """Shares of columns (elements of a vector, tokens of an embedding) that the model left as they were.

    Over all tensors; and over those of `targets` alone.
    """
    before, after = load_file(base / FILE), load_file(model / FILE)
    found = {name: _unchanged(name, old.double(), after[name].double()) for name, old in before.items()}
    inside = [one for name, one in found.items() if any(part in name for part in targets)]
    return float(torch.cat(list(found.values())).double().mean()), float(torch.cat(inside).double().mean())


def _unchanged(name: str, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    same = before == after
    return same if same.dim() == 1 else same.all(dim=1 if "embed_tokens" in name else 0)
