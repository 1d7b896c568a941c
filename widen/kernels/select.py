"""The element at a rank by a size, exactly and in memory of a fixed size: a radix selection.

A float64 that is not negative sorts as its bits do, so four passes over the tensor each count 16 further bits of those
elements whose higher bits are known; among equal sizes the index in storage decides, by one more pass.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

from widen.combination import BEYOND, SMALLEST, Mark

Sizes = Callable[[int, NDArray[np.float64]], None]
"""Fills an array with the sizes, float64 and not negative, of the elements from an index on."""

DIGIT = 16
LEVELS = 64 // DIGIT
PIECE = 1 << 16


def find_mark(sizes: Sizes, elements: int, rank: int) -> Mark:
    """The mark before which `rank` of so many elements stand, from the smallest size up."""
    if rank <= 0:
        return SMALLEST
    if rank >= elements:
        return BEYOND
    prefix, before = 0, rank
    for level in range(LEVELS):
        counts = np.zeros(1 << DIGIT, np.int64)
        for _, piece in pieces(sizes, elements):
            _count_digits(piece, level, np.uint64(prefix), counts)
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, before, side="right"))
        before -= int(ends[digit] - counts[digit])
        prefix = prefix << DIGIT | digit
    size = float(np.array(prefix, np.uint64).view(np.float64))
    return Mark(size, 0 if before == 0 else _index_of_equal(sizes, elements, size, before))


def pieces(sizes: Sizes, elements: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The sizes piece by piece, each with the index of its first; a piece is good until the next is asked for."""
    room = np.empty(min(PIECE, elements))
    for start in range(0, elements, PIECE):
        piece = room[: min(PIECE, elements - start)]
        sizes(start, piece)
        yield start, piece


def _index_of_equal(sizes: Sizes, elements: int, size: float, number: int) -> int:
    """The index of equal number `number`, from 0, among the elements of this size."""
    for start, piece in pieces(sizes, elements):
        found = np.flatnonzero(piece == size)
        if number < len(found):
            return start + int(found[number])
        number -= len(found)
    raise AssertionError("the counting passes have seen that element")


@njit(nogil=True, cache=True)
def _count_digits(sizes, level, prefix, counts):
    """Count digit number `level`, from the top, of the sizes whose digits above are `prefix`."""
    bits = sizes.view(np.uint64)
    shift = np.uint64(DIGIT * (LEVELS - 1 - level))
    above = np.uint64(shift + np.uint64(DIGIT))
    low = np.uint64((1 << DIGIT) - 1)
    if level == 0:
        for i in range(bits.size):
            counts[bits[i] >> shift] += 1
    else:
        for i in range(bits.size):
            if bits[i] >> above == prefix:
                counts[(bits[i] >> shift) & low] += 1
