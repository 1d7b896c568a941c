"""Values of a method's parameters that may differ from tensor to tensor: mergekit's gradients and filters.

A setting is a scalar; a gradient, a list of scalars between which layers are interpolated (switches and words: in
steps); or a list of `{filter, value}`, of which the first counts whose filter is part of the tensor's name (none or
`*`: every name).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Scalar = float | int | bool | str
Setting = Any
"""A scalar, a gradient, or a list of filtered ones, as plain values that JSON holds."""

_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")
FILTER, VALUE = "filter", "value"


def layer_number(name: str) -> int | None:
    """The layer that a tensor belongs to: the first number in its name."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def places(names: Sequence[str]) -> dict[str, float]:
    """Where each tensor stands between the first layer (0) and the last (1); what belongs to no layer stands first."""
    layers = {name: layer_number(name) for name in names}
    last = max((layer for layer in layers.values() if layer is not None), default=0)
    return {
        name: 0.0 if layer is None else (layer / last if last else 1.0) for name, layer in layers.items()
    }  # fmt: skip


def scalars(setting: Setting) -> Iterator[Any]:
    """Every value in a setting. Raises ValueError for what is no setting."""
    if isinstance(setting, Mapping):
        if unknown := sorted(set(setting) - {FILTER, VALUE}):
            raise ValueError(f"expected `filter` and `value`, found `{unknown[0]}`")
        if VALUE not in setting:
            raise ValueError("expected a `value` beside the `filter`")
        if not isinstance(setting.get(FILTER, None), str | None):
            raise ValueError("expected text, part of the tensors' names, as `filter`")
        yield from scalars(setting[VALUE])
    elif isinstance(setting, list | tuple):
        if not setting:
            raise ValueError("expected at least one value")
        if len({isinstance(one, Mapping) for one in setting}) > 1:
            raise ValueError("expected values, or `{filter, value}` only")
        for one in setting:
            yield from scalars(one)
    else:
        yield setting


def by_names(setting: Setting) -> Setting:
    """A list of texts as filters that say true of every tensor whose name has one in it; anything else as it is."""
    if isinstance(setting, list | tuple) and setting and all(isinstance(one, str) and one for one in setting):
        return [{FILTER: one, VALUE: True} for one in setting]
    return setting


def resolve(setting: Setting, name: str, place: float) -> Scalar | None:
    """The value for one tensor, `place` of the way from the first layer to the last; None where no filter matches."""
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list | tuple):
        return setting  # type: ignore[no-any-return]
    if isinstance(setting[0], Mapping):
        wanted = (one for one in setting if one.get(FILTER) in (None, "*") or one[FILTER] in name)
        found = next(wanted, None)
        return None if found is None else resolve(found[VALUE], name, place)
    return _between(setting, place)


def _between(values: Sequence[Scalar], place: float) -> Scalar:
    scaled = place * (len(values) - 1)
    below = int(scaled)
    if any(isinstance(value, bool | str) for value in values):
        return values[below]
    above, part = min(len(values) - 1, below + 1), scaled - below
    return (1.0 - part) * float(values[below]) + part * float(values[above])
