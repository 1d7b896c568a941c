"""Pass 2 on the CPU for methods that keep some elements of each delta, and may let the models elect a sign."""

from typing import NamedTuple

import numpy as np
from numba import literal_unroll, njit
from numpy.typing import NDArray

from widen.combination import EVERY, Kept
from widen.kernels.bits import decode, encode
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
    if kept.spread and base.size:
        _fill_limits(base.reshape(-1, columns), model.reshape(-1, columns), kept.share, kept.spread, limits)
    return Rule(
        kept.first.size, kept.first.index, kept.last.size, kept.last.index, np.uint64(kept.share), np.uint64(kept.key),
        kept.factor, kept.unbiased, limits,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _fill_limits(base, model, share, spread, out):
    """Each element's share of 2**32 by rank in its row: share - spread for the smallest, share + spread at the end."""
    rows, columns = base.shape
    for r in range(rows):
        sizes = np.empty(columns)
        for c in range(columns):
            sizes[c] = abs(np.float64(decode(model[r, c])) - np.float64(decode(base[r, c])))
        order = np.argsort(sizes, kind="mergesort")
        for rank in range(columns):
            way = rank / (columns - 1) if columns > 1 else 0.5
            out[r * columns + order[rank]] = np.uint32(min(share - spread + np.rint(way * (2 * spread)), EVERY - 1))


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
        _elect(parts, weights, equal, mixed, divisor)
    if normalize:
        for c in range(mixed.size):
            mixed[c] = mixed[c] / (divisor[c] if abs(divisor[c]) >= LEAST_DIVISOR else 1.0)


@njit(nogil=True, cache=True)
def _elect(parts, weights, equal, mixed, divisor):
    """`mixed` holds the votes' sum on entry; a sum of zero elects plus, and a zero has no sign."""
    for c in range(mixed.size):
        sign = 1.0 if mixed[c] >= 0.0 else -1.0
        total = 0.0
        count = 0.0
        for k in range(weights.size):
            part = parts[k, c] * weights[k]
            agrees = (parts[k, c] if equal else part) * sign > 0.0
            total += part if agrees else 0.0
            count += weights[k] if agrees else 0.0
        mixed[c] = total
        divisor[c] = count
