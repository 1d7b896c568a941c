"""The CPU backend: the compiled loops on mapped bytes. A lane is a thread; lanes work on tensors of their own."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from widen.combination import Combination, Elected, Weighted
from widen.dtypes import StorageType
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.kernels.bits import as_kernel_array

BLOCK_ELEMENTS = 1 << 18
NOTHING = np.empty(0)


class CpuBackend:
    """Both passes on the processors, one tensor a lane. The bits do not depend on the number of lanes."""

    name = "cpu"

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def resident(
        self, base: StoredTensor, models: Sequence[StoredTensor], geometry: Geometry
    ) -> AbstractContextManager["CpuResident"]:
        """Mapped bytes need no move."""
        return nullcontext(CpuResident(base, models, geometry))

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True)
class CpuResident:
    """One tensor of the base and of every model, in the page cache."""

    base: StoredTensor
    models: Sequence[StoredTensor]
    geometry: Geometry

    def measure(self, model: int, against: int | None = None) -> ColumnSums:
        """Pass 1 of one model against the base, or against another model."""
        from widen.kernels.measure import measure_matrix

        geometry, other = self.geometry, self.models[model]
        origin = self.base if against is None else self.models[against]
        sums = np.zeros((geometry.batch, 3, geometry.columns))
        largest = np.zeros(geometry.columns)
        changed = zeros = 0
        for index in range(geometry.batch):
            ours, theirs = _matrix(origin, geometry, index), _matrix(other, geometry, index)
            counts = measure_matrix(ours, theirs, geometry.transposed, sums[index], largest)
            changed, zeros = changed + int(counts[0]), zeros + int(counts[1])
        a, p, q = np.ascontiguousarray(sums.transpose(1, 0, 2))
        return ColumnSums(a, p, q, changed, zeros, float(largest.max(initial=0.0)))

    def combine(self, combination: Combination, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2: the merged bits in storage order; a block is good until the next one is asked for."""
        if isinstance(combination, Weighted):
            return self._weigh(combination, out_type)
        return self._elect(combination, out_type)

    def _elect(self, combination: Elected, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        from widen.kernels.elect import combine_kept, rule_of
        from widen.kernels.elements import Elements, flat

        base, models, columns = flat(self.base), [flat(model) for model in self.models], self.geometry.stored_columns
        elements = Elements(self.base, self.models, self.geometry)
        votes = combination.consensus, combination.equal_votes, combination.normalize
        weights = np.array([one.weight for one in combination.models])
        step = max(1, BLOCK_ELEMENTS // max(1, columns)) * max(1, columns)  # whole rows
        out = np.empty(min(step, base.size), out_type.bits)
        for start in range(0, base.size, step):
            ours, *theirs = (one[start : start + step] for one in (base, *models))
            rules = [rule_of(kept, ours, one, columns) for kept, one in zip(combination.models, theirs, strict=True)]
            chosen, merged = elements.chosen(start, ours.size, combination.varied), out[: ours.size]
            bits = as_kernel_array(merged, out_type)
            combine_kept(ours, tuple(theirs), start, tuple(rules), weights, chosen, votes, combination.scale, bits)
            yield merged

    def _weigh(self, combination: Weighted, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        from widen.kernels.combine import combine_rows, grow_rows

        geometry, weights = self.geometry.by(combination.lines), combination.weights
        by_row, growth = geometry.transposed, combination.growth
        out = np.empty(min(BLOCK_ELEMENTS, geometry.elements), out_type.bits)
        for block in geometry.row_blocks(BLOCK_ELEMENTS):
            sides = (
                _matrix(one, geometry, block.index)[block.rows, block.columns] for one in (self.base, *self.models)
            )
            base, *models = sides
            span = block.rows if by_row else block.columns
            merged = out[: block.elements]
            bits = as_kernel_array(merged, out_type).reshape(base.shape)
            grown = NOTHING if growth is None else growth[block.index, span]
            if models:
                combine_rows(base, tuple(models), weights[:, block.index, span], grown, by_row, bits)
            else:
                grow_rows(base, grown, by_row, bits)
            yield merged


def _matrix(tensor: StoredTensor, geometry: Geometry, index: int) -> NDArray[np.integer]:
    return as_kernel_array(tensor.matrix(geometry, index), tensor.kind)
