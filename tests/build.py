"""Small real checkpoints for tests: seeded weights, written by the safetensors library."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 96,
    "tie_word_embeddings": False, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
}  # fmt: skip


def llama_weights(seed: int = 0, dtype: torch.dtype = torch.bfloat16, config: dict = LLAMA) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of a Llama."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}"
        shapes |= {f"{start}.{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
        shapes |= {f"{start}.self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"}
        shapes |= {f"{start}.self_attn.{name}_proj.weight": (keys, hidden) for name in "kv"}
        shapes |= {f"{start}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"{start}.mlp.down_proj.weight"] = (hidden, inner)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).mul(0.05).to(dtype)
        for name, shape in sorted(shapes.items())
    }


def changed(weights: dict[str, torch.Tensor], seed: int, size: float) -> dict[str, torch.Tensor]:
    """The weights after a random change of relative `size`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (tensor.double() * (1 + size * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))).to(
            tensor.dtype
        )
        for name, tensor in weights.items()
    }


def write_checkpoint(
    folder: Path, weights: dict[str, torch.Tensor], config: dict = LLAMA, shards: int = 1, **extra: object
) -> Path:
    """Write a checkpoint folder, in one file or round-robin over `shards`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config | extra))
    if shards == 1:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(weights.items())[number::shards])
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.numel() * tensor.itemsize for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def family(folder: Path, dtype: torch.dtype = torch.bfloat16, sizes: tuple[float, ...] = (0.02, 0.5)) -> list[Path]:
    """A base and models that are changes of it: folder/base, folder/m1, ..."""
    weights = llama_weights(0, dtype)
    folders = [write_checkpoint(folder / "base", weights)]
    for number, size in enumerate(sizes, start=1):
        folders.append(write_checkpoint(folder / f"m{number}", changed(weights, number, size)))
    return folders
