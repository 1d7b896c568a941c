"""The CPU backend: the compiled loops on mapped bytes. A lane is a thread; lanes work on tensors of their own."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    def measure(self, model: int) -> ColumnSums:
        """Pass 1 of one model against the base."""
        from widen.kernels.measure import measure_matrix

        geometry, other = self.geometry, self.models[model]
        sums = np.zeros((geometry.batch, 3, geometry.columns))
        largest = np.zeros(geometry.columns)
        changed = zeros = 0
        for index in range(geometry.batch):
            ours, theirs = _matrix(self.base, geometry, index), _matrix(other, geometry, index)
            counts = measure_matrix(ours, theirs, geometry.transposed, sums[index], largest)
            changed, zeros = changed + int(counts[0]), zeros + int(counts[1])
        a, p, q = np.ascontiguousarray(sums.transpose(1, 0, 2))
        return ColumnSums(a, p, q, changed, zeros, float(largest.max(initial=0.0)))

    def combine(self, weights: NDArray[np.float64], out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2: the merged bits in storage order; a block is good until the next one is asked for."""
        from widen.kernels.combine import combine_rows

        geometry, by_row = self.geometry, self.geometry.transposed
        out = np.empty(min(BLOCK_ELEMENTS, geometry.elements), out_type.bits)
        for block in geometry.row_blocks(BLOCK_ELEMENTS):
            sides = (
                _matrix(one, geometry, block.index)[block.rows, block.columns] for one in (self.base, *self.models)
            )
            base, *models = sides
            span = block.rows if by_row else block.columns
            merged = out[: block.elements]
            bits = as_kernel_array(merged, out_type).reshape(base.shape)
            combine_rows(base, tuple(models), weights[:, block.index, span], by_row, bits)
            yield merged


def _matrix(tensor: StoredTensor, geometry: Geometry, index: int) -> NDArray[np.integer]:
    return as_kernel_array(tensor.matrix(geometry, index), tensor.kind)
