"""WIDEN: weights by what changed most in magnitude and direction (Yu et al., arXiv 2408.03092, equations 2 to 7)."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from widen.combination import Weighted
from widen.geometry import ColumnSums
from widen.methods.definition import EachSwitch, each, merge_method
from widen.methods.operands import Operands
from widen.scores import (
    Mask,
    Ranks,
    Vector,
    magnitude_and_direction_change,
    rank_important,
    rank_scores,
    vector_important,
    vector_scores,
)

Values = TypeVar("Values", Vector, Mask)


@merge_method("widen", origin="required", later=("ranks", "exclude"))
def widen(
    tensor: Operands, t: float = 1.0, s: float = 1.0, ranks: Ranks = "order", exclude: EachSwitch = each(False)
) -> Weighted:
    """W_0 + the sum of weight_k * (W_k - W_0), column by column, with the weights of `widen_weights`."""
    sums = [tensor.sums(model) for model in range(tensor.participants)]
    return Weighted(widen_weights(sums, tensor.is_vector, t, s, ranks, exclude))


def widen_weights(
    models: Sequence[ColumnSums], is_vector: bool, t: float = 1.0, s: float = 1.0,
    ranks: Ranks = "order", exclude: EachSwitch | bool = False,
) -> Vector:  # fmt: skip
    """The weight of every model's delta in every column of one tensor: float64 (models, batch, columns).

    models: pass 1 of each model against the base, in recipe order. t: factor on the mean rank above which a column is
    important. s: the score that an important column gets in place of its softmax. ranks: how equal changes rank.
    exclude: for each model, whether the others are weighed as if it were not there; its weights are 0.
    """

    def weigh(among: Sequence[ColumnSums]) -> Vector:
        taking = _taking(among, ranks)
        if is_vector:
            return vector_scores(_sizes(among), t, s, taking)
        magnitude, direction = _changes(among)
        scores = rank_scores(magnitude, t, s, ranks, taking) + rank_scores(direction, t, s, ranks, taking)
        return scores / np.float64(2.0)

    return _spread(weigh, models, exclude)


def widen_important(
    models: Sequence[ColumnSums], is_vector: bool, t: float = 1.0,
    ranks: Ranks = "order", exclude: EachSwitch | bool = False,
) -> Mask:  # fmt: skip
    """Where a delta got the whole score s, important in magnitude and direction: bool (models, batch, columns)."""

    def important(among: Sequence[ColumnSums]) -> Mask:
        taking = _taking(among, ranks)
        if is_vector:
            return vector_important(_sizes(among), t, taking)
        magnitude, direction = _changes(among)
        return rank_important(magnitude, t, ranks, taking) & rank_important(direction, t, ranks, taking)

    return _spread(important, models, exclude)


def _spread(
    work: Callable[[Sequence[ColumnSums]], Values], models: Sequence[ColumnSums], exclude: EachSwitch | bool
) -> Values:
    """What `work` makes of the models that are not excluded; zero for the others."""
    excluded = [exclude] * len(models) if isinstance(exclude, bool) else exclude
    left = [k for k in range(len(models)) if not excluded[k]]
    if len(left) == len(models):
        return work(models)
    if not left:
        return np.zeros_like(work(models))
    found: Values = work([models[k] for k in left])
    spread: Values = np.zeros((len(models), *found.shape[1:]), found.dtype)
    spread[left] = found
    return spread


def _taking(models: Sequence[ColumnSums], ranks: Ranks) -> Mask | None:
    """In which columns each model takes part. The smallest delta's square is no zero in float64."""
    return np.stack([model.delta > 0.0 for model in models]) if ranks == "changed" else None


def _sizes(models: Sequence[ColumnSums]) -> Vector:
    # The square root of a correctly rounded square is exact, so these are the absolute deltas themselves.
    return np.stack([np.sqrt(model.delta) for model in models])


def _changes(models: Sequence[ColumnSums]) -> tuple[Vector, Vector]:
    magnitude, direction = zip(*(magnitude_and_direction_change(model) for model in models), strict=True)
    return np.stack(magnitude), np.stack(direction)
