"""What is known of well-known architectures without asking transformers, whose import takes seconds.

`architectures.json` beside this file holds, for a model class, each parameter's kind and what each key of its
configuration may say; tests/widen/make_architectures.py writes it from transformers. The table answers only where
transformers would build the model and say the same: whatever it does not know is no answer, never a guess.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any, TypedDict

from widen.checkpoint import Checkpoint

TABLE = Path(__file__).with_name("architectures.json")
LARGEST = 1 << 20
"""Of a size in a configuration: no product of three leaves 64 bits, where transformers would refuse."""

ACTIVATIONS = frozenset(
    "gelu gelu_fast gelu_new gelu_python gelu_pytorch_tanh leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid "
    "silu swish tanh".split()
)
"""Without parameters of their own, unlike prelu and xielu."""

DTYPES = frozenset({"bfloat16", "float16", "float32"})
LAYER_TYPES = frozenset({"full_attention", "sliding_attention"})
ROPES: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "default": (frozenset(), frozenset()),
    "linear": (frozenset({"factor"}), frozenset()),
    "llama3": (frozenset({"factor", "low_freq_factor", "high_freq_factor"}), frozenset()),
    "yarn": (frozenset({"factor"}), frozenset({"attention_factor", "beta_fast", "beta_slow"})),
}
"""The keys that each type of rotary embedding needs, and those it may have."""


class Family(TypedDict):
    """One model class. In the names of parameters `*` stands for a layer's number.

    fixed: keys that may only say this, because another value changes modules. free: the rules, joined by `|`, of which
    the value of a key must meet one. buffers: what older versions stored beside the parameters. tied: the names that
    repeat another parameter where tie_word_embeddings is true, which `ties` says for a configuration that does not.
    token_tensors: the parameters with a token a row.
    vocabulary, hidden, layers, heads: the keys with these sizes. pad: pad_token_id where the configuration is silent.
    """

    model_type: str
    prefix: str
    embedding: str
    vocabulary: str
    hidden: str
    layers: str
    heads: str
    pad: int | None
    ties: bool
    tied: list[str]
    token_tensors: list[str]
    kinds: dict[str, str]
    buffers: list[str]
    fixed: dict[str, Any]
    free: dict[str, str]


def known_architecture(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The kinds, tied names and prefix that transformers would find, or None where that is not certain."""
    config, family = checkpoint.config, _family(checkpoint.config)
    if family is None or not _has_sizes(config, family) or not _is_plain(config, family):
        return None
    if config[family["layers"]] > len(checkpoint.tensors) or not _is_complete(checkpoint, family):
        return None
    kinds = {name: kind for pattern, kind in family["kinds"].items() for name, _ in _named(pattern, config, family)}
    tied = family["tied"] if config.get("tie_word_embeddings", family["ties"]) else []
    return {"kinds": kinds, "tied": tied, "prefix": family["prefix"]}


def known_token_tensors(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What `instantiate.token_axes` would find, or None where that is not certain."""
    known, family = known_architecture(checkpoint), _family(checkpoint.config)
    if known is None or family is None:
        return None
    rows, axes = checkpoint.config[family["vocabulary"]], dict.fromkeys(family["token_tensors"], 0)
    return {"rows": rows, "keys": [[family["vocabulary"]]], "axes": axes, "prefix": family["prefix"]}


def spellings(name: str, prefix: str) -> tuple[str, ...]:
    """A tensor's name as the head model, with the prefix `prefix`, and as the bare model have it."""
    return name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")


@cache
def known_families() -> dict[str, Family]:
    """The table, by model class."""
    table: dict[str, Family] = json.loads(TABLE.read_bytes())
    return table


def _family(config: Mapping[str, Any]) -> Family | None:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        return None
    family = known_families().get(names[0])
    return family if family is not None and config.get("model_type") == family["model_type"] else None


def _has_sizes(config: Mapping[str, Any], family: Family) -> bool:
    """Whether the sizes are there, and fit one another as the classes demand."""
    keys = (family["vocabulary"], family["hidden"], family["layers"], family["heads"])
    if not all(_is_size(config.get(key)) for key in keys):
        return False
    vocabulary, hidden, _, heads = (config[key] for key in keys)
    pad = config.get("pad_token_id", family["pad"])
    # A padding token beyond the vocabulary is refused; so is a head of odd width where all of it rotates.
    if pad is not None and not (_is_whole(pad) and 0 <= pad < vocabulary):
        return False
    each = config.get("head_dim")
    return hidden % heads == 0 and (hidden // heads) % 2 == 0 and (each is None or (_is_size(each) and each % 2 == 0))


def _is_plain(config: Mapping[str, Any], family: Family) -> bool:
    """Whether each key is one that the table knows, with a value that changes no module and that would be accepted."""
    return all(_allows(family, key, value, config[family["layers"]]) for key, value in config.items())


def _allows(family: Family, key: str, value: Any, layers: int) -> bool:
    if key in family["fixed"]:
        only = family["fixed"][key]
        return type(value) is type(only) and bool(value == only)
    rules = family["free"].get(key)
    return rules is not None and any(RULES[rule](value, layers) for rule in rules.split("|"))


def _is_complete(checkpoint: Checkpoint, family: Family) -> bool:
    """Whether every tensor is one of the model's, every layer is there, and the embedding has the said sizes."""
    config = checkpoint.config
    patterns = chain(family["kinds"], family["buffers"])
    layer_of = {name: layer for pattern in patterns for name, layer in _named(pattern, config, family)}
    shapes = {}
    for stored, entry in checkpoint.tensors.items():
        name = next((name for name in spellings(stored, family["prefix"]) if name in layer_of), None)
        if name is None:
            return False
        shapes[name] = entry.shape
    found = {layer_of[name] for name in shapes} - {None}
    sizes = (config[family["vocabulary"]], config[family["hidden"]])
    return found == set(range(config[family["layers"]])) and shapes.get(family["embedding"]) == sizes


def _named(pattern: str, config: Mapping[str, Any], family: Family) -> Iterator[tuple[str, int | None]]:
    """The names that a pattern stands for, each with its layer's number."""
    if "*" not in pattern:
        yield pattern, None
        return
    for layer in range(config[family["layers"]]):
        yield pattern.replace("*", str(layer)), layer


# Rules for values


def _is_whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 31


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


def _is_number(value: Any, above: float, most: float) -> bool:
    return type(value) in (int, float) and above < value <= most


def _is_list(value: Any, length: int, of: frozenset[Any]) -> bool:
    if not isinstance(value, list) or len(value) != length:
        return False
    return all(type(one) in (int, str) and one in of for one in value)


def _is_rope(value: Any, types: Collection[str] = ROPES.keys(), shares: bool = False) -> bool:
    """Whether it describes one rotary embedding completely, of one of the types; `shares` lets it turn part of a head.

    Over part of a head yarn would be refused where that part is odd.
    """
    if not isinstance(value, dict):
        return False
    said = [value[key] for key in ("rope_type", "type") if key in value] or ["default"]
    kind = said[0]
    if not isinstance(kind, str) or kind not in types or said[-1] != kind:
        return False
    return _has_rope_numbers({key: value[key] for key in value.keys() - {"rope_type", "type"}}, kind, shares)


def _has_rope_numbers(numbers: Mapping[str, Any], kind: str, shares: bool) -> bool:
    needed, possible = ROPES[kind]
    shared = {"rope_theta": _is_theta, "original_max_position_embeddings": _is_size}
    if shares:
        shared["partial_rotary_factor"] = _is_share
    own = {key: number for key, number in numbers.items() if key not in shared}
    if not all(shared[key](number) for key, number in numbers.items() if key in shared):
        return False
    if not needed <= own.keys() <= needed | possible or not all(_is_number(n, 0, 1e6) for n in own.values()):
        return False
    return bool(own.get("factor", 1) >= 1 and own.get("low_freq_factor", 0) < own.get("high_freq_factor", 1))


def _is_theta(value: Any) -> bool:
    return _is_number(value, 1, 1e12)


def _is_share(value: Any) -> bool:
    return _is_number(value, 0, 1)


def _are_ropes(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == LAYER_TYPES and all(_is_rope(rope) for rope in value.values())


RULES: Mapping[str, Callable[[Any, int], bool]] = {
    "null": lambda value, _: value is None,
    "flag": lambda value, _: isinstance(value, bool),
    "text": lambda value, _: isinstance(value, str),
    "list": lambda value, _: isinstance(value, list),
    "object": lambda value, _: isinstance(value, dict),
    "size": lambda value, _: _is_size(value),
    "whole": lambda value, _: _is_whole(value),
    "wholes": lambda value, _: isinstance(value, list) and all(_is_whole(one) for one in value),
    "real": lambda value, _: isinstance(value, float) and isfinite(value),
    "unit": lambda value, _: isinstance(value, float) and 0 <= value <= 1,
    "bit": lambda value, _: type(value) is int and value in (0, 1),
    "theta": lambda value, _: _is_theta(value),
    "share": lambda value, _: _is_share(value),
    "activation": lambda value, _: isinstance(value, str) and value in ACTIVATIONS,
    "dtype": lambda value, _: isinstance(value, str) and value in DTYPES,
    "layers": lambda value, layers: _is_list(value, layers, LAYER_TYPES),
    "bits": lambda value, layers: _is_list(value, layers, frozenset({0, 1})),
    "rope": lambda value, _: _is_rope(value),
    "partial-rope": lambda value, _: _is_rope(value, ROPES.keys() - {"yarn"}, shares=True),
    "plain-rope": lambda value, _: _is_rope(value, {"default"}, shares=True),
    "ropes": lambda value, _: _are_ropes(value),
}
"""Each asked with a value of the configuration and the number of layers; `|` between rules lets any of them do."""
