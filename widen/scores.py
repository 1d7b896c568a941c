"""From column sums to merge weights: magnitude, direction, ranks, softmax, calibration.

Small float64 vectors, NumPy on the CPU for every backend. Only +, -, *, /, sqrt, comparisons and a stable sort are
used, each correctly rounded by IEEE 754, so the bits are the same everywhere; the exponential is built from them.

Source: Yu et al., arXiv 2408.03092, section 3; the forms that start from the deltas are this project's, because the
paper's norms and cosine of two nearly equal columns cancel.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from widen.geometry import ColumnSums

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ranks = Literal["order", "average", "changed"]
"""How equal changes rank: by position, as the paper's sort leaves them; at the mean of the places that they take; or
so, and a model is left out of every column that it did not change."""

_LOG2_E = np.float64(1.4426950408889634)
_LN2_HIGH = np.float64(float.fromhex("0x1.62e42fee00000p-1"))
_LN2_LOW = np.float64(float.fromhex("0x1.a39ef35793c76p-33"))
_TAYLOR = [np.float64(1.0)]
for _order in range(1, 15):
    _TAYLOR.append(_TAYLOR[-1] / np.float64(_order))


def exponential(x: Vector) -> Vector:
    """exp(x) for x <= 0, to about one unit in the last place: x = k ln 2 + r, a polynomial in r, times 2^k."""
    clamped = np.maximum(x, np.float64(-708.0))
    k = np.rint(clamped * _LOG2_E)
    r = (clamped - k * _LN2_HIGH) - k * _LN2_LOW
    total = np.full_like(r, _TAYLOR[-1])
    for coefficient in reversed(_TAYLOR[:-1]):
        total = total * r + coefficient
    scale = ((k.astype(np.int64) + 1023) << 52).view(np.float64)
    return np.where(x < -708.0, 0.0, total * scale)


def softmax(values: Vector, among: Mask | None = None) -> Vector:
    """Softmax over the first axis (models), summed in recipe order.

    among: which values take part, all without it; the others get 0, and change no bit of those that do.
    """
    if among is None:
        powers = exponential(values - values.max(axis=0))
    else:
        highest = np.where(among, values, np.float64(-np.inf)).max(axis=0)
        powers = np.where(among, exponential(np.where(among, values - highest, np.float64(0.0))), np.float64(0.0))
    total = np.zeros(values.shape[1:])
    for row in powers:
        total = total + row
    return powers / (total if among is None else np.where(among.any(axis=0), total, np.float64(1.0)))


def magnitude_and_direction_change(sums: ColumnSums) -> tuple[Vector, Vector]:
    """abs(m_k - m_0) and 1 - cos(W_k, W_0) of every column, each (batch, columns).

    A column without magnitude in both has direction change 0; in exactly one, 1.
    """
    growth_of_square = np.float64(2.0) * sums.product + sums.delta
    before = np.sqrt(sums.base)
    after = np.sqrt(np.maximum(sums.base + growth_of_square, 0.0))
    both = before + after
    growth = np.divide(growth_of_square, both, out=np.zeros_like(both), where=both > 0.0)
    twice_product = np.float64(2.0) * (after * before)
    alive = (before > 0.0) & (after > 0.0)
    direction = np.divide(sums.delta - growth * growth, twice_product, out=np.zeros_like(both), where=alive)
    direction = np.where(alive, np.maximum(direction, 0.0), np.where(both > 0.0, 1.0, 0.0))
    return np.abs(growth), direction


def places(changes: Vector) -> Vector:
    """Place of each column, 0 to c - 1, in the ascending, stable order of its matrix; changes: (batch, columns)."""
    ascending = np.arange(changes.shape[-1], dtype=np.float64)
    result = np.empty_like(changes)
    for row, matrix in zip(result, changes, strict=True):
        row[np.argsort(matrix, kind="stable")] = ascending
    return result


def average_places(changes: Vector) -> Vector:
    """The same, but equal changes share the mean of the places that they take: a whole number of halves."""
    columns = changes.shape[-1]
    result = np.empty_like(changes)
    for row, matrix in zip(result, changes, strict=True):
        order = np.argsort(matrix, kind="stable")
        ascending = matrix[order]
        starts = np.flatnonzero(np.concatenate(([True], ascending[1:] != ascending[:-1]))[:columns])
        ends = np.append(starts[1:], columns)
        row[order] = np.repeat((starts + ends - 1) / np.float64(2.0), ends - starts)
    return result


def rank_scores(changes: Vector, t: float, s: float, ranks: Ranks = "order", among: Mask | None = None) -> Vector:
    """Scores of matrices from changes of shape (models, batch, columns): s where `rank_important`, else the softmax.

    among: in which columns each model takes part, of the same shape; elsewhere it scores 0.
    """
    columns = changes.shape[-1]
    placed = _placed(changes, ranks)
    shares = softmax(placed / np.float64(columns), among)
    return np.where(_within(_above_mean_place(placed, t), among), np.float64(s), shares)


def rank_important(changes: Vector, t: float, ranks: Ranks = "order", among: Mask | None = None) -> Mask:
    """Which columns are important, from changes of shape (models, batch, columns)."""
    return _within(_above_mean_place(_placed(changes, ranks), t), among)


def _placed(changes: Vector, ranks: Ranks) -> Vector:
    place = places if ranks == "order" else average_places
    return np.stack([place(change) for change in changes])


def _within(important: Mask, among: Mask | None) -> Mask:
    return important if among is None else important & among


def _above_mean_place(placed: Vector, t: float) -> Mask:
    """Whether rank > t * mean rank.

    A rank is a place divided by the number of columns c, so the mean rank is (c - 1) / 2c whatever the changes, equal
    or not, and the question is asked of the places: no division can round a column across its own threshold.
    """
    above: Mask = placed > np.float64(t) * np.float64(placed.shape[-1] - 1) / np.float64(2.0)
    return above


def vector_scores(sizes: Vector, t: float, s: float, among: Mask | None = None) -> Vector:
    """Scores of a vector's elements from abs(delta), shape (models, batch, elements); among: as in `rank_scores`."""
    return np.where(vector_important(sizes, t, among), np.float64(s), softmax(sizes, among))


def vector_important(sizes: Vector, t: float, among: Mask | None = None) -> Mask:
    """Which elements of a vector are important: abs(delta), shape (models, batch, elements), above t times its mean."""
    thresholds = [np.float64(t) * _mean(size) for size in sizes]
    above = np.stack([size > threshold for size, threshold in zip(sizes, thresholds, strict=True)])
    return _within(above, among)


def _mean(values: Vector) -> np.float64:
    """The mean, summed one after the other: a running sum has one order, NumPy's own `sum` promises none."""
    return np.float64(np.cumsum(values.reshape(-1))[-1]) / np.float64(values.size)
