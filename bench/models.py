"""Generate checkpoints of a chosen size: seeded weights in the shape of a Qwen2 model, written without holding a model.

python -m bench.models FOLDER [--layers 24]      (24 layers: 0.43 billion parameters, bfloat16)
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.shards import Slot, TensorFile

HIDDEN, INNER, VOCABULARY, KEYS = 1024, 2816, 64_000, 1024
PIECE = 1 << 20
Shape = tuple[int, ...]
CHANGES = {"base": 0.0, "tuned": 0.02, "pretrained": 0.4}
"""Each model's relative change of the base: one fine-tuned, one trained on."""


def config(layers: int) -> dict[str, object]:
    """A Qwen2 configuration with an untied head."""
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": layers, "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": VOCABULARY,
        "tie_word_embeddings": False, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }  # fmt: skip


def slots(layers: int) -> list[Slot]:
    """Every tensor, by name."""
    shapes: dict[str, Shape] = {"model.norm.weight": (HIDDEN,)}
    shapes |= dict.fromkeys(("lm_head.weight", "model.embed_tokens.weight"), (VOCABULARY, HIDDEN))
    for layer in range(layers):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in _layer().items()}
    return [Slot(name, "BF16", shape) for name, shape in sorted(shapes.items())]


def _layer() -> dict[str, Shape]:
    attention: dict[str, Shape] = {f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    biases = {f"self_attn.{name}_proj.bias": (KEYS,) for name in "qkv"}
    norms = {f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    mlp = {f"mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
    return attention | biases | norms | mlp | {"mlp.down_proj.weight": (HIDDEN, INNER)}


def generate(folder: Path, layers: int) -> dict[str, Path]:
    """Write what is missing of base, tuned and pretrained under `folder`; returns their folders."""
    folders = {}
    for name, change in CHANGES.items():
        folders[name] = folder / name
        if not (folders[name] / "config.json").exists():
            folders[name].mkdir(parents=True, exist_ok=True)
            (folders[name] / "model.safetensors").unlink(missing_ok=True)
            _write(folders[name], name, change, layers)
    return folders


def _write(folder: Path, name: str, change: float, layers: int) -> None:
    file = TensorFile(folder / "model.safetensors", slots(layers), {"format": "pt"})
    for slot in slots(layers):
        file.write(_pieces(slot, name, change))
    file.close()
    (folder / "config.json").write_text(json.dumps(config(layers)))


def _pieces(slot: Slot, model: str, change: float) -> Iterator[NDArray[np.uint16]]:
    base, delta = _generator(slot.name, "base"), _generator(slot.name, model)
    for start in range(0, slot.size // 2, PIECE):
        count = min(PIECE, slot.size // 2 - start)
        values = base.standard_normal(count, dtype=np.float32) * np.float32(0.02)
        if change:
            values *= 1 + np.float32(change) * delta.standard_normal(count, dtype=np.float32)
        yield (values.view(np.uint32) >> 16).astype(np.uint16)


def _generator(*key: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256("/".join(key).encode()).digest()[:8], "little")
    return np.random.default_rng(seed)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=24)
    asked = parser.parse_args()
    for name, folder in generate(asked.folder, asked.layers).items():
        print(f"{name}: {folder}")


if __name__ == "__main__":
    main()
