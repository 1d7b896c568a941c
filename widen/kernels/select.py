"""The element at a rank among a tensor's deltas by size, exactly and in memory of a fixed size: a radix selection.

A float64 that is not negative sorts as its bits do, so four passes over the tensor each count 16 further bits of those
elements whose higher bits are known; among equal sizes the index in storage decides, by one more pass.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from widen.combination import BEYOND, SMALLEST, Mark
from widen.kernels.bits import decode

DIGIT = 16
LEVELS = 64 // DIGIT
TILE = 4096


def find_mark(base: NDArray[np.integer], model: NDArray[np.integer], rank: int) -> Mark:
    """The place before which `rank` elements stand, from the smallest abs(model - base) up.

    base, model: storage bits, flat, see `bits.as_kernel_array`.
    """
    if rank <= 0:
        return SMALLEST
    if rank >= base.size:
        return BEYOND
    prefix, before = 0, rank
    for level in range(LEVELS):
        counts = np.zeros(1 << DIGIT, np.int64)
        count_digits(base, model, level, np.uint64(prefix), counts)
        ends = np.cumsum(counts)
        digit = int(np.searchsorted(ends, before, side="right"))
        before -= int(ends[digit] - counts[digit])
        prefix = prefix << DIGIT | digit
    size = float(np.array(prefix, np.uint64).view(np.float64))
    return Mark(size, 0 if before == 0 else int(index_of_equal(base, model, size, before)))


@njit(nogil=True, cache=True)
def count_digits(base, model, level, prefix, counts):
    """Count digit number `level`, from the top, of the sizes whose digits above are `prefix`."""
    sizes = np.empty(TILE)
    bits = sizes.view(np.uint64)
    shift = np.uint64(DIGIT * (LEVELS - 1 - level))
    above = np.uint64(shift + np.uint64(DIGIT))
    low = np.uint64((1 << DIGIT) - 1)
    for start in range(0, base.size, TILE):
        count = min(TILE, base.size - start)
        _sizes(base[start : start + count], model[start : start + count], sizes[:count])
        if level == 0:
            for i in range(count):
                counts[bits[i] >> shift] += 1
        else:
            for i in range(count):
                if bits[i] >> above == prefix:
                    counts[(bits[i] >> shift) & low] += 1


@njit(nogil=True, cache=True)
def index_of_equal(base, model, size, number):
    """The index of equal number `number`, from 0, among the elements of this size."""
    sizes = np.empty(TILE)
    for start in range(0, base.size, TILE):
        count = min(TILE, base.size - start)
        _sizes(base[start : start + count], model[start : start + count], sizes[:count])
        for i in range(count):
            if sizes[i] == size:
                if number == 0:
                    return start + i
                number -= 1
    return base.size


@njit(nogil=True, cache=True)
def _sizes(base, model, out):
    for i in range(out.size):
        out[i] = abs(np.float64(decode(model[i])) - np.float64(decode(base[i])))
