"""WIDEN: weights by what changed most in magnitude and direction (Yu et al., arXiv 2408.03092, equations 2 to 7)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from widen.geometry import ColumnSums
from widen.scores import magnitude_and_direction_change, rank_scores, vector_scores


def widen_weights(models: Sequence[ColumnSums], is_vector: bool, t: float = 1.0, s: float = 1.0) -> NDArray[np.float64]:
    """The weight of every model's delta in every column of one tensor: float64 (models, batch, columns).

    models: pass 1 of each model against the base, in recipe order. t: factor on the mean rank above which a column is
    important. s: the score that an important column gets in place of its softmax.
    """
    if is_vector:
        # The square root of a correctly rounded square is exact, so these are the absolute deltas themselves.
        return vector_scores(np.stack([np.sqrt(model.delta) for model in models]), t, s)
    magnitude, direction = zip(*(magnitude_and_direction_change(model) for model in models), strict=True)
    by_magnitude = rank_scores(np.stack(magnitude), t, s)
    by_direction = rank_scores(np.stack(direction), t, s)
    return (by_magnitude + by_direction) / np.float64(2.0)
