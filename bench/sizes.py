"""The shapes that models are generated in: Qwen2 with an untied head."""

from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """A Qwen2 model's dimensions; every head has its own keys, as in Qwen1.5."""

    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """How many numbers one model has."""
        return sum(prod(shape) for shape in self.shapes().values())

    def config(self) -> dict[str, object]:
        """The content of config.json."""
        return {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": self.hidden,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads, "vocab_size": self.vocabulary, "tie_word_embeddings": False,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "hidden_act": "silu", "torch_dtype": "bfloat16",
        }  # fmt: skip

    def shapes(self) -> dict[str, Shape]:
        """Every tensor's shape."""
        shapes: dict[str, Shape] = {"model.norm.weight": (self.hidden,)}
        shapes |= dict.fromkeys(("lm_head.weight", "model.embed_tokens.weight"), (self.vocabulary, self.hidden))
        for layer in range(self.layers):
            shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in self._layer().items()}
        return shapes

    def _layer(self) -> dict[str, Shape]:
        attention: dict[str, Shape] = {f"self_attn.{name}_proj.weight": (self.hidden, self.hidden) for name in "qkvo"}
        biases = {f"self_attn.{name}_proj.bias": (self.hidden,) for name in "qkv"}
        norms = {f"{name}_layernorm.weight": (self.hidden,) for name in ("input", "post_attention")}
        mlp = {f"mlp.{name}_proj.weight": (self.inner, self.hidden) for name in ("gate", "up")}
        return attention | biases | norms | mlp | {"mlp.down_proj.weight": (self.hidden, self.inner)}


SIZES = {
    "tiny": Size(layers=2, hidden=64, inner=176, heads=4, vocabulary=512),
    "0.13b": Size(layers=12, hidden=768, inner=2048, heads=12, vocabulary=32_000),
    "0.43b": Size(layers=24, hidden=1024, inner=2816, heads=16, vocabulary=64_000),
    "0.88b": Size(layers=24, hidden=1536, inner=4096, heads=12, vocabulary=64_000),
    "1.78b": Size(layers=24, hidden=2048, inner=5504, heads=16, vocabulary=138_240),
}
"""By name. The largest is Qwen1.5-1.8B with a vocabulary of 138,240."""
