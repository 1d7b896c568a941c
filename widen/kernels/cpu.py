"""The CPU backend: the compiled loops, spread over threads by blocks of columns (pass 1) or rows (pass 2)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from widen.dtypes import StorageType
from widen.geometry import Block, ColumnSums, Geometry, StoredTensor

MEASURE_COLUMNS = 1024
COMBINE_ELEMENTS = 1 << 16


class CpuBackend:
    """Runs both passes on `threads` threads. The bits it returns do not depend on their number."""

    name = "cpu"

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="widen-kernel")

    def __enter__(self) -> "CpuBackend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def measure(self, base: StoredTensor, model: StoredTensor, geometry: Geometry) -> ColumnSums:
        """Pass 1 on one tensor of one (base, model) pair."""
        sums = np.zeros((3, geometry.batch, geometry.columns))
        tasks = [
            self._pool.submit(_measure_block, base, model, geometry, index, first, sums)
            for index in range(geometry.batch)
            for first in range(0, geometry.columns, MEASURE_COLUMNS)
        ]
        counts = [task.result() for task in tasks]
        return ColumnSums(
            base=sums[0],
            product=sums[1],
            delta=sums[2],
            changed=sum(count[0] for count in counts),
            zeros=sum(count[1] for count in counts),
            largest_change=max((count[2] for count in counts), default=0.0),
        )

    def combine(
        self,
        base: StoredTensor,
        models: Sequence[StoredTensor],
        weights: NDArray[np.float64],
        geometry: Geometry,
        out_type: StorageType,
    ) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2 on one tensor: yields the merged bits block by block, in storage order.

        weights: float64 (models, batch, columns). Few blocks are in flight, so memory does not grow with the tensor.
        """
        pending: list[Future[NDArray[np.unsignedinteger]]] = []
        for block in geometry.row_blocks(COMBINE_ELEMENTS):
            pending.append(self._pool.submit(_combine_block, base, models, weights, geometry, block, out_type))
            if len(pending) > 2 * self.threads:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()


def _measure_block(
    base: StoredTensor, model: StoredTensor, geometry: Geometry, index: int, first: int, sums: NDArray[np.float64]
) -> tuple[int, int, float]:
    from widen.kernels.loops import measure_columns

    last = min(first + MEASURE_COLUMNS, geometry.columns)
    changed, zeros, largest = measure_columns(
        base.matrix(geometry, index), base.kind.code, model.matrix(geometry, index), model.kind.code,
        geometry.transposed, first, last, sums[:, index],
    )  # fmt: skip
    return int(changed), int(zeros), float(largest)


def _combine_block(
    base: StoredTensor,
    models: Sequence[StoredTensor],
    weights: NDArray[np.float64],
    geometry: Geometry,
    block: Block,
    out_type: StorageType,
) -> NDArray[np.unsignedinteger]:
    from widen.kernels.loops import add_base_and_round, add_weighted_delta

    base_rows = base.matrix(geometry, block.index)[block.rows, block.columns]
    total = np.zeros(base_rows.shape)
    weight_span = block.rows if geometry.transposed else block.columns
    for model, model_weights in zip(models, weights, strict=True):
        model_rows = model.matrix(geometry, block.index)[block.rows, block.columns]
        add_weighted_delta(
            base_rows, base.kind.code, model_rows, model.kind.code,
            model_weights[block.index, weight_span], geometry.transposed, total,
        )  # fmt: skip
    out = np.empty(base_rows.shape, out_type.bits)
    add_base_and_round(base_rows, base.kind.code, total, out_type.code, out)
    return out
