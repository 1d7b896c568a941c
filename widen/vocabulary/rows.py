"""The aligned tensors, a block of rows at a time: copies are the stored bits, means are float64 rounded once."""

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from widen.checkpoint import Checkpoint
from widen.dtypes import BF16, F16, F32, StorageType
from widen.errors import InputsRefused
from widen.vocabulary.alignment import MEAN_OF_ROWS, OWN_MEAN, ZERO_ROW, Alignment, Row

BLOCK_BYTES = 4_000_000
Bits = NDArray[np.unsignedinteger]


def aligned_shape(alignment: Alignment, checkpoint: Checkpoint, index: int, name: str) -> tuple[int, ...]:
    """The shape of a tensor with the alignment's rows."""
    shape, axis = checkpoint.tensors[name].shape, alignment.tensors[index].axes[name]
    return (*shape[:axis], alignment.rows, *shape[axis + 1 :])


def aligned_type(alignment: Alignment, checkpoints: Sequence[Checkpoint], index: int, name: str) -> StorageType:
    """The type of an aligned tensor: its own; float32 where a row is computed, or copied from another type."""
    fill, own = alignment.fills[index], checkpoints[index].tensors[name].kind
    donors = [int(one) for one in np.unique(fill.donors)]
    copied = all(one == ZERO_ROW or (one >= 0 and _entry_kind(checkpoints[one], name) == own) for one in donors)
    return own if copied else F32


def aligned_rows(alignment: Alignment, checkpoints: Sequence[Checkpoint], index: int, name: str) -> Iterator[Bits]:
    """The bits of checkpoint `index`'s tensor `name`, aligned: blocks of whole rows, in order, (n, elements of a row).

    Sums run row after row, so that the result is a function of the bytes alone. Raises InputsRefused where a model that
    a row comes from has no such tensor or rows of another length.
    """
    source = _Source(alignment, checkpoints, index, name)
    height = max(1, BLOCK_BYTES // max(1, source.width * source.kind.itemsize))
    for start in range(0, alignment.rows, height):
        yield source.block(slice(start, min(start + height, alignment.rows)))


def _entry_kind(checkpoint: Checkpoint, name: str) -> StorageType | None:
    return checkpoint.tensors[name].kind if name in checkpoint.tensors else None


def as_float32(bits: Bits, kind: StorageType) -> NDArray[np.float32]:
    """The stored values, exactly."""
    if kind is BF16:
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(np.float16).astype(np.float32) if kind is F16 else bits.view(np.float32)


class _Source:
    """Where the rows of one aligned tensor come from."""

    def __init__(self, alignment: Alignment, checkpoints: Sequence[Checkpoint], index: int, name: str) -> None:
        self.alignment, self.checkpoints, self.index, self.name = alignment, checkpoints, index, name
        self.kind = aligned_type(alignment, checkpoints, index, name)
        self.fill = alignment.fills[index]
        shape = checkpoints[index].tensors[name].shape
        self.width = prod(shape[alignment.tensors[index].axes[name] + 1 :])
        self._own_mean: Bits | None = None
        self._held: dict[int, Bits] = {}

    def block(self, rows: slice) -> Bits:
        """Rows of the aligned tensor."""
        donors, places = self.fill.donors[rows], self.fill.rows[rows]
        block = np.zeros((len(donors), self.width), dtype=self.kind.bits)
        for donor in np.unique(donors):
            chosen = np.flatnonzero(donors == donor)
            if donor == OWN_MEAN:
                block[chosen] = self._mean_of_own()
            elif donor == MEAN_OF_ROWS:
                for one in chosen:
                    block[one] = self._mean_of(self.alignment.means[places[one]])
            elif donor != ZERO_ROW:
                block[chosen] = self._converted(self._stored(int(donor))[places[chosen]], int(donor))
        return block

    def _stored(self, donor: int) -> Bits:
        """All rows of a checkpoint's tensor as they lie in its file, (rows, elements of a row)."""
        if donor not in self._held:  # an unaligned file would be copied each time
            self._held[donor] = self._rows_of(donor)
        return self._held[donor]

    def _rows_of(self, donor: int) -> Bits:
        checkpoint, tensors = self.checkpoints[donor], self.alignment.tensors[donor]
        entry = checkpoint.tensors.get(self.name)
        if entry is None or self.name not in tensors.axes or entry.elements != tensors.rows * self.width:
            found = "none" if entry is None else str(list(entry.shape))
            raise InputsRefused(
                f"{checkpoint.name}: {self.name}: expected {tensors.rows} rows of {self.width} elements, as "
                f"{self.checkpoints[self.index].name} has them, found {found}; use models of one architecture"
            )
        return checkpoint.tensor(self.name).data.reshape(tensors.rows, self.width)

    def _converted(self, bits: Bits, donor: int) -> Bits:
        kind = self.checkpoints[donor].tensors[self.name].kind
        return bits if kind is self.kind else as_float32(bits, kind).view(self.kind.bits)

    def _mean_of_own(self) -> Bits:
        if self._own_mean is None:
            stored, kind = self._stored(self.index), self.checkpoints[self.index].tensors[self.name].kind
            height = max(1, BLOCK_BYTES // max(1, self.width * 8))
            total = np.zeros(self.width)
            with np.errstate(all="ignore"):  # what is not finite stays so, and is refused where it is merged
                for start in range(0, len(stored), height):
                    for row in as_float32(stored[start : start + height], kind).astype(np.float64):
                        np.add(total, row, out=total)
                self._own_mean = (total / len(stored)).astype(np.float32).view(self.kind.bits)
        return self._own_mean

    def _mean_of(self, rows: Sequence[Row]) -> Bits:
        total = np.zeros(self.width)
        with np.errstate(all="ignore"):
            for donor, place in rows:
                kind = self.checkpoints[donor].tensors[self.name].kind
                np.add(total, as_float32(self._stored(donor)[place], kind), out=total)
            return (total / len(rows)).astype(np.float32).view(self.kind.bits)
