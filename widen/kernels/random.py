"""Random numbers by element: Philox4x32-10, a function of key and counter alone, the same for any order of work.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; checked against its known answers.
"""

import numpy as np
from numba import njit, types

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
ROUNDS = 10
NUMBERS = 4
"""32-bit numbers of one counter."""


@njit(types.UniTuple(types.uint64, 4)(types.uint64, types.uint64), nogil=True, cache=True)
def philox(counter, key):
    """Four uint32, in uint64, of a 64-bit counter (the upper half of Philox's own is zero) and a 64-bit key."""
    x0, x1, x2, x3 = counter & _LOW, counter >> _HALF, np.uint64(0), np.uint64(0)
    k0, k1 = key & _LOW, key >> _HALF
    for _ in range(ROUNDS):
        p0, p1 = _M0 * x0, _M1 * x2
        x0, x1, x2, x3 = (p1 >> _HALF) ^ x1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ x3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return x0, x1, x2, x3


@njit(types.void(types.uint64, types.int64, types.uint32[::1]), nogil=True, cache=True)
def draw(key, first, out):
    """The numbers of the elements from index `first` on: element i has number i % 4 of counter i // 4."""
    end = first + out.size
    for counter in range(first // NUMBERS, (end + NUMBERS - 1) // NUMBERS):
        x0, x1, x2, x3 = philox(np.uint64(counter), key)
        place = counter * NUMBERS - first
        for lane in range(NUMBERS):
            value = x0 if lane == 0 else x1 if lane == 1 else x2 if lane == 2 else x3
            if 0 <= place + lane < out.size:
                out[place + lane] = np.uint32(value)
