"""Load a checkpoint for scoring, and refuse one that transformers would quietly complete.

transformers initialises a tensor that a checkpoint lacks at random and goes on, and a model with NaN weights scores
like any other; so names, shapes and values are checked here before a single document is read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from widen.errors import EnvironmentFault, InputsRefused, RecipeError

DTYPES = ("float32", "float64", "bfloat16", "float16")
SHOWN = 5


def load_checked(model: str, folder: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """The causal model (a `transformers.PreTrainedModel` on `device`, in evaluation mode) and its tokenizer.

    Only local safetensors files are read and no code of the checkpoint is run. Raises InputsRefused naming `model` and
    the tensor when one is missing, unexpected, of another shape than the architecture's, or not finite, or when the
    folder cannot be read; RecipeError for an unknown `dtype`; EnvironmentFault when `device` is not on this machine.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in DTYPES:
        raise RecipeError(f"evaluate.dtype: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    _require_device(device)
    if not folder.is_dir():
        raise InputsRefused(f"{model}: expected a checkpoint folder at {folder}, found none; fetch or merge it again")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    checks: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        read: Any = AutoModelForCausalLM.from_pretrained
        loaded, report = read(folder, dtype=getattr(torch, dtype), **local, **checks)
    except (OSError, ValueError, SafetensorError) as error:
        found = str(error).strip().split("\n")[0]
        raise InputsRefused(
            f"{model}: expected a causal language model in safetensors with its tokenizer at {folder}, found: {found}"
        ) from error
    _refuse(model, list(_misfits(report)))
    _refuse(model, list(_not_finite(loaded)))
    return loaded.to(device).eval(), tokenizer


def _require_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).strip().split("\n")[0]
        raise EnvironmentFault(f"evaluate.device: {device!r} is not usable on this machine ({found})") from error


def _misfits(report: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit, from the loading report of `from_pretrained`: one line a tensor, by name."""
    for name in sorted(report["missing_keys"]):
        yield f"{name}: the architecture expects it, the checkpoint does not hold it"
    for name in sorted(report["unexpected_keys"]):
        yield f"{name}: the checkpoint holds it, the architecture has no such tensor"
    for name, found, expected in sorted(report["mismatched_keys"], key=lambda row: str(row[0])):
        yield f"{name}: expected shape {tuple(expected)}, found {tuple(found)}"
    for message in report.get("error_msgs") or ():
        yield str(message)


def _not_finite(loaded: Any) -> Iterator[str]:
    import torch

    for name, tensor in loaded.named_parameters():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            yield f"{name}: expected finite values, found {bad} of {tensor.numel()} NaN or infinite"


def _refuse(model: str, lines: list[str]) -> None:
    if lines:
        more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise InputsRefused(
            f"{model}: not scored, {len(lines)} tensor(s) refused; mend or replace the checkpoint\n  "
            + "\n  ".join(lines[:SHOWN])
            + more
        )
