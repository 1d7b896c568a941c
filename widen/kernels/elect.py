"""Pass 2 on the CPU for methods that keep some elements of each delta, and may let the models elect a sign."""

import numpy as np
from numba import literal_unroll, njit

from widen.combination import EVERY
from widen.kernels.bits import decode, encode
from widen.kernels.random import draw

TILE = 1024
LEAST_DIVISOR = 1e-8
"""Weights that sum to less, as a task vector added and subtracted does, divide nothing."""


@njit(nogil=True, cache=True)
def combine_kept(base, models, first, sizes, indices, shares, factors, weights, consensus, normalize, scale, out):
    """out = base + scale * sum over models of weight * (factor * delta) where it is kept, each operation rounded once.

    base, out, and each of the tuple `models`: storage bits, flat, a run of the tensor that begins at index `first`.
    sizes, indices: (models, 2), the places between which elements are kept. shares: (models, 2) uint64, share and key.
    factors, weights: float64 (models,).
    """
    parts = np.empty((weights.size, TILE))
    mixed, divisor = np.empty(TILE), np.empty(TILE)
    draws = np.empty(TILE, np.uint32)
    for start in range(0, base.size, TILE):
        stop = min(base.size, start + TILE)
        count = stop - start
        k = 0  # enumerate() does not unroll
        for model in literal_unroll(models):
            _scale(base[start:stop], model[start:stop], factors[k], weights[k], parts[k, :count])
            _cut(base[start:stop], model[start:stop], first + start, sizes[k], indices[k], parts[k, :count])
            _drop(shares[k], first + start, draws[:count], parts[k, :count])
            k += 1  # noqa: SIM113
        _elect(parts[:, :count], weights, consensus, normalize, mixed[:count], divisor[:count])
        for c in range(count):
            total = np.float64(decode(base[start + c])) + mixed[c] * scale
            out[start + c] = encode(np.float32(total), out[start + c])


@njit(nogil=True, cache=True)
def _scale(base, model, factor, weight, out):
    for c in range(out.size):
        out[c] = (np.float64(decode(model[c])) - np.float64(decode(base[c]))) * factor * weight


@njit(nogil=True, cache=True)
def _cut(base, model, first, sizes, indices, out):
    if sizes[0] == 0.0 and indices[0] == 0 and sizes[1] == np.inf:
        return
    for c in range(out.size):
        size = abs(np.float64(decode(model[c])) - np.float64(decode(base[c])))
        index = first + c
        reached = size > sizes[0] or (size == sizes[0] and index >= indices[0])
        passed = size > sizes[1] or (size == sizes[1] and index >= indices[1])
        out[c] = out[c] if reached and not passed else 0.0


@njit(nogil=True, cache=True)
def _drop(share_and_key, first, draws, out):
    if share_and_key[0] >= EVERY:
        return
    draw(share_and_key[1], first, draws)
    for c in range(out.size):
        out[c] = out[c] if np.uint64(draws[c]) < share_and_key[0] else 0.0


@njit(nogil=True, cache=True)
def _elect(parts, weights, consensus, normalize, mixed, divisor):
    """What the models' kept deltas come to: their sum, of the elected sign alone, over the weights that count there."""
    mixed[:] = 0.0
    divisor[:] = 0.0
    for k in range(weights.size):
        for c in range(mixed.size):
            mixed[c] += parts[k, c]
            divisor[c] += weights[k]
    if consensus:
        _elect_sign(parts, weights, mixed, divisor)
    if normalize:
        for c in range(mixed.size):
            mixed[c] = mixed[c] / (divisor[c] if abs(divisor[c]) >= LEAST_DIVISOR else 1.0)


@njit(nogil=True, cache=True)
def _elect_sign(parts, weights, mixed, divisor):
    """`mixed` holds the sum of all on entry; a sum of zero elects plus, and a zero has no sign."""
    for c in range(mixed.size):
        sign = 1.0 if mixed[c] >= 0.0 else -1.0
        total = 0.0
        count = 0.0
        for k in range(weights.size):
            agrees = parts[k, c] * sign > 0.0
            total += parts[k, c] if agrees else 0.0
            count += weights[k] if agrees else 0.0
        mixed[c] = total
        divisor[c] = count
