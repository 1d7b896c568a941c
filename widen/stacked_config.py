"""The configuration of a model whose layers were stacked anew: how many there are, and what it says of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from widen.checkpoint import Checkpoint
from widen.errors import RecipeError
from widen.slices import Stack

DEPTHS = (
    "decoder_layers", "encoder_layers", "n_layer", "n_layers", "num_decoder_layers", "num_encoder_layers",
    "num_hidden_layers", "num_layers",
)  # fmt: skip
"""The keys of configurations that hold a number of layers."""
TOWERS = {"vision": ("vision", "visual"), "audio": ("audio", "speech")}
"""What in a model is no language model, by what its tensors and its section are called."""


def stacked_config(config: Mapping[str, Any], stacks: Sequence[Stack]) -> dict[str, Any]:
    """The base's configuration with the number of layers, and its lists by layer, as the stacks have them.

    Raises RecipeError where the number of layers changes and no key holds it.
    """
    made = dict(config)
    for stack in stacks:
        depths: dict[str, Any] = {}
        for path in _sections(made, stack):
            part = dict(_at(made, path))
            depths |= {key: part[key] for key in _depth_keys(part, stack)}
            part |= dict.fromkeys(_depth_keys(part, stack), len(stack.layers)) | _lists(part, stack, path)
            made = part if path == () else made | {path[0]: part}
        if not depths and len(stack.layers) != stack.depth_before:
            raise RecipeError(
                f"no key of config.json says that {stack.prefix.removesuffix('.')} has {stack.depth_before} layers, so "
                f"none can say {len(stack.layers)}; known are {', '.join(DEPTHS)}"
            )
    return made


def without_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what goes by layer, in which models of different depth may differ."""
    return {
        key: without_layers(value) if _is_nested(key, value) else value
        for key, value in config.items()
        if key not in DEPTHS and not _goes_by_layer(key, value)
    }


def _sections(config: Mapping[str, Any], stack: Stack) -> list[tuple[str, ...]]:
    """Where a configuration speaks of a stack: in its tower's section, else at the top and in sections of no tower."""
    tower = next((name for name, signs in TOWERS.items() if any(sign in stack.prefix for sign in signs)), None)
    nested = [key for key, value in config.items() if _is_nested(key, value)]
    of_towers = {key: name for key in nested for name, signs in TOWERS.items() if any(sign in key for sign in signs)}
    own: list[tuple[str, ...]] = [(key,) for key in nested if of_towers.get(key) == tower]
    return own if tower and own else [(), *own]


def _is_nested(key: str, value: Any) -> bool:
    return key.endswith("_config") and isinstance(value, Mapping)


def _goes_by_layer(key: str, value: Any) -> bool:
    return "layer" in key and isinstance(value, list)


def _at(config: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    found: Any = config
    for key in path:
        found = found.get(key, {})
    return found if isinstance(found, Mapping) else {}


def _depth_keys(part: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    """The keys that hold the stack's depth: in an encoder-decoder those of its own side, else the unnamed ones."""
    held = {key: part[key] for key in DEPTHS if part.get(key) == stack.depth_before}
    side = next((one for one in ("encoder", "decoder") if one in stack.prefix), None)
    own = {key: value for key, value in held.items() if side is not None and side in key}
    unnamed = {key: value for key, value in held.items() if "encoder" not in key and "decoder" not in key}
    return own if side == "decoder" and own else own | unnamed


def _lists(part: Mapping[str, Any], stack: Stack, path: tuple[str, ...]) -> dict[str, list[Any]]:
    listed = [key for key, value in part.items() if _goes_by_layer(key, value) and value]
    keys = [key for key in listed if len(part[key]) == stack.depth_before]
    numbers = [key for key in listed if key not in keys and all(type(one) is int for one in part[key])]
    if numbers and [layer for _, layer in stack.layers] != list(range(stack.depth_before)):
        raise RecipeError(
            f"config.json `{numbers[0]}` names layers by their numbers, {part[numbers[0]]}, which are others when "
            "layers are stacked anew; such a model cannot be sliced"
        )
    return {key: [_of_layer(_at(one.config, path), key, one, layer) for one, layer in stack.layers] for key in keys}


def _of_layer(part: Mapping[str, Any], key: str, checkpoint: Checkpoint, layer: int) -> Any:
    values = part.get(key)
    if not isinstance(values, list) or layer >= len(values):
        raise RecipeError(f"{checkpoint.name}: config.json `{key}` says nothing of layer {layer}, which a slice takes")
    return values[layer]
