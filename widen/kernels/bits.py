"""Storage bits to float values and back, for compiled loops: straight-line code that becomes vectors.

A kernel array's integer type says what its bits mean (`as_kernel_array`): uint16 is bfloat16, int16 is float16, uint32
is float32. Numba compiles a loop once a combination of types, and keeps it on disk until the loop's own file changes:
after a change in this file, remove `widen/kernels/__pycache__`.
"""

from platform import machine

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

from widen.dtypes import BF16, F16, F32, StorageType

_KERNEL_TYPES = {BF16: np.uint16, F16: np.int16, F32: np.uint32}
_HALF_SCALE = np.float32(2.0**112)
_SMALLEST_NORMAL_HALF = np.uint32(113 << 23)
_HALF_OVERFLOW = np.uint32(143 << 23)
_HALF = np.float32(0.5)
_HALF_BITS = np.uint32(126 << 23)
CONVERTS_HALF = get_host_cpu_features().get("f16c", False) or machine() == "aarch64"
"""Whether the processor converts float16 itself; elsewhere the same bits come from integer operations."""


def as_kernel_array(bits: NDArray[np.unsignedinteger], kind: StorageType) -> NDArray[np.integer]:
    """The same memory under the integer type that tells a kernel what the bits mean."""
    return bits.view(_KERNEL_TYPES[kind])


@intrinsic
def float_of(typing_context, bits):
    """The float32 that has these 32 bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def bits_of(typing_context, value):
    """The 32 bits of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def _float_of_half(typing_context, half):
    """The float32 of 16 float16 bits, by the processor's own conversion."""

    def generate(context, builder, signature, arguments):
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


@intrinsic
def _half_of_float(typing_context, value):
    """The 16 bits of the float16 nearest to a float32, ties to even, by the processor's own conversion."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(builder.fptrunc(arguments[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), generate


def decode(bits):
    """One stored element as float32, exactly."""


def encode(value, like):
    """A float32 in the storage type of the integer `like`, to nearest, ties to even."""


def differs(ours, theirs):
    """Whether theirs - ours is anything but zero, from the bits of one storage type: not finite counts as different."""


@overload(decode)
def _decode(bits):
    of_half = _decode_f16 if CONVERTS_HALF else _decode_f16_by_bits
    return {types.uint16: _decode_bf16, types.int16: of_half}.get(bits, _decode_f32)


def _decode_bf16(bits):
    return float_of(np.uint32(bits) << np.uint32(16))


def _decode_f16(bits):
    return _float_of_half(bits)


def _decode_f16_by_bits(bits):
    half = np.uint32(np.uint16(bits))
    sign = (half & np.uint32(0x8000)) << np.uint32(16)
    body = half & np.uint32(0x7FFF)
    finite = bits_of(float_of(body << np.uint32(13)) * _HALF_SCALE)
    extreme = np.uint32(0x7F800000) | ((body & np.uint32(0x3FF)) << np.uint32(13))
    return float_of(sign | (finite if body < np.uint32(0x7C00) else extreme))


def _decode_f32(bits):
    return float_of(bits)


@overload(encode)
def _encode(value, like):
    to_half = _encode_f16 if CONVERTS_HALF else _encode_f16_by_bits
    return {types.uint16: _encode_bf16, types.int16: to_half}.get(like, _encode_f32)


def _encode_bf16(value, like):
    bits = bits_of(value)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def _encode_f16(value, like):
    return _half_of_float(value)


def _encode_f16_by_bits(value, like):
    bits = bits_of(value)
    body = bits & np.uint32(0x7FFFFFFF)
    # Below 2^-14 the spacing of float16 is that of float32 between 0.5 and 1: adding 0.5 rounds as wanted.
    small = bits_of(float_of(body) + _HALF) - _HALF_BITS
    odd = (body >> np.uint32(13)) & np.uint32(1)
    normal = (body - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    finite = small if body < _SMALLEST_NORMAL_HALF else normal
    kept = finite if body < _HALF_OVERFLOW else np.uint32(0x7C00)
    return np.int16(np.uint16(kept | ((bits >> np.uint32(16)) & np.uint32(0x8000))))


def _encode_f32(value, like):
    return bits_of(value)


@overload(differs)
def _differs(ours, theirs):
    return {types.uint16: _differs_bf16, types.int16: _differs_f16}.get(ours, _differs_f32)


# Compared as numbers, not as truth values: branches would keep the loop out of vectors.


def _differs_bf16(ours, theirs):
    unequal = np.uint16(ours != theirs) & np.uint16(np.uint16((ours | theirs) << np.uint16(1)) != np.uint16(0))
    return np.uint16(unequal | np.uint16((ours & np.uint16(0x7F80)) == np.uint16(0x7F80)))


def _differs_f16(ours, theirs):
    x, y = np.uint16(ours), np.uint16(theirs)
    unequal = np.uint16(x != y) & np.uint16(np.uint16((x | y) << np.uint16(1)) != np.uint16(0))
    return np.uint16(unequal | np.uint16((x & np.uint16(0x7C00)) == np.uint16(0x7C00)))


def _differs_f32(ours, theirs):
    unequal = np.uint32(ours != theirs) & np.uint32(np.uint32((ours | theirs) << np.uint32(1)) != np.uint32(0))
    return np.uint32(unequal | np.uint32((ours & np.uint32(0x7F800000)) == np.uint32(0x7F800000)))
