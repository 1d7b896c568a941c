"""The CPU backend: the compiled loops on mapped bytes. A lane is a thread; lanes work on tensors of their own."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from widen.combination import Combination, Elected, Mark, Weighted
from widen.dtypes import StorageType
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.kernels.bits import as_kernel_array

BLOCK_ELEMENTS = 1 << 18


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

    def mark(self, model: int, rank: int) -> Mark:
        """Where `rank` elements of a model's delta, the smallest, end."""
        from widen.kernels.select import find_mark

        return find_mark(_flat(self.base), _flat(self.models[model]), rank)

    def combine(self, combination: Combination, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2: the merged bits in storage order; a block is good until the next one is asked for."""
        if isinstance(combination, Weighted):
            return self._weigh(combination, out_type)
        return self._elect(combination, out_type)

    def _elect(self, combination: Elected, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        from widen.kernels.elect import combine_kept

        base, models = _flat(self.base), tuple(_flat(model) for model in self.models)
        out, kept = np.empty(min(BLOCK_ELEMENTS, base.size), out_type.bits), combination.models
        sizes = np.array([[one.first.size, one.last.size] for one in kept])
        indices = np.array([[one.first.index, one.last.index] for one in kept], np.int64)
        shares = np.array([[one.share, one.key] for one in kept], np.uint64)
        factors, weights = np.array([one.factor for one in kept]), np.array([one.weight for one in kept])
        for start in range(0, base.size, BLOCK_ELEMENTS):
            stop = min(base.size, start + BLOCK_ELEMENTS)
            merged = out[: stop - start]
            combine_kept(
                base[start:stop], tuple(model[start:stop] for model in models), start, sizes, indices, shares,
                factors, weights, combination.consensus, combination.normalize, combination.scale,
                as_kernel_array(merged, out_type),
            )  # fmt: skip
            yield merged

    def _weigh(self, combination: Weighted, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        from widen.kernels.combine import combine_rows

        geometry, by_row, weights = self.geometry, self.geometry.transposed, combination.weights
        out = np.empty(min(BLOCK_ELEMENTS, geometry.elements), out_type.bits)
        for block in geometry.row_blocks(BLOCK_ELEMENTS):
            sides = (
                _matrix(one, geometry, block.index)[block.rows, block.columns] for one in (self.base, *self.models)
            )
            base, *models = sides
            span = block.rows if by_row else block.columns
            merged = out[: block.elements]
            bits = as_kernel_array(merged, out_type).reshape(base.shape)
            combine_rows(base, tuple(models), weights[:, block.index, span], combination.growth, by_row, bits)
            yield merged


def _flat(tensor: StoredTensor) -> NDArray[np.integer]:
    return as_kernel_array(tensor.data.reshape(-1), tensor.kind)


def _matrix(tensor: StoredTensor, geometry: Geometry, index: int) -> NDArray[np.integer]:
    return as_kernel_array(tensor.matrix(geometry, index), tensor.kind)
