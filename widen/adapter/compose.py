"""A model with an adapter on it, as the engine reads models: a view whose changed tensors lie in an overlay."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.adapter.adapted import Adapted, Adapter
from widen.checkpoint import Checkpoint
from widen.digests import digest_of
from widen.errors import InputsRefused, RecipeError
from widen.overlay import Overlays
from widen.shards import Slot

ARITHMETIC = "widen-lora/1"
"""Names the way from base and adapter to bits; another way gets another name."""
JOIN = "+"
"""Between the names of a model and its adapter."""


def composed(
    inputs: Sequence[Checkpoint], chains: Sequence[Sequence[str]], overlays: Overlays, architectures: Path | None = None
) -> list[Checkpoint]:
    """The participants of a merge: inputs as they are, and models with adapters on them.

    chains: for each participant, the base first, the name of its model and of what lies on it; without any, each input
    is one. A participant that is an adapter alone lies on the base. Raises InputsRefused for adapters that do not fit,
    RecipeError for a name that is no input's.
    """
    by_name = {one.name: one for one in inputs}
    found: list[Checkpoint] = []
    for chain in chains or [[one.name] for one in inputs]:
        if missing := [name for name in chain if name not in by_name]:
            raise RecipeError(f"{JOIN.join(chain)}: there is no input {missing[0]}; given are {', '.join(by_name)}")
        model, *adapters = (by_name[name] for name in chain)
        if model.is_adapter:
            _require_base(model, found)
            model, adapters = found[0], [model, *adapters]
        for adapter in adapters:
            model = _with(model, adapter, JOIN.join(chain), overlays, architectures)
        found.append(model)
    return found


def _require_base(adapter: Checkpoint, found: Sequence[Checkpoint]) -> None:
    if not found:
        raise InputsRefused(
            f"{adapter.name}: {adapter.folder} holds an adapter, not a model, and stands where the base is; write "
            f"it as MODEL{JOIN}{adapter.name}"
        )


def _with(
    model: Checkpoint, adapter: Checkpoint, name: str, overlays: Overlays, architectures: Path | None
) -> Checkpoint:
    if not adapter.is_adapter:
        raise InputsRefused(f"{name}: {adapter.name} is a model; expected an adapter after the `{JOIN}`")
    adapted = Adapter.of(adapter).on(model, architectures)
    slots = [Slot(one, "F32", model.tensors[one].shape) for one in adapted.computed]

    def fill(tensor: str) -> Iterator[NDArray[np.uint32]]:
        return (piece.view(np.uint32) for piece in adapted.pieces(tensor))

    written = overlays.entries(digest_of(_depends(adapted, overlays)), slots, fill) if slots else {}
    view = model.view({**model.tensors, **adapted.saved, **written})
    return replace(view, name=name, made_of=(*model.inputs, adapter))


def _depends(adapted: Adapted, overlays: Overlays) -> Mapping[str, object]:
    """All that the computed tensors are a function of."""
    adapter, base = adapted.adapter.checkpoint, adapted.base
    return {
        "arithmetic": ARITHMETIC,
        "transposed": [name for name in adapted.computed if adapted.changes[name].transposed],
        "base": {name: overlays.contents.of(base, name) for name in adapted.computed},
        "adapter": overlays.contents.all_of(adapter),
        "config": dict(adapter.config),
        "shapes": {name: list(entry.shape) for name, entry in adapter.tensors.items()},
    }
