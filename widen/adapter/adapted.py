"""A LoRA adapter on a base: which tensors it changes, and their values, as PEFT's `merge_and_unload` has them.

LoRA (arXiv 2106.09685): W + scale * B A. DoRA (arXiv 2402.09353, eq. 5): m * (W + scale * B A) / ||W + scale * B A||,
the norm of each output. All in float64: a product's sum runs over the rank from first to last, a norm's over its line
from first to last; the result is rounded to float32 once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.adapter.config import LoraConfig
from widen.adapter.parts import Module, Parts
from widen.architecture import Architecture
from widen.checkpoint import Checkpoint, Side
from widen.errors import InputsRefused
from widen.headers import TensorEntry
from widen.known_architectures import spellings

BLOCK_ELEMENTS = 1 << 20

Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, opened: its tensors' names and its configuration have been read."""

    checkpoint: Checkpoint
    config: LoraConfig
    parts: Parts

    @classmethod
    def open(cls, folder: Path | str, name: str | None = None) -> "Adapter":
        """Of a folder with adapter_config.json and adapter_model.safetensors. Raises InputsRefused as `of` does."""
        checkpoint = Checkpoint.open(folder, name)
        if not checkpoint.is_adapter:
            raise InputsRefused(f"{checkpoint.name}: {folder} is a model; expected an adapter's folder")
        return cls.of(checkpoint)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Adapter":
        """Raises InputsRefused, naming key or tensor, for what cannot be merged exactly as PEFT would."""
        return cls(checkpoint, LoraConfig.of(checkpoint.name, checkpoint.config), Parts.of(checkpoint))

    def on(self, base: Checkpoint, architectures: Path | None = None) -> "Adapted":
        """The adapter on a base. architectures: where descriptions of those are kept. Raises InputsRefused."""
        return Adapted(self, base, Architecture.of(base, architectures))

    def names(self, base: Checkpoint) -> tuple[str, ...]:
        """The base's tensors that it changes, sorted."""
        return tuple(sorted(self.on(base).changes))

    def tensor(self, base: Checkpoint, name: str) -> Singles:
        """One of them with the adapter on it, in the base's shape."""
        pieces = list(self.on(base).pieces(name))
        return np.concatenate(pieces).reshape(base.tensors[name].shape)


@dataclass(frozen=True)
class Change:
    """What becomes of one tensor of the base: `on` is the tensor that counts as it was, the base's or a saved one.

    module: whose product is added, None where the saved tensor is all; transposed: whether its outputs are columns.
    """

    on: Side
    module: Module | None = None
    is_bias: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class Adapted:
    """An adapter on a base."""

    adapter: Adapter
    base: Checkpoint
    architecture: Architecture

    @cached_property
    def changes(self) -> dict[str, Change]:
        """By the base's name for each tensor. Raises InputsRefused for what names or fits nothing in the base."""
        found: dict[str, Change] = {}
        for name, stored in self.adapter.parts.saved.items():
            target = self._target(name, stored)
            self._require_shape(target, stored, self.base.tensors[target].shape)
            found[target] = Change(Side(self.adapter.checkpoint, stored))
        for module in self.adapter.parts.modules.values():
            target = self._target(f"{module.name}.weight", module.parts["A"])
            found[target] = self._product(target, module, found.get(target))
            if "bias" in module.parts:
                bias = self._target(f"{module.name}.bias", module.parts["bias"])
                self._require_shape(bias, module.parts["bias"], self.base.tensors[bias].shape)
                before = found.get(bias, Change(Side(self.base, bias)))
                found[bias] = replace(before, module=module, is_bias=True)
        return found

    @property
    def computed(self) -> tuple[str, ...]:
        """The tensors whose values are no input's, sorted; the others are whole tensors of the adapter."""
        return tuple(sorted(name for name, one in self.changes.items() if one.module is not None))

    @property
    def saved(self) -> dict[str, TensorEntry]:
        """Those others, as they lie in the adapter's file."""
        folder = self.adapter.checkpoint.folder.absolute()
        whole = {name: one.on for name, one in self.changes.items() if one.module is None}
        entries = {name: side.checkpoint.tensors[side.name] for name, side in whole.items()}
        return {name: replace(entry, file=str(folder / entry.file)) for name, entry in entries.items()}

    def pieces(self, name: str) -> Iterator[Singles]:
        """The values of one changed tensor in storage order, as flat float32 blocks of whole rows."""
        change = self.changes[name]
        if change.module is None:
            yield _values(change.on).astype(np.float32)
        elif change.is_bias:
            scaled = self._scale(change.module) * self._part(change.module, "bias")
            yield (_values(change.on) + scaled).astype(np.float32)
        elif "magnitude" in change.module.parts:
            yield from self._with_magnitude(change, change.module)
        else:
            for block in self._blocks(change, change.module):
                yield block.astype(np.float32).reshape(-1)

    def _with_magnitude(self, change: Change, module: Module) -> Iterator[Singles]:
        from widen.kernels.low_rank import add_column_squares, row_squares

        magnitude = self._part(module, "magnitude")
        if change.transposed:
            squares = np.zeros(magnitude.size)
            for block in self._blocks(change, module):
                add_column_squares(block, squares)
            for block in self._blocks(change, module):
                yield (_over_norm(magnitude, squares)[None, :] * block).astype(np.float32).reshape(-1)
            return
        start = 0
        for block in self._blocks(change, module):
            factor = _over_norm(magnitude[start : start + len(block)], row_squares(block))
            yield (factor[:, None] * block).astype(np.float32).reshape(-1)
            start += len(block)

    def _blocks(self, change: Change, module: Module) -> Iterator[Doubles]:
        """base + scale * product, float64, by blocks of rows."""
        from widen.kernels.bits import as_kernel_array
        from widen.kernels.low_rank import add_low_rank

        side = change.on
        rows, columns = side.checkpoint.tensors[side.name].shape
        stored = side.tensor()
        bits = as_kernel_array(stored.data, stored.kind).reshape(rows, columns)
        rank, scale = self.adapter.config.rank_of(module.name), self._scale(module)
        first, second = self._part(module, "A").reshape(rank, -1), self._part(module, "B").reshape(-1, rank)
        left, right = (first.T, second.T) if change.transposed else (second, first)
        right = np.ascontiguousarray(right)
        height = max(1, BLOCK_ELEMENTS // max(1, columns))
        for start in range(0, rows, height):
            part = bits[start : start + height]
            out = np.empty(part.shape)
            add_low_rank(part, np.ascontiguousarray(left[start : start + height]), right, scale, out)
            yield out

    def _part(self, module: Module, part: str) -> Doubles:
        return _values(Side(self.adapter.checkpoint, module.parts[part]))

    def _scale(self, module: Module) -> float:
        return self.adapter.config.scale_of(module.name)

    def _product(self, target: str, module: Module, saved: Change | None) -> Change:
        shape = self.base.tensors[target].shape
        if len(shape) != 2:
            raise self._refusal(module.parts["A"], target, f"has shape {list(shape)}; expected a matrix")
        kind = self.architecture.kind_of(target, shape)
        if module.is_embedding != (kind == "embedding"):
            raise self._refusal(module.parts["A"], target, f"is {kind} there; expected the other kind of module")
        transposed = kind != "matrix"
        outputs, inputs = shape[::-1] if transposed else shape
        rank = self.adapter.config.rank_of(module.name)
        self._require_shape(target, module.parts["A"], (rank, inputs))
        self._require_shape(target, module.parts["B"], (outputs, rank))
        self._require_magnitude(target, module, outputs)
        return Change(saved.on if saved else Side(self.base, target), module, transposed=transposed)

    def _require_magnitude(self, target: str, module: Module, outputs: int) -> None:
        has, dora = "magnitude" in module.parts, self.adapter.config.dora
        if has != dora:
            told = f"use_dora {str(dora).lower()}, and module {module.name} has {'a' if has else 'no'} magnitude vector"
            raise InputsRefused(f"{self.adapter.checkpoint.name}: adapter_config.json has {told}")
        if has:
            self._require_shape(target, module.parts["magnitude"], (outputs,))

    def _target(self, name: str, stored: str) -> str:
        for candidate in spellings(name, self.architecture.prefix):
            if candidate in self.base.tensors and not self.architecture.is_tied(candidate):
                return candidate
        tied = "; the model takes it from another tensor (tied weights)" if self.architecture.is_tied(name) else ""
        raise self._refusal(stored, name, f"is not there{tied}. Expected an adapter of this very architecture")

    def _require_shape(self, target: str, stored: str, expected: tuple[int, ...]) -> None:
        found = self.adapter.checkpoint.tensors[stored].shape
        if found != expected:
            raise self._refusal(stored, target, f"wants shape {list(expected)}, found {list(found)}")

    def _refusal(self, stored: str, target: str, told: str) -> InputsRefused:
        adapter = self.adapter.checkpoint.name
        return InputsRefused(f"{adapter}: tensor {stored} is meant for {target} of {self.base.name}, which {told}")


def _over_norm(magnitude: Doubles, squares: Doubles) -> Doubles:
    """NaN or infinite for an output without a weight, as PEFT has it: the merge refuses that by name."""
    with np.errstate(divide="ignore", invalid="ignore"):
        factor: Doubles = magnitude / np.sqrt(squares)
    return factor


def _values(side: Side) -> Doubles:
    """A stored tensor's values, flat."""
    from widen.kernels.bits import as_kernel_array
    from widen.kernels.low_rank import widened

    stored = side.tensor()
    values: Doubles = widened(as_kernel_array(stored.data, stored.kind).reshape(-1))
    return values
