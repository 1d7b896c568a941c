"""Pass 2 on the CPU for methods that keep some elements of each delta, and may let the models elect a sign."""

from typing import NamedTuple

import numpy as np
from numba import literal_unroll, njit
from numpy.typing import NDArray

from widen.combination import EVERY, Kept
from widen.kernels.bits import bits_of, decode, encode
from widen.kernels.random import draw

TILE = 1024
LEAST_DIVISOR = 1e-8
"""Weights that sum to less, as a task vector added and subtracted does, divide nothing."""


class Rule(NamedTuple):
    """A `Kept` as a kernel has it. limits: each element's own share, uint32, where they differ; else of no element."""

    first_size: float
    first_index: int
    last_size: float
    last_index: int
    share: np.uint64
    key: np.uint64
    factor: float
    unbiased: bool
    limits: NDArray[np.uint32]


def rule_of(kept: Kept, base: NDArray[np.integer], model: NDArray[np.integer], columns: int) -> Rule:
    """The rule for a run of whole stored rows of `columns` elements. base, model: storage bits, flat."""
    limits = np.empty(base.size if kept.spread else 0, np.uint32)
    if limits.size:
        _fill_limits(_order(base, model, columns), kept.share, kept.spread, limits)
    return Rule(
        kept.first.size, kept.first.index, kept.last.size, kept.last.index, np.uint64(kept.share), np.uint64(kept.key),
        kept.factor, kept.unbiased, limits,
    )  # fmt: skip


def _order(base: NDArray[np.integer], model: NDArray[np.integer], columns: int) -> NDArray[np.uint64]:
    """Each row's columns from the smallest delta to the largest, in the low halves of (rows, columns).

    Sorted by the bits of the size as float32, then by column: no two keys are equal, so every sort gives one order.
    """
    keys = np.empty((base.size // columns, columns), np.uint64)
    _fill_keys(base, model, keys)
    keys.sort(axis=1)
    return keys


@njit(nogil=True, cache=True)
def _fill_keys(base, model, keys):
    rows, columns = keys.shape
    for r in range(rows):
        ours, theirs = base[r * columns : (r + 1) * columns], model[r * columns : (r + 1) * columns]
        for c in range(columns):
            size = abs(np.float64(decode(theirs[c])) - np.float64(decode(ours[c])))
            keys[r, c] = np.uint64(bits_of(np.float32(size))) << np.uint64(32) | np.uint64(c)


@njit(nogil=True, cache=True)
def _fill_limits(order, share, spread, out):
    """Each element's share of 2**32 by rank in its row: share - spread for the smallest, share + spread at the end."""
    rows, columns = order.shape
    for rank in range(columns):
        way = rank / (columns - 1) if columns > 1 else 0.5
        limit = np.uint32(min(share - spread + np.rint(way * (2 * spread)), EVERY - 1))
        for r in range(rows):
            out[r * columns + np.int64(order[r, rank] & np.uint64(0xFFFFFFFF))] = limit


@njit(nogil=True, cache=True)
def combine_kept(base, models, first, rules, weights, chosen, votes, scale, out):
    """out = base + scale * sum over models of weight * (factor * delta) where it is kept, each operation rounded once.

    base, out, and each of the tuple `models`: storage bits, flat, a run of the tensor that begins at index `first`.
    rules: a tuple of one `Rule` a model. weights: float64 (models,). chosen: bool, the elements that count, or of no
    element when all do. votes: whether there is a consensus, of equal votes, and whether the sum is normalised.
    """
    parts = np.empty((weights.size, TILE))
    mixed, divisor = np.empty(TILE), np.empty(TILE)
    for start in range(0, base.size, TILE):
        stop = min(base.size, start + TILE)
        count = stop - start
        k = 0  # enumerate() does not unroll
        for model in literal_unroll(models):
            keep(base[start:stop], model[start:stop], first + start, rules[k], start, parts[k, :count])
            k += 1  # noqa: SIM113
        _choose(chosen[start:stop], parts[:, :count])
        _mix(parts[:, :count], weights, votes, mixed[:count], divisor[:count])
        for c in range(count):
            total = np.float64(decode(base[start + c])) + mixed[c] * scale
            out[start + c] = encode(np.float32(total), out[start + c])


@njit(nogil=True, cache=True)
def keep(base, model, first, rule, place, out):
    """out = factor * (model - base) where the rule keeps it, else 0; `place` is the run's own in the rule's limits."""
    for c in range(out.size):
        out[c] = (np.float64(decode(model[c])) - np.float64(decode(base[c]))) * rule.factor
    if rule.first_size > 0.0 or rule.first_index > 0 or rule.last_size < np.inf:
        _cut(base, model, first, rule, out)
    if rule.limits.size > 0:
        _drop_by_rank(first, rule, rule.limits[place : place + out.size], out)
    elif rule.share < EVERY:
        _drop(first, rule, out)


@njit(nogil=True, cache=True)
def _cut(base, model, first, rule, out):
    for c in range(out.size):
        size = abs(np.float64(decode(model[c])) - np.float64(decode(base[c])))
        index = first + c
        reached = size > rule.first_size or (size == rule.first_size and index >= rule.first_index)
        passed = size > rule.last_size or (size == rule.last_size and index >= rule.last_index)
        out[c] = out[c] if reached and not passed else 0.0


@njit(nogil=True, cache=True)
def _drop(first, rule, out):
    draws = np.empty(out.size, np.uint32)
    draw(rule.key, first, draws)
    for c in range(out.size):
        out[c] = out[c] if np.uint64(draws[c]) < rule.share else 0.0


@njit(nogil=True, cache=True)
def _drop_by_rank(first, rule, limits, out):
    draws = np.empty(out.size, np.uint32)
    draw(rule.key, first, draws)
    for c in range(out.size):
        kept = out[c] * (np.float64(EVERY) / np.float64(limits[c])) if rule.unbiased else out[c]
        out[c] = kept if draws[c] < limits[c] else 0.0


@njit(nogil=True, cache=True)
def _choose(chosen, parts):
    for c in range(chosen.size):
        if not chosen[c]:
            parts[:, c] = 0.0


@njit(nogil=True, cache=True)
def _mix(parts, weights, votes, mixed, divisor):
    """What the models' kept deltas come to: their sum, of the elected sign alone, over the weights that count there."""
    consensus, equal, normalize = votes
    mixed[:] = 0.0
    divisor[:] = 0.0
    for k in range(weights.size):
        vote = 1.0 if consensus and equal else weights[k]
        for c in range(mixed.size):
            mixed[c] += parts[k, c] * vote
            divisor[c] += weights[k]
    if consensus:
        _elect(parts, weights, equal, np.where(mixed >= 0.0, 1.0, -1.0), mixed, divisor)
    if normalize:
        for c in range(mixed.size):
            mixed[c] = mixed[c] / (divisor[c] if abs(divisor[c]) >= LEAST_DIVISOR else 1.0)


@njit(nogil=True, cache=True)
def _elect(parts, weights, equal, sign, mixed, divisor):
    """What has the elected sign, and its weights; a zero has no sign."""
    mixed[:] = 0.0
    divisor[:] = 0.0
    for k in range(weights.size):
        weight = weights[k]
        vote = 1.0 if equal else weight
        for c in range(mixed.size):
            agrees = parts[k, c] * vote * sign[c] > 0.0
            mixed[c] += parts[k, c] * weight if agrees else 0.0
            divisor[c] += weight if agrees else 0.0
