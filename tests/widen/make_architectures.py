"""Write widen/architectures.json from the installed transformers: `python -m tests.widen.make_architectures`.

A class may be added to CLASSES when its parameters depend on its sizes and on nothing but flags and activations: read
its modelling code. Flags and words stay at their defaults (`fixed`); numbers and lists that only the computation reads
are `free`. What a class reads beside its declared keys stands under LEGACY.
"""

import dataclasses
import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import torch
import transformers

from widen.checkpoint import Checkpoint
from widen.instantiate import instantiate, token_axes
from widen.known_architectures import TABLE, Family

CLASSES = (
    "ArceeForCausalLM", "Cohere2ForCausalLM", "CohereForCausalLM", "Ernie4_5ForCausalLM", "GPT2LMHeadModel",
    "GPTNeoXForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GemmaForCausalLM", "Glm4ForCausalLM",
    "GlmForCausalLM", "GraniteForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Olmo2ForCausalLM",
    "Olmo3ForCausalLM", "OlmoForCausalLM", "Phi3ForCausalLM", "PhiForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
    "SeedOssForCausalLM", "SmolLM3ForCausalLM", "StableLmForCausalLM", "Starcoder2ForCausalLM",
)  # fmt: skip

SMALL = {
    "vocab_size": 96, "hidden_size": 32, "n_embd": 32, "intermediate_size": 48, "num_attention_heads": 4, "n_head": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 2, "n_layer": 2, "max_position_embeddings": 64,
    "n_positions": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

COMMON_FIXED = {
    "chunk_size_feed_forward": 0, "gradient_checkpointing": False, "id2label": None, "is_encoder_decoder": False,
    "label2id": None, "output_attentions": False, "output_hidden_states": False, "problem_type": None,
    "return_dict": True,
}  # fmt: skip
COMMON_FREE = {
    "_attn_implementation_autoset": "flag", "_name_or_path": "text|null", "architectures": "list",
    "dtype": "dtype|null", "model_type": "text", "torch_dtype": "dtype|null", "transformers.js_config": "object",
    "transformers_version": "text|null", "unsloth_fixed": "flag", "unsloth_version": "text",
}  # fmt: skip

# Keys that released configurations carry and the class does not declare: (fixed, free).
LEGACY: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "Cohere2ForCausalLM": ({}, {"sliding_window_pattern": "size"}),
    "GPT2LMHeadModel": ({}, {"n_ctx": "size", "task_specific_params": "object|null"}),
    "GPTNeoXForCausalLM": ({}, {"rotary_emb_base": "theta", "rotary_pct": "share"}),
    "Gemma2ForCausalLM": ({"cache_implementation": "hybrid"}, {"hidden_act": "activation"}),
    "Gemma3ForCausalLM": (
        {"cache_implementation": "hybrid"}, {"rope_local_base_freq": "theta", "sliding_window_pattern": "size"},
    ),
    "GemmaForCausalLM": ({}, {"hidden_activation": "activation|null"}),
    "LlamaForCausalLM": ({"is_llama_config": True, "rope_interleaved": False}, {}),
    "Qwen2ForCausalLM": ({"use_mrope": False}, {}),
    "Starcoder2ForCausalLM": (
        {
            "attention_softmax_in_fp32": True, "mlp_type": "default", "norm_type": "layer_norm",
            "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True,
        },
        {},
    ),
}  # fmt: skip

# Buffers that older versions stored. No module is changed by them.
BUFFERS = {
    "GPT2LMHeadModel": ["transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"],
    "GPTNeoXForCausalLM": [
        f"gpt_neox.layers.*.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    ],
    "LlamaForCausalLM": ["model.layers.*.self_attn.rotary_emb.inv_freq"],
    "MistralForCausalLM": ["model.layers.*.self_attn.rotary_emb.inv_freq"],
}
NESTED_ROPE = ("Gemma3ForCausalLM", "Olmo3ForCausalLM")
"""One rotary embedding for each type of layer."""


def table() -> dict[str, Family]:
    """All of the file."""
    return {name: family(name) for name in CLASSES}


def text_of(content: dict[str, Family]) -> str:
    """The table as it is stored."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def small_config(name: str, tied: bool, **sizes: int) -> dict[str, Any]:
    """A configuration of the class with SMALL sizes, or `sizes`, under the keys that the class declares."""
    config_class = getattr(transformers, name).config_class
    declared = {field.name for field in dataclasses.fields(config_class)}
    chosen = {key: value for key, value in (SMALL | sizes).items() if key in declared}
    if "bos_token_id" not in chosen:
        raise ValueError(f"{name} declares no tokens")
    return {"architectures": [name], "model_type": config_class.model_type, "tie_word_embeddings": tied} | chosen


def asked(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers says of a configuration."""
    kinds, tied, prefix = instantiate(Checkpoint("asked", Path(), config, {}, ()))
    return {"kinds": kinds, "tied": tied, "prefix": prefix}


def meta_model(config: dict[str, Any]) -> Any:
    """The model without weights."""
    model_class = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        return model_class(model_class.config_class.from_dict(config))


def family(name: str) -> Family:
    """What the table says of one class."""
    tied, untied = (asked(small_config(name, flag)) for flag in (True, False))
    if tied["kinds"] != untied["kinds"] or untied["tied"]:
        raise ValueError(f"{name}: tying changes more than names that repeat the embedding")
    config_class = getattr(transformers, name).config_class
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    fixed, free = _keys(name)
    return {
        "model_type": config_class.model_type,
        "prefix": tied["prefix"],
        "embedding": _embedding(name),
        "vocabulary": "vocab_size",
        **{
            word: next(key for key in keys if key in defaults)
            for word, keys in {
                "hidden": ("hidden_size", "n_embd"),
                "layers": ("num_hidden_layers", "n_layer"),
                "heads": ("num_attention_heads", "n_head"),
            }.items()
        },
        "pad": defaults["pad_token_id"],
        "ties": defaults["tie_word_embeddings"],
        "tied": tied["tied"],
        "token_tensors": sorted(token_axes(Checkpoint("asked", Path(), small_config(name, False), {}, ()))["axes"]),
        "kinds": _patterns(name, tied["kinds"]),
        "buffers": BUFFERS.get(name, []),
        "fixed": fixed,
        "free": free,
    }


def _embedding(name: str) -> str:
    model = meta_model(small_config(name, tied=False))
    weight = model.get_input_embeddings().weight
    return next(path for path, parameter in model.named_parameters() if parameter is weight)


def _patterns(name: str, kinds: dict[str, str]) -> dict[str, str]:
    patterns = {re.sub(r"\.\d+\.", ".*.", path, count=1): kind for path, kind in kinds.items()}
    layered = {path: kind for path, kind in patterns.items() if "*" in path}
    expanded = {path.replace("*", str(layer)): kind for path, kind in layered.items() for layer in range(2)}
    if expanded | {path: kind for path, kind in patterns.items() if "*" not in path} != kinds:
        raise ValueError(f"{name}: its layers are not alike")
    return patterns


def _keys(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys that must keep their default, and the rules of the others."""
    fixed, free = dict(COMMON_FIXED), dict(COMMON_FREE)
    config_class = getattr(transformers, name).config_class
    own = {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    for field in dataclasses.fields(config_class):
        if field.name in own:
            continue
        rule = _rule(name, field)
        if rule:
            free[field.name] = rule
        elif field.default is None or isinstance(field.default, bool | int | float | str):
            fixed[field.name] = field.default
    if "rope_parameters" in free:
        free |= {"rope_scaling": f"{_rope(name)}|null", "rope_theta": "theta"}
        if _rope(name) == "rope":
            fixed["partial_rotary_factor"] = 1.0
        else:
            free["partial_rotary_factor"] = "share"
    more_fixed, more_free = LEGACY.get(name, ({}, {}))
    return fixed | more_fixed, free | more_free


def _rope(name: str) -> str:
    """The rule for one rotary embedding: Phi-3 knows no other types, some classes turn part of each head."""
    if name == "Phi3ForCausalLM":
        return "plain-rope"
    rope = getattr(transformers, name).config_class().rope_parameters
    return "rope" if name in NESTED_ROPE or rope.get("partial_rotary_factor", 1.0) == 1.0 else "partial-rope"


SPECIAL = {
    "layer_types": "layers|null", "no_rope_layers": "bits|null", "use_cache": "flag", "tie_word_embeddings": "flag",
    **dict.fromkeys(("activation_function", "hidden_act", "hidden_activation"), "activation"),
}  # fmt: skip


def _rule(name: str, field: dataclasses.Field) -> str | None:
    """What the key may say, from its type; None for what must keep its default."""
    key, annotation = field.name, field.type
    if key == "rope_parameters":
        return "ropes|null" if name in NESTED_ROPE else f"{_rope(name)}|null"
    if key in SPECIAL:
        return SPECIAL[key]
    is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    options = list(typing.get_args(annotation)) if is_union else [annotation]
    # A probability or an epsilon is refused, or makes no sense, outside 0 to 1; other numbers only multiply.
    narrow = any(part in key for part in ("drop", "eps", "range"))
    words: dict[Any, str] = {
        types.NoneType: "null",
        int: "whole" if key.endswith("_token_id") else "size" if float not in options else "bit" if narrow else "whole",
        float: "unit" if narrow else "real",
        list[int]: "wholes",
    }
    if not all(option in words for option in options):
        return None
    # A class may declare null and yet compute with the value, unless null is its default; ids are not computed with.
    if field.default is not None and not key.endswith("_token_id"):
        options = [option for option in options if option is not types.NoneType]
    return "|".join(sorted(words[option] for option in options))


if __name__ == "__main__":
    TABLE.write_text(text_of(table()), encoding="utf-8")
