"""Pass 1 on the CPU: compiled loops over tiles of columns, four rows at a time in registers.

Numba without fastmath neither reorders float operations nor contracts a product and a sum into one rounding, so these
loops give the bits of the same operations written out in NumPy. They release the interpreter lock.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from widen.kernels import CHUNK_ROWS
from widen.kernels.bits import decode, differs

TILE_COLUMNS = 2048
TURNED_COLUMNS = 256
LONGEST_COUNT = 32768


@njit(nogil=True, cache=True)
def measure_matrix(base, model, transposed, sums, largest):
    """Column sums of one matrix; returns how many elements changed, and how many of the model's are zero.

    base, model: storage bits (rows, columns), or (columns, rows) when `transposed`; see `bits.as_kernel_array`.
    sums: float64 (3, columns), zeros on entry, receives sum b^2, sum d*b, sum d^2 with d = model - base.
    largest: float64 (columns,), zeros on entry, receives the largest abs(d) of each column.
    Order: row by row inside a chunk of CHUNK_ROWS rows, then chunk by chunk.
    """
    if transposed:
        _measure_turned(base, model, sums, largest)
    else:
        _measure_tiles(base, model, sums, largest)
    changed = np.int64(0)
    zeros = np.int64(0)
    for row in range(base.shape[0]):
        for first in range(0, base.shape[1], LONGEST_COUNT):
            ours = base[row, first : first + LONGEST_COUNT]
            theirs = model[row, first : first + LONGEST_COUNT]
            changed += _count_changed(ours, theirs)
            zeros += _count_zeros(theirs)
    return changed, zeros


# Rows are cut out one by one below: a slice of a row is known to be contiguous, a slice of a matrix is not, and only
# contiguous rows become vectors.


@njit(nogil=True, cache=True)
def _measure_tiles(base, model, sums, largest):
    rows, columns = base.shape
    chunk = np.empty((3, TILE_COLUMNS))
    for first in range(0, columns, TILE_COLUMNS):
        last = min(columns, first + TILE_COLUMNS)
        for start in range(0, rows, CHUNK_ROWS):
            chunk[:] = 0.0
            end = min(rows, start + CHUNK_ROWS)
            _add_rows(base, model, start, end, first, last, chunk, largest[first:last])
            _add_chunk(chunk, sums, first, last)


@njit(nogil=True, cache=True)
def _measure_turned(base, model, sums, largest):
    """Columns are stored as rows: turn a tile of them, then add as above."""
    columns, rows = base.shape
    ours = np.empty((CHUNK_ROWS, TURNED_COLUMNS), base.dtype)
    theirs = np.empty((CHUNK_ROWS, TURNED_COLUMNS), model.dtype)
    chunk = np.empty((3, TURNED_COLUMNS))
    for first in range(0, columns, TURNED_COLUMNS):
        last = min(columns, first + TURNED_COLUMNS)
        for start in range(0, rows, CHUNK_ROWS):
            chunk[:] = 0.0
            end = min(rows, start + CHUNK_ROWS)
            _turn(base, first, last, start, end, ours)
            _turn(model, first, last, start, end, theirs)
            _add_rows(ours, theirs, 0, end - start, 0, last - first, chunk, largest[first:last])
            _add_chunk(chunk, sums, first, last)


@njit(nogil=True, cache=True)
def _turn(source, first, last, row, end, out):
    """out[r, c] = source[first + c, row + r], in squares inside 64-bit words where rows are whole words."""
    words = out.view(np.uint64)
    side = 8 // source.itemsize
    squares = (last - first) // side if (end - row) % side == 0 else 0
    for square in range(squares):
        c = first + square * side
        w0, w1 = source[c, row:end].view(np.uint64), source[c + 1, row:end].view(np.uint64)
        if side == 2:
            _turn_pairs(w0, w1, words, square)
        else:
            w2, w3 = source[c + 2, row:end].view(np.uint64), source[c + 3, row:end].view(np.uint64)
            _turn_fours(w0, w1, w2, w3, words, square)
    for c in range(first + squares * side, last):
        for r in range(row, end):
            out[r - row, c - first] = source[c, r]


@njit(nogil=True, cache=True)
def _turn_pairs(w0, w1, out, place):
    low = np.uint64(0xFFFFFFFF)
    up = np.uint64(32)
    for i in range(w0.size):
        out[2 * i, place] = (w0[i] & low) | (w1[i] << up)
        out[2 * i + 1, place] = (w0[i] >> up) | (w1[i] & ~low)


@njit(nogil=True, cache=True)
def _turn_fours(w0, w1, w2, w3, out, place):
    low = np.uint64(0xFFFF)
    for i in range(w0.size):
        for k in range(4):
            down = np.uint64(16 * k)
            out[4 * i + k, place] = (
                ((w0[i] >> down) & low)
                | (((w1[i] >> down) & low) << np.uint64(16))
                | (((w2[i] >> down) & low) << np.uint64(32))
                | (((w3[i] >> down) & low) << np.uint64(48))
            )


@njit(nogil=True, cache=True)
def _add_rows(base, model, start, end, first, last, chunk, largest):
    a, p, q = chunk[0, : last - first], chunk[1, : last - first], chunk[2, : last - first]
    fours = end - (end - start) % 4
    for r in range(start, fours, 4):
        _add_four(
            base[r, first:last], base[r + 1, first:last], base[r + 2, first:last], base[r + 3, first:last],
            model[r, first:last], model[r + 1, first:last], model[r + 2, first:last], model[r + 3, first:last],
            a, p, q, largest,
        )  # fmt: skip
    for r in range(fours, end):
        _add_one(base[r, first:last], model[r, first:last], a, p, q, largest)


@njit(nogil=True, cache=True)
def _add_four(b0, b1, b2, b3, m0, m1, m2, m3, a, p, q, largest):
    # Written out, so that the sums stay in registers over the four rows and the loop over columns becomes vectors.
    for c in range(a.size):
        x, y, z, top = a[c], p[c], q[c], largest[c]
        b = np.float64(decode(b0[c]))
        d = np.float64(decode(m0[c])) - b
        x += b * b
        y += d * b
        z += d * d
        size = abs(d)
        top = size if size > top else top
        b = np.float64(decode(b1[c]))
        d = np.float64(decode(m1[c])) - b
        x += b * b
        y += d * b
        z += d * d
        size = abs(d)
        top = size if size > top else top
        b = np.float64(decode(b2[c]))
        d = np.float64(decode(m2[c])) - b
        x += b * b
        y += d * b
        z += d * d
        size = abs(d)
        top = size if size > top else top
        b = np.float64(decode(b3[c]))
        d = np.float64(decode(m3[c])) - b
        x += b * b
        y += d * b
        z += d * d
        size = abs(d)
        top = size if size > top else top
        a[c] = x
        p[c] = y
        q[c] = z
        largest[c] = top


@njit(nogil=True, cache=True)
def _add_one(base, model, a, p, q, largest):
    for c in range(a.size):
        b = np.float64(decode(base[c]))
        d = np.float64(decode(model[c])) - b
        a[c] += b * b
        p[c] += d * b
        q[c] += d * d
        size = abs(d)
        largest[c] = size if size > largest[c] else largest[c]


@njit(nogil=True, cache=True)
def _add_chunk(chunk, sums, first, last):
    for k in range(3):
        for c in range(last - first):
            sums[k, first + c] += chunk[k, c]


def _count_changed(base, model):
    """How many of at most LONGEST_COUNT elements differ."""


@overload(_count_changed)
def _count_changed_by_type(base, model):
    if base.dtype != model.dtype:
        return _count_changed_values
    return _count_changed_words if base.dtype == types.uint32 else _count_changed_halves


def _count_changed_values(base, model):
    count = 0
    for i in range(base.size):
        b, m = decode(base[i]), decode(model[i])
        count += (m != b) | (b - b != 0.0)
    return count


def _count_changed_words(base, model):
    count = np.uint32(0)
    for i in range(base.size):
        count = np.uint32(count + differs(base[i], model[i]))
    return np.int64(count)


def _count_changed_halves(base, model):
    # A counter as narrow as the elements keeps sixteen of them in one vector.
    count = np.uint16(0)
    for i in range(base.size):
        count = np.uint16(count + differs(base[i], model[i]))
    return np.int64(count)


def _count_zeros(model):
    """How many of at most LONGEST_COUNT elements are zero."""


@overload(_count_zeros)
def _count_zeros_by_type(model):
    return _count_zero_words if model.dtype == types.uint32 else _count_zero_halves


def _count_zero_words(model):
    count = np.uint32(0)
    for i in range(model.size):
        count = np.uint32(count + np.uint32(np.uint32(model[i] << np.uint32(1)) == np.uint32(0)))
    return np.int64(count)


def _count_zero_halves(model):
    count = np.uint16(0)
    for i in range(model.size):
        count = np.uint16(count + np.uint16(np.uint16(np.uint16(model[i]) << np.uint16(1)) == np.uint16(0)))
    return np.int64(count)
