"""How a stored tensor is read as a batch of matrices, and which of its two axes counts as columns."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from widen.combination import Lines
from widen.dtypes import StorageType


@dataclass(frozen=True)
class Block:
    """A rectangle of one matrix, contiguous in storage: whole rows, or a span of a single row."""

    index: int
    rows: slice
    columns: slice

    @property
    def elements(self) -> int:
        """How many elements it covers."""
        return int((self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start))


@dataclass(frozen=True)
class Geometry:
    """A tensor as `batch` matrices stored row by row.

    The paper's columns run along the second axis, or, when `transposed`, along the first: the tokens of an embedding,
    the inputs of a GPT-2 `Conv1D`. A vector is one row whose columns are its elements.
    """

    batch: int
    stored_rows: int
    stored_columns: int
    transposed: bool

    @classmethod
    def of(cls, shape: tuple[int, ...], transposed: bool) -> "Geometry":
        """Leading dimensions beyond the last two are a batch."""
        if len(shape) < 2:
            return cls(1, 1, prod(shape), False)
        return cls(prod(shape[:-2]), shape[-2], shape[-1], transposed)

    @property
    def columns(self) -> int:
        """How many columns, in the paper's sense, each matrix has."""
        return self.stored_rows if self.transposed else self.stored_columns

    def by(self, lines: Lines) -> "Geometry":
        """The same storage with other lines as its columns."""
        return self if lines == "columns" else replace(self, transposed=lines == "stored rows")

    @property
    def elements(self) -> int:
        """All elements of the tensor."""
        return self.batch * self.stored_rows * self.stored_columns

    def row_blocks(self, elements: int) -> Iterator[Block]:
        """Cut into blocks of about `elements` elements, in storage order."""
        width = max(1, min(self.stored_columns, elements))
        height = max(1, elements // width)
        for index in range(self.batch):
            for row in range(0, self.stored_rows, height):
                for column in range(0, self.stored_columns, width):
                    yield Block(
                        index,
                        slice(row, min(row + height, self.stored_rows)),
                        slice(column, min(column + width, self.stored_columns)),
                    )


@dataclass(frozen=True)
class StoredTensor:
    """The bits of a tensor as they lie in its file: a flat, read-only uint16 or uint32 array, and their meaning."""

    data: NDArray[np.unsignedinteger]
    kind: StorageType

    def matrix(self, geometry: Geometry, index: int) -> NDArray[np.unsignedinteger]:
        """Matrix `index` of the batch, shape (stored_rows, stored_columns), without a copy."""
        batch = self.data.reshape(geometry.batch, geometry.stored_rows, geometry.stored_columns)
        matrix: NDArray[np.unsignedinteger] = batch[index]
        return matrix


@dataclass(frozen=True)
class ColumnSums:
    """Pass 1 of one tensor of one (base, model) pair; d = model - base.

    base: sum b^2, product: sum d*b, delta: sum d^2, each float64 (batch, columns); then counts over all elements.
    """

    base: NDArray[np.float64]
    product: NDArray[np.float64]
    delta: NDArray[np.float64]
    changed: int
    zeros: int
    largest_change: float
