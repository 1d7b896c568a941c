"""The CUDA backend's kernels: the CPU backend's operations on the same numbers in the same order, written in Triton.

What the equality of bits rests on: `enable_fp_fusion=False` makes LLVM emit `add.rn.f64` and `mul.rn.f64`, which PTX
forbids to contract, and passes `--fmad=false` to ptxas; float64 is never flushed to zero; conversions are exact
or round to nearest even. Sums run in loops, never through Triton's reductions, whose order nobody promises; only counts
and a maximum, which have no order, are reduced.

What the speed rests on: 16-byte loads, several rows in flight, enough integer and float64 slots. At 2 TB/s a Hopper
multiprocessor sees 2.2 bfloat16 pairs a clock; a pair costs 10 of the 64 float64 slots, 2 of the 16 conversions and
about 20 of the 128 instructions a clock, so memory stays the bound.
"""

# Kernels are Triton, not Python: half annotated, and a name may change its type.
# mypy: disable-error-code="no-untyped-def, assignment"

from collections.abc import Sequence
from math import ceil
from threading import Lock
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from widen.dtypes import BF16, F16, StorageType
from widen.geometry import Geometry
from widen.kernels import CHUNK_ROWS

if TYPE_CHECKING:
    from torch import Tensor

Operand = tuple["Tensor", StorageType]
"""Storage bits on a device, flat int16 or int32, and their meaning."""

MODELS_AT_ONCE = 8
"""Models of one launch; the weights of more would not fit in registers."""

OPTIONS = {"enable_fp_fusion": False, "num_stages": 1}
_LAUNCHING = Lock()
"""Held for a launch: the first one of a kernel compiles it, and lanes that need it too wait instead of doing so too."""

CHUNK = tl.constexpr(CHUNK_ROWS)
BF16_CODE = tl.constexpr(BF16.code)
F16_CODE = tl.constexpr(F16.code)


@triton.jit
def _decode(bits, KIND: tl.constexpr):
    """Storage bits, int16 or int32, as float64, exactly."""
    if KIND == BF16_CODE:
        single = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif KIND == F16_CODE:
        single = bits.to(tl.float16, bitcast=True).to(tl.float32)
    else:
        single = bits.to(tl.float32, bitcast=True)
    return single.to(tl.float64)


@triton.jit
def _encode(value, KIND: tl.constexpr):
    """float64 to float32 to storage bits, both to nearest even; bfloat16 in integers, as on the CPU."""
    single = value.to(tl.float32)
    if KIND == F16_CODE:
        bits = single.to(tl.float16).to(tl.int16, bitcast=True)
    elif KIND == BF16_CODE:
        word = single.to(tl.uint32, bitcast=True)
        bits = ((word + 0x7FFF + ((word >> 16) & 1)) >> 16).to(tl.int16)
    else:
        bits = single.to(tl.int32, bitcast=True)
    return bits


@triton.jit
def _add(b, m, a, p, q, largest, counts):
    """One row joins the sums. counts: changed elements in the low half, zeros in the high one, at most CHUNK each."""
    d = m - b
    size = tl.abs(d)
    largest = tl.where(size > largest, size, largest)
    counts += (d != 0.0).to(tl.int32) + ((m == 0.0).to(tl.int32) << 16)
    return a + b * b, p + d * b, q + d * d, largest, counts


@triton.jit
def _plus(x, y):
    return x + y


@triton.jit
def _larger(x, y):
    return tl.maximum(x, y)


@triton.jit
def _store(partial, columns, column, inside, a, p, q, largest, counts, tally):
    """A chunk's sums to `partial`, (3, columns); its counts to `tally`: changed, zeros, bits of the largest change."""
    tl.store(partial + column, a, mask=inside)
    tl.store(partial + columns + column, p, mask=inside)
    tl.store(partial + 2 * columns + column, q, mask=inside)
    counts = tl.where(inside, counts, 0)
    # Not negative and never NaN, so the order of the bits is the order of the values.
    bits = tl.where(inside, largest, 0.0).to(tl.int64, bitcast=True)
    # The stronger default order would flush the first-level cache of a multiprocessor whenever a program ends.
    tl.atomic_add(tally, tl.reduce(counts & 0xFFFF, 0, _plus).to(tl.int64), sem="relaxed")
    tl.atomic_add(tally + 1, tl.reduce(counts >> 16, 0, _plus).to(tl.int64), sem="relaxed")
    tl.atomic_max(tally + 2, tl.reduce(bits, 0, _larger), sem="relaxed")


@triton.jit(do_not_specialize=["rows", "chunks", "blocks"])
def sums_down(
    base, model, partial, tally, rows, columns, chunks, blocks,
    BASE: tl.constexpr, MODEL: tl.constexpr, LANES: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """One chunk, LANES columns: base and model (matrices, rows, columns) to partial (matrices, chunks, 3, columns)."""
    program = tl.program_id(0)
    block = program % blocks
    chunk = program // blocks % chunks
    matrix = (program // blocks // chunks).to(tl.int64)
    lane = tl.arange(0, LANES)
    inside = block * LANES + lane < columns
    a = tl.full([LANES], 0.0, tl.float64)
    p = tl.full([LANES], 0.0, tl.float64)
    q = tl.full([LANES], 0.0, tl.float64)
    largest = tl.full([LANES], 0.0, tl.float64)
    counts = tl.full([LANES], 0, tl.int32)
    start = (matrix * rows + chunk * CHUNK) * columns + block * LANES
    # Unrolled, because ptxas moves the loads of all unrolled rows ahead of the arithmetic: UNROLL rows are in flight.
    for _ in tl.range(0, tl.minimum(rows - chunk * CHUNK, CHUNK), loop_unroll_factor=UNROLL):
        b = tl.load(base + start + lane, mask=inside, other=0)
        m = tl.load(model + start + lane, mask=inside, other=0)
        a, p, q, largest, counts = _add(_decode(b, BASE), _decode(m, MODEL), a, p, q, largest, counts)
        start += columns
    sums = partial + (matrix * chunks + chunk) * 3 * columns
    _store(sums, columns, block * LANES + lane, inside, a, p, q, largest, counts, tally)


@triton.jit
def _apart(x, LINES: tl.constexpr, WIDE: tl.constexpr):
    """(LINES, WIDE) as WIDE values of LINES, in order. The elements of a line lie in one thread: nothing moves."""
    even, odd = tl.split(tl.reshape(x, [LINES, WIDE // 2, 2]))
    if WIDE == 4:
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        values = (x0, x1, x2, x3)
    else:
        x0, x2, x4, x6 = _apart(even, LINES, 4)
        x1, x3, x5, x7 = _apart(odd, LINES, 4)
        values = (x0, x1, x2, x3, x4, x5, x6, x7)
    return values


@triton.jit(do_not_specialize=["lines", "chunks", "blocks"])
def sums_along(
    base, model, partial, tally, lines, length, chunks, blocks,
    BASE: tl.constexpr, MODEL: tl.constexpr, LINES: tl.constexpr, WIDE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """The transposed case: one chunk of elements of LINES stored rows, (matrices, lines, length), each line a column.

    A thread owns a line and reads it 16 bytes at a time, so its sums keep their order in registers and the tile is
    never transposed. UNROLL loads a thread are in flight and use up whole sectors of memory.
    """
    program = tl.program_id(0)
    chunk = program % chunks
    matrix = (program // chunks // blocks).to(tl.int64)
    line = program // chunks % blocks * LINES + tl.arange(0, LINES)
    inside = line < lines
    start = (matrix * lines + line) * length + chunk * CHUNK
    a = tl.full([LINES], 0.0, tl.float64)
    p = tl.full([LINES], 0.0, tl.float64)
    q = tl.full([LINES], 0.0, tl.float64)
    largest = tl.full([LINES], 0.0, tl.float64)
    counts = tl.full([LINES], 0, tl.int32)
    width = tl.minimum(length - chunk * CHUNK, CHUNK)
    whole = width // WIDE * WIDE
    for first in tl.range(0, whole, WIDE, loop_unroll_factor=UNROLL):
        offset = start[:, None] + first + tl.arange(0, WIDE)[None, :]
        b = _apart(tl.load(base + offset, mask=inside[:, None], other=0), LINES, WIDE)
        m = _apart(tl.load(model + offset, mask=inside[:, None], other=0), LINES, WIDE)
        for k in tl.static_range(WIDE):
            a, p, q, largest, counts = _add(_decode(b[k], BASE), _decode(m[k], MODEL), a, p, q, largest, counts)
    for rest in range(whole, width):
        b = tl.load(base + start + rest, mask=inside, other=0)
        m = tl.load(model + start + rest, mask=inside, other=0)
        a, p, q, largest, counts = _add(_decode(b, BASE), _decode(m, MODEL), a, p, q, largest, counts)
    _store(partial + (matrix * chunks + chunk) * 3 * lines, lines, line, inside, a, p, q, largest, counts, tally)


@triton.jit(do_not_specialize=["chunks", "blocks"])
def fold(partial, sums, columns, stride, chunks, blocks, LANES: tl.constexpr, UNROLL: tl.constexpr):
    """Chunk after chunk of partial (matrices, chunks, 3, columns) onto the running sums (3, stride)."""
    program = tl.program_id(0)
    which = program // blocks % 3
    matrix = (program // blocks // 3).to(tl.int64)
    column = program % blocks * LANES + tl.arange(0, LANES)
    inside = column < columns
    place = sums + which.to(tl.int64) * stride + matrix * columns + column
    chunk_sums = partial + (matrix * chunks * 3 + which) * columns + column
    total = tl.load(place, mask=inside, other=0.0)
    for _ in tl.range(0, chunks, loop_unroll_factor=UNROLL):
        total += tl.load(chunk_sums, mask=inside, other=0.0)
        chunk_sums += 3 * columns
    tl.store(place, total, mask=inside)


@triton.jit(do_not_specialize=["rows", "groups", "blocks"])
def combine_rows(
    base, models, weights, totals, out, rows, columns, groups, blocks, stride,
    BASE: tl.constexpr, MODELS: tl.constexpr, OUT: tl.constexpr, BY_ROW: tl.constexpr,
    FIRST: tl.constexpr, LAST: tl.constexpr, LANES: tl.constexpr, GROUP: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """GROUP rows of LANES columns of base and models, (matrices, rows, columns); weights (models, stride).

    FIRST starts the totals at zero, otherwise they are read from `totals`; LAST rounds base + total into `out`,
    otherwise they are left in `totals`. STEP rows go side by side, because no load may be moved ahead of a store.
    """
    program = tl.program_id(0)
    group = program // blocks % groups * GROUP
    matrix = (program // blocks // groups).to(tl.int64)
    column = program % blocks * LANES + tl.arange(0, LANES)
    inside = column < columns
    by_column = ()
    if not BY_ROW:
        for k in tl.static_range(len(MODELS)):
            by_column += (tl.load(weights + k * stride + matrix * columns + column, mask=inside, other=0.0),)
    for first in range(group, tl.minimum(rows, group + GROUP), STEP):
        row = first + tl.arange(0, STEP)
        mask = (row < rows)[:, None] & inside[None, :]
        offset = (matrix * rows + first) * columns + (tl.arange(0, STEP)[:, None] * columns + column[None, :])
        b = _decode(tl.load(base + offset, mask=mask, other=0), BASE)
        total = tl.full([STEP, LANES], 0.0, tl.float64) if FIRST else tl.load(totals + offset, mask=mask, other=0.0)
        for k in tl.static_range(len(MODELS)):
            m = _decode(tl.load(models[k] + offset, mask=mask, other=0), MODELS[k])
            if BY_ROW:
                weight = tl.load(weights + k * stride + matrix * rows + row, mask=row < rows, other=0.0)[:, None]
            else:
                weight = by_column[k][None, :]
            total += weight * (m - b)
        if LAST:
            tl.store(out + offset, _encode(b + total, OUT), mask=mask)
        else:
            tl.store(totals + offset, total, mask=mask)


def add_column_sums(
    base: Operand, model: Operand, shape: Geometry, sums: "Tensor", stride: int, tally: "Tensor"
) -> None:
    """Pass 1 of a tile: its chunks join the running sums, its counts the tally.

    base, model: shape.elements each. sums: float64, flat; the tile's a, p and q begin at 0, stride and 2 * stride.
    tally: int64 (3,), changed elements, zeros of the model, bits of the largest change.
    """
    import torch

    summed = shape.stored_columns if shape.transposed else shape.stored_rows
    chunks = ceil(summed / CHUNK_ROWS)
    partial = torch.empty(shape.batch * chunks * 3 * shape.columns, dtype=torch.float64, device=sums.device)
    kinds = {"BASE": base[1].code, "MODEL": model[1].code}
    lanes = _lanes(base, model)
    arguments = base[0], model[0], partial, tally
    with _LAUNCHING:
        if shape.transposed:
            blocks = ceil(shape.columns / 128)
            sums_along[(shape.batch * blocks * chunks,)](
                *arguments, shape.columns, summed, chunks, blocks, **kinds,
                LINES=128, WIDE=lanes // 32, UNROLL=4, num_warps=4, **OPTIONS,
            )  # fmt: skip
        else:
            blocks = ceil(shape.columns / lanes)
            sums_down[(shape.batch * chunks * blocks,)](
                *arguments, summed, shape.columns, chunks, blocks, **kinds,
                LANES=lanes, UNROLL=4 if F16 in (base[1], model[1]) else 8, num_warps=1, **OPTIONS,
            )  # fmt: skip
        blocks = ceil(shape.columns / 128)
        fold[(shape.batch * 3 * blocks,)](
            partial, sums, shape.columns, stride, chunks, blocks, LANES=128, UNROLL=8, num_warps=4, **OPTIONS
        )


def combine(base: Operand, models: Sequence[Operand], weights: "Tensor", shape: Geometry, out: Operand) -> None:
    """Pass 2 of a tile: the merged bits into `out`.

    base, models, out: shape.elements each. weights: float64, flat, (models, shape.batch, shape.columns).
    """
    import torch

    many = len(models) > MODELS_AT_ONCE
    totals = torch.empty(shape.elements if many else 0, dtype=torch.float64, device=weights.device)
    stride = shape.batch * shape.columns
    for first in range(0, len(models), MODELS_AT_ONCE):
        part = models[first : first + MODELS_AT_ONCE]
        last = first + len(part) == len(models)
        _combine(base, part, weights[first * stride :], totals, shape, out, first == 0, last)


def _combine(
    base: Operand, models: Sequence[Operand], weights: "Tensor", totals: "Tensor", shape: Geometry, out: Operand,
    first: bool, last: bool,
) -> None:  # fmt: skip
    lanes = 128 if len(models) > 4 else _lanes(base, *models, out)
    blocks, groups = ceil(shape.stored_columns / lanes), ceil(shape.stored_rows / 32)
    with _LAUNCHING:
        combine_rows[(shape.batch * groups * blocks,)](
            base[0], tuple(bits for bits, _ in models), weights, totals, out[0],
            shape.stored_rows, shape.stored_columns, groups, blocks, shape.batch * shape.columns,
            BASE=base[1].code, MODELS=tuple(kind.code for _, kind in models), OUT=out[1].code, BY_ROW=shape.transposed,
            FIRST=first, LAST=last, LANES=lanes, GROUP=32, STEP=2, num_warps=1, **OPTIONS,
        )  # fmt: skip


def _lanes(*operands: Operand) -> int:
    """Elements of a row for one warp, such that a thread loads 16 bytes of the widest type at once."""
    return 32 * 16 // max(kind.itemsize for _, kind in operands)
