"""Multi-SLERP: the mean direction of many models on the sphere, with their mean length.

Source: mergekit's method (goddard.blog, "Multi-SLERP"). Its steps, tangent space at the mean and exponential map back,
leave the mean where it is: the tangent vectors' weighted sum is zero at the weighted mean of the unit vectors. So only
the mean is computed here; in float32 mergekit adds the rounding noise of that zero.
"""

import numpy as np

from widen.combination import Weighted
from widen.errors import RecipeError
from widen.methods.definition import Each, merge_method
from widen.methods.gram import gram, norm, spread
from widen.methods.operands import Operands, total
from widen.methods.task_vectors import column, divisor_of


@merge_method("multislerp", origin="optional")
def multislerp(tensor: Operands, weight: Each, normalize_weights: bool = True, eps: float = 1e-8) -> Weighted:
    """The normalised weighted mean of the participants' directions, times the weighted mean of their lengths.

    eps: added to lengths. Two participants that cancel are averaged; raises RecipeError for more of them that do.
    """
    weights = column(weight) / divisor_of(weight, normalize_weights)
    products = gram(tensor)[:, :, 0, 0]
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    if len(weights) == 1:
        return spread(tensor, np.array([1.0]))
    mean = weights / (lengths + eps)
    length = norm(products, mean)
    if length >= eps:
        return spread(tensor, mean / length * total(lengths * weights))
    if len(weights) == 2 or not lengths.any():
        return spread(tensor, weights)
    raise RecipeError("weight: the models' weighted directions cancel, so they have no mean; choose other weights")
