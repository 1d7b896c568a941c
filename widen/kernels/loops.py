"""The CPU backend's compiled loops, over tiles that stay in the nearest cache.

Numba without fastmath neither reorders float operations nor contracts a product and a sum into one rounding, so these
loops give the bits of the same operations written out in NumPy. The kernels release the interpreter lock; a caller
spreads blocks of columns or rows over threads, and the result does not depend on how.
"""

import numpy as np
from numba import njit

from widen.dtypes import BF16, F16, F32
from widen.kernels import CHUNK_ROWS

BF16_CODE, F16_CODE, F32_CODE = BF16.code, F16.code, F32.code
TILE_ROWS = 16
TILE_COLUMNS = 256
HALF_SCALE = np.float32(2.0**112)


@njit(nogil=True, cache=True)
def _decode_span(source, code, bits, values):
    """One row of storage bits as float32, exactly. `bits` and `values` are two views of the same memory."""
    if code == F32_CODE:
        for i in range(source.size):
            bits[i] = source[i]
    elif code == BF16_CODE:
        for i in range(source.size):
            bits[i] = np.uint32(source[i]) << np.uint32(16)
    else:
        for i in range(source.size):
            half = np.uint32(source[i])
            bits[i] = ((half & np.uint32(0x8000)) << np.uint32(16)) | ((half & np.uint32(0x7FFF)) << np.uint32(13))
        for i in range(source.size):
            values[i] = values[i] * HALF_SCALE
        for i in range(source.size):
            half = np.uint32(source[i])
            if (half & np.uint32(0x7C00)) == np.uint32(0x7C00):
                sign = (half & np.uint32(0x8000)) << np.uint32(16)
                bits[i] = sign | np.uint32(0x7F800000) | ((half & np.uint32(0x3FF)) << np.uint32(13))


@njit(nogil=True, cache=True)
def _load_tile(source, code, transposed, row, column, bits, values, narrow):
    """Fill a (rows, columns) tile of float32 values; a transposed tensor stores its columns as rows."""
    rows, columns = bits.shape
    if not transposed:
        for r in range(rows):
            _decode_span(source[row + r, column : column + columns], code, bits[r], values[r])
        return
    for c in range(columns):
        for r in range(rows):
            narrow[r, c] = source[column + c, row + r]
    for r in range(rows):
        _decode_span(narrow[r, :columns], code, bits[r], values[r])


@njit(nogil=True, cache=True)
def _accumulate(base, model, a, p, q, largest):
    """Add one tile's rows, in order, to the chunk's sums. Returns how many elements changed and how many are zero."""
    changed = 0
    zeros = 0
    for r in range(base.shape[0]):
        for c in range(base.shape[1]):
            b = np.float64(base[r, c])
            m = np.float64(model[r, c])
            d = m - b
            a[c] += b * b
            p[c] += d * b
            q[c] += d * d
            size = abs(d)
            largest[c] = size if size > largest[c] else largest[c]
            changed += d != 0.0
            zeros += m == 0.0
    return changed, zeros


@njit(nogil=True, cache=True)
def _read_tile(source, code, transposed, row, column, height, width):
    """A (height, width) tile of exact float32 values from storage bits."""
    bits = np.empty((height, width), np.uint32)
    values = bits.view(np.float32)
    narrow = np.empty((height, width), source.dtype)
    _load_tile(source, code, transposed, row, column, bits, values, narrow)
    return values


@njit(nogil=True, cache=True)
def measure_columns(base, base_code, model, model_code, transposed, first, last, sums):
    """Sums of columns `first` to `last` of one matrix into `sums`; returns (changed, zeros, largest change).

    base, model: storage bits, uint16 or uint32, (rows, columns), or (columns, rows) when `transposed`.
    sums: float64 (3, columns), receives a = sum b^2, p = sum d*b, q = sum d^2 with d = model - base.
    Order: row by row inside a chunk of CHUNK_ROWS rows, then chunk by chunk.
    """
    rows = base.shape[1] if transposed else base.shape[0]
    chunk = np.empty((3, TILE_COLUMNS))
    largest = np.zeros(TILE_COLUMNS)
    changed = 0
    zeros = 0
    for column in range(first, last, TILE_COLUMNS):
        width = min(TILE_COLUMNS, last - column)
        sums[:, column : column + width] = 0.0
        for chunk_row in range(0, rows, CHUNK_ROWS):
            chunk[:, :width] = 0.0
            end = min(rows, chunk_row + CHUNK_ROWS)
            for row in range(chunk_row, end, TILE_ROWS):
                height = min(TILE_ROWS, end - row)
                ours = _read_tile(base, base_code, transposed, row, column, height, width)
                theirs = _read_tile(model, model_code, transposed, row, column, height, width)
                a, p, q = chunk[0, :width], chunk[1, :width], chunk[2, :width]
                counts = _accumulate(ours, theirs, a, p, q, largest[:width])
                changed += counts[0]
                zeros += counts[1]
            for k in range(3):
                for c in range(width):
                    sums[k, column + c] += chunk[k, c]
    return changed, zeros, largest.max()


@njit(nogil=True, cache=True)
def add_weighted_delta(base, base_code, model, model_code, weights, by_row, total):
    """total += weight * (model - base) for a block of rows, in float64, each operation rounded once.

    base, model: storage bits (rows, columns); weights: float64, one a row when `by_row`, else one a column;
    total: float64 (rows, columns).
    """
    rows, columns = total.shape
    base_bits = np.empty(columns, np.uint32)
    model_bits = np.empty(columns, np.uint32)
    base_values = base_bits.view(np.float32)
    model_values = model_bits.view(np.float32)
    for r in range(rows):
        _decode_span(base[r], base_code, base_bits, base_values)
        _decode_span(model[r], model_code, model_bits, model_values)
        if by_row:
            weight = weights[r]
            for c in range(columns):
                total[r, c] += weight * (np.float64(model_values[c]) - np.float64(base_values[c]))
        else:
            for c in range(columns):
                total[r, c] += weights[c] * (np.float64(model_values[c]) - np.float64(base_values[c]))


@njit(nogil=True, cache=True)
def add_base_and_round(base, base_code, total, out_code, out):
    """out = base + total in float64, rounded to float32, then to the type of `out` (uint16 or uint32 bits).

    Both roundings go to nearest, ties to even. The stop at float32 makes an exact tie of the narrow type fall by its
    own rule, not by the last bit of float64 noise; and a merge written as float32 and cast later gives the same bytes.
    """
    rows, columns = total.shape
    bits = np.empty(columns, np.uint32)
    values = bits.view(np.float32)
    for r in range(rows):
        _decode_span(base[r], base_code, bits, values)
        for c in range(columns):
            values[c] = np.float32(np.float64(values[c]) + total[r, c])
        if out_code == F32_CODE:
            out[r, :] = bits
        elif out_code == BF16_CODE:
            for c in range(columns):
                out[r, c] = (bits[c] + np.uint32(0x7FFF) + ((bits[c] >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        else:
            for c in range(columns):
                out[r, c] = _to_f16(bits[c])


@njit(nogil=True, cache=True)
def _to_f16(bits):
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    exponent = (bits >> np.uint32(23)) & np.uint32(0xFF)
    mantissa = bits & np.uint32(0x7FFFFF)
    if exponent >= np.uint32(143):
        return np.uint16(sign | np.uint32(0x7C00))
    if exponent >= np.uint32(113):
        shift = np.uint32(13)
        scaled = ((exponent - np.uint32(112)) << np.uint32(23)) | mantissa
    else:
        shift = min(np.uint32(126) - exponent, np.uint32(31))
        scaled = mantissa | np.uint32(0x800000)
    kept = scaled >> shift
    dropped = scaled & ((np.uint32(1) << shift) - np.uint32(1))
    half = np.uint32(1) << (shift - np.uint32(1))
    up = dropped > half or (dropped == half and (kept & np.uint32(1)) == np.uint32(1))
    return np.uint16(sign | (kept + np.uint32(up)))
