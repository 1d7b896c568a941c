"""Pass 2 on the CPU: one compiled loop over the rows of a block, whose float64 total stays in the nearest cache."""

import numpy as np
from numba import literal_unroll, njit

from widen.kernels.bits import decode, encode

TILE_COLUMNS = 1024


@njit(nogil=True, cache=True)
def combine_rows(base, models, weights, growth, by_row, out):
    """out = base + (growth * base + sum over models of weight * (model - base)), float64, each operation rounded once.

    base, out, and each of the tuple `models`: storage bits (rows, columns), see `bits.as_kernel_array`.
    weights: float64 (models, rows) when `by_row`, else (models, columns). growth: one for each row or column, or none.

    The sum is rounded to float32, then to the type of `out`, both to nearest, ties to even. The stop at float32 makes
    an exact tie of the narrow type fall by its own rule, not by the last bit of float64 noise; and a merge written as
    float32 and cast later gives the same bytes.
    """
    rows, columns = base.shape
    total = np.empty(TILE_COLUMNS)
    for r in range(rows):
        for first in range(0, columns, TILE_COLUMNS):
            last = min(columns, first + TILE_COLUMNS)
            part = total[: last - first]
            if growth.size == 0:
                # Nothing is multiplied: a negative zero would come of a negative base.
                part[:] = 0.0
            elif by_row:
                _scale(base[r, first:last], growth[r], part)
            else:
                _weigh(base[r, first:last], growth[first:last], part)
            k = 0  # enumerate() does not unroll
            for model in literal_unroll(models):
                if by_row:
                    _add_scaled(base[r, first:last], model[r, first:last], weights[k, r], part)
                else:
                    _add_weighted(base[r, first:last], model[r, first:last], weights[k, first:last], part)
                k += 1  # noqa: SIM113
            _round(base[r, first:last], part, out[r, first:last])


@njit(nogil=True, cache=True)
def grow_rows(base, growth, by_row, out):
    """out = base + growth * base as `combine_rows` has it, of a base alone; without growth its own values."""
    rows, columns = base.shape
    for r in range(rows):
        for c in range(columns):
            value = np.float64(decode(base[r, c]))
            if growth.size:
                value += growth[r if by_row else c] * value
            out[r, c] = encode(np.float32(value), out[r, c])


@njit(nogil=True, cache=True)
def _scale(base, factor, total):
    for c in range(total.size):
        total[c] = factor * np.float64(decode(base[c]))


@njit(nogil=True, cache=True)
def _weigh(base, factors, total):
    for c in range(total.size):
        total[c] = factors[c] * np.float64(decode(base[c]))


@njit(nogil=True, cache=True)
def _add_scaled(base, model, weight, total):
    for c in range(total.size):
        total[c] += weight * (np.float64(decode(model[c])) - np.float64(decode(base[c])))


@njit(nogil=True, cache=True)
def _add_weighted(base, model, weights, total):
    for c in range(total.size):
        total[c] += weights[c] * (np.float64(decode(model[c])) - np.float64(decode(base[c])))


@njit(nogil=True, cache=True)
def _round(base, total, out):
    for c in range(total.size):
        out[c] = encode(np.float32(np.float64(decode(base[c])) + total[c]), out[c])
