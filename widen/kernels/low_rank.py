"""What an adapter adds to a matrix, compiled: float64, one operation after another in one order."""

import numpy as np
from numba import njit

from widen.kernels.bits import decode

TILE_COLUMNS = 1024


@njit(nogil=True, cache=True)
def widened(bits):
    """Storage bits, flat (see `bits.as_kernel_array`), as float64."""
    values = np.empty(bits.size)
    for i in range(bits.size):
        values[i] = np.float64(decode(bits[i]))
    return values


@njit(nogil=True, cache=True)
def add_low_rank(base, left, right, scale, out):
    """out = base + scale * (left @ right); the product's sum runs over the rank from first to last, from zero.

    base: storage bits (rows, columns). left: float64 (rows, rank), right: float64 (rank, columns), out: float64.
    """
    rows, columns = base.shape
    total = np.empty(TILE_COLUMNS)
    for r in range(rows):
        for first in range(0, columns, TILE_COLUMNS):
            last = min(columns, first + TILE_COLUMNS)
            part = total[: last - first]
            part[:] = 0.0
            for k in range(left.shape[1]):
                _add_multiple(left[r, k], right[k, first:last], part)
            _add_scaled(base[r, first:last], scale, part, out[r, first:last])


@njit(nogil=True, cache=True)
def _add_multiple(factor, row, total):
    for c in range(total.size):
        total[c] += factor * row[c]


@njit(nogil=True, cache=True)
def _add_scaled(base, scale, total, out):
    for c in range(total.size):
        out[c] = np.float64(decode(base[c])) + scale * total[c]


@njit(nogil=True, cache=True)
def row_squares(values):
    """The sum of squares of each row of float64 (rows, columns), from its first element to its last."""
    total = np.zeros(values.shape[0])
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            total[r] += values[r, c] * values[r, c]
    return total


@njit(nogil=True, cache=True)
def add_column_squares(values, total):
    """Add the squares of each column of float64 (rows, columns), from its first element to its last, to `total`."""
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            total[c] += values[r, c] * values[r, c]
