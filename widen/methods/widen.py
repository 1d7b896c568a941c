"""WIDEN: weights by what changed most in magnitude and direction (Yu et al., arXiv 2408.03092, equations 2 to 7)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from widen.combination import Weighted
from widen.geometry import ColumnSums
from widen.methods.definition import merge_method
from widen.methods.operands import Operands
from widen.scores import (
    magnitude_and_direction_change,
    rank_important,
    rank_scores,
    vector_important,
    vector_scores,
)


@merge_method("widen", origin="required")
def widen(tensor: Operands, t: float = 1.0, s: float = 1.0) -> Weighted:
    """W_0 + the sum of weight_k * (W_k - W_0), column by column, with the weights of `widen_weights`."""
    sums = [tensor.sums(model) for model in range(tensor.participants)]
    return Weighted(widen_weights(sums, tensor.is_vector, t, s))


def widen_weights(models: Sequence[ColumnSums], is_vector: bool, t: float = 1.0, s: float = 1.0) -> NDArray[np.float64]:
    """The weight of every model's delta in every column of one tensor: float64 (models, batch, columns).

    models: pass 1 of each model against the base, in recipe order. t: factor on the mean rank above which a column is
    important. s: the score that an important column gets in place of its softmax.
    """
    if is_vector:
        return vector_scores(_sizes(models), t, s)
    magnitude, direction = _changes(models)
    return (rank_scores(magnitude, t, s) + rank_scores(direction, t, s)) / np.float64(2.0)


def widen_important(models: Sequence[ColumnSums], is_vector: bool, t: float = 1.0) -> NDArray[np.bool_]:
    """Where a delta got the whole score s, important in magnitude and direction: bool (models, batch, columns)."""
    if is_vector:
        return vector_important(_sizes(models), t)
    magnitude, direction = _changes(models)
    return rank_important(magnitude, t) & rank_important(direction, t)


def _sizes(models: Sequence[ColumnSums]) -> NDArray[np.float64]:
    # The square root of a correctly rounded square is exact, so these are the absolute deltas themselves.
    return np.stack([np.sqrt(model.delta) for model in models])


def _changes(models: Sequence[ColumnSums]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    magnitude, direction = zip(*(magnitude_and_direction_change(model) for model in models), strict=True)
    return np.stack(magnitude), np.stack(direction)
