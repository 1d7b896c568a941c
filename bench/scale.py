"""A checkpoint of 70 billion parameters on this machine: planned from headers, then run through the engine, measured.

    python -m bench.scale [--folder FOLDER] [--layers 80] [--memory 1000000000]

`widen plan` reads three checkpoints in the shape of Llama 3 70B, 30 files each, whose weights are holes: they take no
room. The engine then merges three such checkpoints whose every tensor is read from one file of random numbers, as large
as the largest tensor. All of it runs on every byte: reading ahead, hashing, both passes; only the merged bytes are
dropped.
"""

import argparse
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.measure import run
from widen.api import DEFAULT_SETTINGS
from widen.backend import open_backend
from widen.checkpoint import Checkpoint
from widen.contents import Contents
from widen.dtypes import BF16
from widen.engine import Engine
from widen.headers import TensorEntry
from widen.memory import MemoryBudget
from widen.plan import MergePlan, make_plan
from widen.progress import progress_on
from widen.statistics import StatisticsStore

HIDDEN, INNER, KEYS, VOCABULARY, FILES = 8192, 28672, 1024, 128_256, 30
NAMES = ("base", "tuned", "pretrained")
PIECE = 8 << 20


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama 3 of this width."""
    found: dict[str, tuple[int, ...]] = {
        "lm_head.weight": (VOCABULARY, HIDDEN), "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }  # fmt: skip
    for layer in range(layers):
        start = f"model.layers.{layer}"
        found |= {f"{start}.{norm}_layernorm.weight": (HIDDEN,) for norm in ("input", "post_attention")}
        found |= {f"{start}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qo"}
        found |= {f"{start}.self_attn.{name}_proj.weight": (KEYS, HIDDEN) for name in "kv"}
        found |= {f"{start}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        found[f"{start}.mlp.down_proj.weight"] = (HIDDEN, INNER)
    return found


def config(layers: int) -> dict[str, object]:
    """Of Llama 3 70B, with so many layers."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": layers, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": VOCABULARY,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16",
    }  # fmt: skip


def make_sparse(folder: Path, layers: int) -> Path:
    """A checkpoint whose weight files are a header and a hole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(layers)))
    tensors = list(shapes(layers).items())
    names = [f"model-{number + 1:05d}-of-{FILES:05d}.safetensors" for number in range(FILES)]
    parts = {name: dict(tensors[number::FILES]) for number, name in enumerate(names) if tensors[number::FILES]}
    for name, part in parts.items():
        _write_hole(folder / name, part)
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def _write_hole(path: Path, part: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in part.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def patterned(folder: Path, name: str, layers: int) -> Checkpoint:
    """A checkpoint in which every tensor is the beginning of one file of random bfloat16 numbers."""
    sizes = {tensor: (2 * int(np.prod(shape)), shape) for tensor, shape in sorted(shapes(layers).items())}
    path = folder / f"{name}.bin"
    most = max(size for size, _ in sizes.values())
    if not path.exists() or path.stat().st_size < most:
        _write_pattern(path, name, most)
    entries = {tensor: TensorEntry(tensor, path.name, 0, size, BF16, shape) for tensor, (size, shape) in sizes.items()}
    return Checkpoint(name, folder, config(layers), entries, (path.name,))


def _write_pattern(path: Path, name: str, size: int) -> None:
    generator = np.random.default_rng(NAMES.index(name))
    with path.open("wb") as file:
        for start in range(0, size, PIECE):
            values = generator.standard_normal(min(PIECE, size - start) // 2, dtype=np.float32) * np.float32(0.02)
            file.write((values.view(np.uint32) >> 16).astype(np.uint16).data)


def merge_and_drop(folder: Path, layers: int, memory: int) -> None:
    """Plan, then run every tensor through both passes; the work of the process that is measured."""
    base, *models = (patterned(folder, name, layers) for name in NAMES)
    plan = make_plan(base, models, DEFAULT_SETTINGS)
    budget = MemoryBudget(memory)
    engine = Engine(open_backend("cpu"), budget, Contents(), StatisticsStore(None), progress_on())
    started = time.perf_counter()
    engine.over_tensors(
        "merge", plan.tensors, lambda one: one.sides, lambda one: engine.merge(plan.settings, one, _drop)
    )
    print(f"merged {_elements(plan) / 1e9:.1f} G parameters in {time.perf_counter() - started:.0f} s")
    print(f"budget {budget.size / 1e9:.2f} GB, held at most {budget.peak / 1e9:.2f} GB")
    print(engine.profile.table())


def _drop(place: int, block: NDArray[np.unsignedinteger]) -> None:
    """The merged bytes are not kept."""


def _elements(plan: MergePlan) -> int:
    return sum(tensor.geometry.elements for tensor in plan.tensors)


def main() -> None:
    """Make the checkpoints, time `widen plan` on them, and measure a merge's memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench-data/sparse"))
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--memory", type=int, default=1_000_000_000)
    parser.add_argument("--merge", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.merge:
        merge_and_drop(asked.folder, asked.layers, asked.memory)
        return
    for name in NAMES:
        make_sparse(asked.folder / name, asked.layers)
    _show_plan(asked.folder)
    options = ["--folder", str(asked.folder), "--layers", str(asked.layers), "--memory", str(asked.memory), "--merge"]
    done = run([sys.executable, "-m", "bench.scale", *options])
    print(done.output)
    print(f"{done.seconds:.0f} s in all; anonymous memory at its peak: {done.anonymous_peak / 1e9:.2f} GB")


def _show_plan(folder: Path) -> None:
    recipe = folder / "recipe.json"
    content = {"merge_method": "widen", "base_model": str((folder / "base").resolve())}
    models = [{"model": str((folder / name).resolve())} for name in NAMES[1:]]
    recipe.write_text(json.dumps(content | {"models": models}))
    command = [sys.executable, "-m", "flows", "plan", str(recipe), "--cache", str(folder / "no-cache")]
    started = time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(printed + f"widen plan: {time.perf_counter() - started:.2f} s, whole process, nothing cached")


if __name__ == "__main__":
    main()
