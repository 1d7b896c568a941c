"""Shapes of well-known sizes of language models, from their published configurations; no weights, no download."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Llama:
    """A Llama's dimensions, the head untied. keys: rows of the key projection."""

    model: str
    layers: int
    hidden: int
    inner: int
    keys: int
    vocabulary: int

    def shapes(self) -> dict[str, Shape]:
        """Every tensor's shape by name."""
        ends = dict.fromkeys(("lm_head.weight", "model.embed_tokens.weight"), (self.vocabulary, self.hidden))
        found: dict[str, Shape] = {**ends, "model.norm.weight": (self.hidden,)}
        for layer in range(self.layers):
            found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in self._layer().items()}
        return found

    def _layer(self) -> dict[str, Shape]:
        norms: dict[str, Shape] = {f"{name}_layernorm": (self.hidden,) for name in ("input", "post_attention")}
        attention = {f"self_attn.{name}_proj": (self.hidden, self.hidden) for name in "qo"}
        attention |= {f"self_attn.{name}_proj": (self.keys, self.hidden) for name in "kv"}
        mlp = {f"mlp.{name}_proj": (self.inner, self.hidden) for name in ("gate", "up")}
        return norms | attention | mlp | {"mlp.down_proj": (self.hidden, self.inner)}


@dataclass(frozen=True)
class Falcon:
    """A Falcon's with the new decoder, the head untied. keys: rows of keys and values together."""

    model: str
    layers: int
    hidden: int
    keys: int
    vocabulary: int

    def shapes(self) -> dict[str, Shape]:
        """Every tensor's shape by name."""
        wide, ends = 4 * self.hidden, (self.vocabulary, self.hidden)
        found: dict[str, Shape] = {"lm_head.weight": ends, "transformer.word_embeddings.weight": ends}
        found |= {f"transformer.ln_f.{part}": (self.hidden,) for part in ("weight", "bias")}
        for layer in range(self.layers):
            start = f"transformer.h.{layer}."
            norms = [f"{start}{norm}.{part}" for norm in ("ln_attn", "ln_mlp") for part in ("weight", "bias")]
            found |= dict.fromkeys(norms, (self.hidden,))
            found[start + "self_attention.query_key_value.weight"] = (self.hidden + self.keys, self.hidden)
            found[start + "self_attention.dense.weight"] = (self.hidden, self.hidden)
            found[start + "mlp.dense_h_to_4h.weight"] = (wide, self.hidden)
            found[start + "mlp.dense_4h_to_h.weight"] = (self.hidden, wide)
        return found


SIZES: Mapping[str, Llama | Falcon] = {
    "7b": Llama("Llama 2 7B", 32, 4096, 11008, 4096, 32_000),
    "13b": Llama("Llama 2 13B", 40, 5120, 13824, 5120, 32_000),
    "34b": Llama("Code Llama 34B", 48, 8192, 22016, 1024, 32_000),
    "70b": Llama("Llama 3 70B", 80, 8192, 28672, 1024, 128_256),
    "180b": Falcon("Falcon 180B", 80, 14848, 1024, 65_024),
    "405b": Llama("Llama 3.1 405B", 126, 16384, 53248, 1024, 128_256),
}
"""By the name that `widen simulate --size` takes."""


def parameters(shapes: Mapping[str, Shape]) -> int:
    """How many numbers such a model has."""
    return sum(prod(shape) for shape in shapes.values())
