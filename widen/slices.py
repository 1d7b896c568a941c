"""Layers stacked anew: which layer of which model stands where in the output, as mergekit's `slices` and `modules` say.

A stack is what a model numbers: the tensors `PREFIX.N.REST` with the first number N of their name. Slices fill a stack
of the output from below. A tensor outside of every stack is merged from the sources of the first slice if it comes
before the layers (an embedding), else from those of the last.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from widen.architecture import Architecture
from widen.checkpoint import Checkpoint, Side
from widen.errors import RecipeError
from widen.parameters import Setting

_NUMBERED = re.compile(r"(.*?(?:^|\.))(\d+)(\..*)$")
NO_LAYER = 0.0
"""Where gradients are asked for tensors outside the layers."""


@dataclass(frozen=True)
class SliceSource:
    """Layers of one model, `first` up to but not including `last`, all where that is None; `parameters` are its own."""

    model: str
    first: int = 0
    last: int | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """As many layers of the output as each of its sources has, merged from them layer by layer.

    parameters: of the slice, before those of the whole merge. base: the model that deltas are taken from here. module:
    the beginning of the names of the stack's tensors, empty in a model with one stack.
    """

    sources: tuple[SliceSource, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    base: str | None = None
    module: str = ""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Slice":
        """From its JSON value, as `Settings.slices` has it. Raises RecipeError for what is none."""
        try:
            sources = tuple(_source(**one) for one in content["sources"])
            if not sources:
                raise ValueError("no source")
            rest = {key: content[key] for key in content.keys() - {"sources"}}
            return cls(sources, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"a slice needs `sources` with `model` and `layers`, found {content!r}") from error


def _source(
    model: str, layers: Sequence[int] | None = None, parameters: Mapping[str, Setting] | None = None
) -> SliceSource:
    if layers is not None and not all(type(one) is int for one in layers):
        raise ValueError("layers are whole numbers")
    first, last = layers if layers is not None else (0, None)
    return SliceSource(model, first, last, parameters or {})


@dataclass(frozen=True)
class Placed:
    """One tensor of the output: its name, what it is merged from, base first, and where its parameters come from.

    place: how far through its slice the layer stands, for gradients.
    """

    name: str
    sides: tuple[Side, ...]
    owns: tuple[Mapping[str, Setting], ...]
    shared: Mapping[str, Setting]
    place: float


@dataclass(frozen=True)
class Stack:
    """Layers of the output: the stack's prefix, and for each layer the first source's checkpoint and layer."""

    prefix: str
    depth_before: int
    layers: tuple[tuple[Checkpoint, int], ...]


@dataclass(frozen=True)
class Stacking:
    """The slices of a merge, resolved against its checkpoints, of which the first is the base where none is named."""

    slices: tuple[Slice, ...]
    checkpoints: tuple[Checkpoint, ...]
    origin: bool

    def stacks(self) -> list[Stack]:
        """Every stack of the output. Raises RecipeError for layers that are not there."""
        return [self._stack(module) for module in dict.fromkeys(one.module for one in self.slices)]

    def tensors(self, architecture: Architecture) -> Iterator[Placed]:
        """Every tensor of the output that is merged, in no order. Tied ones are left out."""
        stacks = {module: self._stack(module) for module in dict.fromkeys(one.module for one in self.slices)}
        for module, stack in stacks.items():
            done = 0
            for number, one in enumerate(self.slices):
                if one.module == module:
                    yield from self._layers(number, one, stack.prefix, done)
                    done += len(self._ranges(number, one)[0])
        yield from self._outside(architecture, {stack.prefix: module for module, stack in stacks.items()})

    def _stack(self, module: str) -> Stack:
        own = [(number, one) for number, one in enumerate(self.slices) if one.module == module]
        prefix, depth = _stack_of(self._named(own[0][1].sources[0].model), module)
        layers: list[tuple[Checkpoint, int]] = []
        for number, one in own:
            first = self._named(one.sources[0].model)
            layers += [(first, layer) for layer in self._ranges(number, one)[0]]
        base_depth = dict(_stacks(self.checkpoints[0])).get(prefix, depth)
        return Stack(prefix, base_depth, tuple(layers))

    def _layers(self, number: int, one: Slice, prefix: str, done: int) -> Iterator[Placed]:
        order, ranges = self._order(number, one), self._ranges(number, one)
        count = len(ranges[0])
        for offset in range(count):
            place = offset / (count - 1) if count > 1 else 1.0
            at = {one.sources[k].model: f"{prefix}{ranges[k][offset]}." for k in range(len(ranges))}
            layers = [Side(self._named(source.model), at[source.model]) for source in order]
            for rest in sorted({name.removeprefix(start) for checkpoint, start in layers
                                for name in checkpoint.tensors if name.startswith(start)}):  # fmt: skip
                sides = tuple(Side(checkpoint, start + rest) for checkpoint, start in layers)
                yield self._placed(f"{prefix}{done + offset}.{rest}", sides, order, one, place)

    def _outside(self, architecture: Architecture, modules: Mapping[str, str]) -> Iterator[Placed]:
        """What no stack of `modules`, by prefix, numbers."""
        base = self.checkpoints[0]
        for name in base.tensors:
            if (name.startswith(tuple(modules)) and _NUMBERED.match(name)) or architecture.is_tied(name):
                continue
            mates = self._mates(name, modules)
            number = mates[0 if _is_before_layers(name, base, architecture) else -1]
            one, order = self.slices[number], self._order(number, self.slices[number])
            sides = tuple(Side(self._named(source.model), name) for source in order)
            yield self._placed(name, sides, order, one, NO_LAYER)

    def _mates(self, name: str, modules: Mapping[str, str]) -> list[int]:
        """The slices that a tensor outside the layers goes by: those of the stack that it stands beside, else all."""
        beside = next((module for prefix, module in modules.items() if name.startswith(_parent(prefix))), None)
        own = [number for number, one in enumerate(self.slices) if len(modules) > 1 and one.module == beside]
        return own or list(range(len(self.slices)))

    def _placed(
        self, name: str, sides: tuple[Side, ...], order: Sequence[SliceSource], one: Slice, place: float
    ) -> Placed:
        owns = tuple(source.parameters for source in (order[1:] if self.origin else order))
        return Placed(name, sides, owns, one.parameters, place)

    def _order(self, number: int, one: Slice) -> tuple[SliceSource, ...]:
        """The slice's sources, the base first. Raises RecipeError where deltas are merged and it is not there."""
        names = [source.model for source in one.sources]
        base = one.base or self.checkpoints[0].name
        if len(set(names)) < len(names):
            raise RecipeError(f"slice {number + 1}: expected each model once in its sources, found {', '.join(names)}")
        if self.origin and base not in names:
            raise RecipeError(
                f"slice {number + 1}: its sources lack the base {base}, and the method merges what changed since it; "
                "add the base with its layer_range"
            )
        return tuple(sorted(one.sources, key=lambda source: source.model != base))

    def _ranges(self, number: int, one: Slice) -> list[range]:
        """The layers of every source. Raises RecipeError where they are not there or not equally many."""
        found = [self._range(number, one, source) for source in one.sources]
        if len({len(layers) for layers in found}) > 1:
            counted = zip(found, one.sources, strict=True)
            told = ", ".join(f"{len(layers)} of {source.model}" for layers, source in counted)
            raise RecipeError(f"slice {number + 1}: expected as many layers of every source, found {told}")
        return found

    def _range(self, number: int, one: Slice, source: SliceSource) -> range:
        _, depth = _stack_of(self._named(source.model), one.module)
        last = depth if source.last is None else source.last
        if not 0 <= source.first < last <= depth:
            raise RecipeError(
                f"slice {number + 1}: {source.model} has {depth} layers, found the layer_range "
                f"[{source.first}, {last}]; expected 0 <= first < last <= {depth}"
            )
        return range(source.first, last)

    def _named(self, name: str) -> Checkpoint:
        found = next((one for one in self.checkpoints if one.name == name), None)
        if found is None:
            known = ", ".join(one.name for one in self.checkpoints)
            raise RecipeError(f"a slice names the model {name}; expected one of {known}")
        return found


def _stacks(checkpoint: Checkpoint) -> Sequence[tuple[str, int]]:
    """The prefix and depth of what a checkpoint numbers, in order of name."""
    return _numbered(tuple(checkpoint.tensors))


@lru_cache(maxsize=64)
def _numbered(names: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    depths: dict[str, int] = {}
    for name in names:
        if numbered := _NUMBERED.match(name):
            prefix, number = numbered.group(1), int(numbered.group(2))
            depths[prefix] = max(depths.get(prefix, 0), number + 1)
    return tuple(sorted(depths.items()))


def _stack_of(checkpoint: Checkpoint, module: str) -> tuple[str, int]:
    """The one stack of a module. Raises RecipeError where there is none, or more than one."""
    every = _stacks(checkpoint)
    found = [(prefix, depth) for prefix, depth in every if f".{prefix}".find(f".{module}.") >= 0] if module else every
    if len(found) != 1:
        known = ", ".join(prefix.removesuffix(".") for prefix, _ in every) or "none"
        what = f"a stack of layers under the module {module}" if module else "one stack of layers"
        raise RecipeError(
            f"{checkpoint.name}: expected {what}, found {len(found) or 'none'}; its stacks: {known}. Name each under "
            "`modules`, by a part of that name"
        )
    return found[0]


def _parent(prefix: str) -> str:
    """`model.encoder.` of `model.encoder.layers.`."""
    return prefix.removesuffix(".").rpartition(".")[0] + "."


def _is_before_layers(name: str, checkpoint: Checkpoint, architecture: Architecture) -> bool:
    """Embeddings and what stands with them; GPT-NeoX's `embed_out` is a head."""
    if architecture.kind_of(name, checkpoint.tensors[name].shape) == "embedding":
        return True
    return "embed" in name and "embed_out" not in name
