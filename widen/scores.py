"""From column sums to merge weights: magnitude, direction, ranks, softmax, calibration.

Small float64 vectors, NumPy on the CPU for every backend. Only +, -, *, /, sqrt, comparisons and a stable sort are
used, each correctly rounded by IEEE 754, so the bits are the same everywhere; the exponential is built from them.

Source: Yu et al., arXiv 2408.03092, section 3; the forms that start from the deltas are this project's, because the
paper's norms and cosine of two nearly equal columns cancel.
"""

import numpy as np
from numpy.typing import NDArray

from widen.geometry import ColumnSums

Vector = NDArray[np.float64]

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


def softmax(values: Vector) -> Vector:
    """Softmax over the first axis (models), summed in recipe order."""
    powers = exponential(values - values.max(axis=0))
    total = np.zeros(values.shape[1:])
    for row in powers:
        total = total + row
    return powers / total


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


def rank_scores(changes: Vector, t: float, s: float) -> Vector:
    """Scores of matrices from changes of shape (models, batch, columns): s where `rank_important`, else the softmax."""
    columns = changes.shape[-1]
    placed = np.stack([places(change) for change in changes])
    return np.where(_above_mean_place(placed, t), np.float64(s), softmax(placed / np.float64(columns)))


def rank_important(changes: Vector, t: float) -> NDArray[np.bool_]:
    """Which columns are important, from changes of shape (models, batch, columns)."""
    return _above_mean_place(np.stack([places(change) for change in changes]), t)


def _above_mean_place(placed: Vector, t: float) -> NDArray[np.bool_]:
    """Whether rank > t * mean rank.

    A rank is a place divided by the number of columns c, so the mean rank is (c - 1) / 2c whatever the changes, and
    the question is asked of the places: no division can round a column across its own threshold.
    """
    above: NDArray[np.bool_] = placed > np.float64(t) * np.float64(placed.shape[-1] - 1) / np.float64(2.0)
    return above


def vector_scores(sizes: Vector, t: float, s: float) -> Vector:
    """Scores of a vector's elements from abs(delta), shape (models, batch, elements)."""
    return np.where(vector_important(sizes, t), np.float64(s), softmax(sizes))


def vector_important(sizes: Vector, t: float) -> NDArray[np.bool_]:
    """Which elements of a vector are important: abs(delta), shape (models, batch, elements), above t times its mean."""
    thresholds = [np.float64(t) * _mean(size) for size in sizes]
    return np.stack([size > threshold for size, threshold in zip(sizes, thresholds, strict=True)])


def _mean(values: Vector) -> np.float64:
    """The mean, summed one after the other: a running sum has one order, NumPy's own `sum` promises none."""
    return np.float64(np.cumsum(values.reshape(-1))[-1]) / np.float64(values.size)
