"""Layers by modules: what each model changed, and whose weight won, as tables of shaded cells."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TypeVar

from registry.report.values import ModelChange, Standing, TensorChange
from registry.report.words import percent, small

Item = TypeVar("Item")
ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Where a module stands among the columns; others follow, normalisations last."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a longer title, how strong it is shaded (0 to 1), and whose colour (a model's place)."""

    text: str
    title: str
    shade: float
    owner: int | None = None


@dataclass(frozen=True)
class Grid:
    """A table: a row a layer (or a tensor outside the layers), a column a module; None where there is no tensor."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


@dataclass(frozen=True)
class Share:
    """One model in one layer: its mean score and the shares of columns, averaged over all columns of the layer."""

    model: str
    mean_score: float
    share_above: float | None
    share_won: float


def module_of(tensor: str, layer: str) -> str:
    """The tensor's name inside its layer, numbers of experts and the like as *, `weight` left away."""
    inside = tensor.removeprefix(f"{layer}.") if layer else tensor
    return _NUMBER.sub("*", inside).removesuffix(".weight")


def layer_label(layer: str) -> str:
    """A layer's number, with its stack where it is not the decoder's."""
    stack, _, number = layer.rpartition(".")
    return number if stack in ("model.layers", "transformer.h", "layers") else f"{stack}.{number}"


def change_grids(change: ModelChange, others: Sequence[ModelChange]) -> tuple[tuple[Grid, Grid], tuple[Grid, Grid]]:
    """(relative change, direction change), each as (layers, outside of layers), shaded as in all `others`."""
    return (
        _grids(change.tensors, lambda one: one.relative, _shade(others, lambda one: one.relative)),
        _grids(change.tensors, lambda one: one.direction, _shade(others, lambda one: one.direction)),
    )


def _shade(changes: Sequence[ModelChange], figure: Callable[[TensorChange], float | None]) -> Callable[[float], float]:
    """Equal steps of shade for equal factors, over everything that is drawn; zero is not shaded."""
    held = [value for change in changes for one in change.tensors if (value := figure(one)) and value > 0]
    low, high = (log10(min(held)), log10(max(held))) if held else (0.0, 0.0)
    width = max(high - low, 1e-9)
    return lambda value: 0.0 if value <= 0 else round(0.08 + 0.92 * (log10(value) - low) / width, 3)


def _grids(
    tensors: Sequence[TensorChange], figure: Callable[[TensorChange], float | None], shade: Callable[[float], float]
) -> tuple[Grid, Grid]:
    def cell(held: Sequence[TensorChange]) -> Cell:
        values = [(figure(one), one.elements) for one in held]
        if any(value is None for value, _ in values):
            return Cell("∞", "changed from zero", 1.0)
        size = sum(elements for _, elements in values) or 1
        mean = sum((value or 0.0) * elements for value, elements in values) / size
        changed = sum(one.changed for one in held)
        name = held[0].tensor if len(held) == 1 else f"mean of {len(held)} tensors like {held[0].tensor}"
        return Cell(small(mean), f"{name}: {mean:.4g}, {changed:,} of {size:,} elements changed", shade(mean))

    return grids(((one.layer, one.tensor, one) for one in tensors), cell)


def grids(entries: Iterable[tuple[str, str, Item]], cell: Callable[[Sequence[Item]], Cell]) -> tuple[Grid, Grid]:
    """Cells from (layer, tensor, item): a grid of the layers, and one of what lies outside of them."""
    inside: dict[str, dict[str, list[Item]]] = {}
    outside: dict[str, list[Item]] = {}
    modules: dict[str, None] = {}
    for layer, tensor, item in entries:
        module = module_of(tensor, layer)
        if layer:
            modules[module] = None
            inside.setdefault(layer, {}).setdefault(module, []).append(item)
        else:
            outside.setdefault(module, []).append(item)
    modules = dict.fromkeys(sorted(modules, key=_place))
    rows = tuple(
        (layer_label(layer), tuple(cell(held[module]) if module in held else None for module in modules))
        for layer, held in sorted(inside.items(), key=lambda one: _natural(one[0]))
    )
    names = _shortened(modules)
    flat = (tuple(outside), tuple(cell(held) for held in outside.values()))
    return Grid(tuple(names[module] for module in modules), rows), Grid(flat[0], (("", flat[1]),) if flat[0] else ())


def _place(module: str) -> tuple[int, str]:
    known = [place for place, name in enumerate(ORDER) if module.rpartition(".")[2] == name]
    return (known[0] if known else len(ORDER) + ("norm" in module)), module


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in name.split(".")]


def _shortened(modules: Iterable[str]) -> dict[str, str]:
    """The last part of each name where that is unique, else the whole name."""
    last = {module: module.rpartition(".")[2] for module in modules}
    held = list(last.values())
    return {module: part if held.count(part) == 1 else module for module, part in last.items()}


def winner_grids(standings: Sequence[Standing], models: Sequence[str]) -> tuple[Grid, Grid]:
    """Whose weight is above the others' in most columns of each tensor: the model's letter and that share."""
    by_tensor: dict[str, list[Standing]] = {}
    for one in standings:
        by_tensor.setdefault(one.tensor, []).append(one)

    def cell(held: Sequence[Sequence[Standing]]) -> Cell:
        shares = _shares([one for rows in held for one in rows])
        told = "; ".join(
            f"{one.model}: won {percent(one.share_won)}, mean score {one.mean_score:.3f}" for one in shares
        )
        best = max(shares, key=lambda one: one.share_won)
        if [one.share_won for one in shares].count(best.share_won) > 1 or best.share_won == 0:
            return Cell("=", told, 0.0)
        place = models.index(best.model)
        return Cell(f"{letter(place)} {percent(best.share_won)}", told, round(best.share_won, 3), place)

    return grids(((rows[0].layer, tensor, rows) for tensor, rows in by_tensor.items()), cell)


def letter(place: int) -> str:
    """A, B, C ... for the models in recipe order."""
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def shares_by_layer(standings: Sequence[Standing]) -> tuple[tuple[str, tuple[Share, ...]], ...]:
    """Every layer's shares, then those outside of the layers; the last row is the whole network."""
    layers: dict[str, list[Standing]] = {}
    for one in standings:
        layers.setdefault(one.layer, []).append(one)
    rows = [(layer_label(name), _shares(held)) for name, held in sorted(layers.items(), key=_by_layer) if name]
    if "" in layers:
        rows.append(("outside the layers", _shares(layers[""])))
    return (*rows, ("whole network", _shares(standings))) if standings else ()


def _by_layer(entry: tuple[str, list[Standing]]) -> list[tuple[int, int | str]]:
    return _natural(entry[0])


def _shares(standings: Sequence[Standing]) -> tuple[Share, ...]:
    held: dict[str, list[Standing]] = {}
    for one in standings:
        held.setdefault(one.model, []).append(one)
    return tuple(_share(model, rows) for model, rows in held.items())


def _share(model: str, rows: Sequence[Standing]) -> Share:
    columns = sum(one.columns for one in rows) or 1
    weighted: Mapping[str, float] = {
        name: sum(getattr(one, name) * one.columns for one in rows) / columns for name in ("mean_score", "share_won")
    }
    above = None
    if all(one.share_above is not None for one in rows):
        above = sum((one.share_above or 0.0) * one.columns for one in rows) / columns
    return Share(model, weighted["mean_score"], above, weighted["share_won"])
