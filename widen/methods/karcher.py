"""The Karcher mean: the point of the sphere with the least squared distance to all models (Karcher, 1977).

Found as in arXiv 2603.04972: from the normalised mean along the mean of the logarithms, step by step. Every step stays
in the span of the models, so the sphere's geometry needs their Gram matrix alone.
"""

import numpy as np

from widen.combination import Weighted
from widen.methods.definition import merge_method
from widen.methods.gram import Coefficients, Matrix, gram, norm, spread
from widen.methods.operands import Operands, total
from widen.trigonometry import PI, angle_of, cosine, sine


@merge_method("karcher", origin="none")
def karcher(tensor: Operands, max_iter: int = 10, tol: float = 1e-5) -> Weighted:
    """The mean direction of all models with equal say, times the mean of their lengths.

    max_iter: steps at most. tol: a length or step below it counts as none, float64.
    """
    products = gram(tensor)[:, :, 0, 0]
    lengths = np.sqrt(np.maximum(np.diag(products), 0.0))
    alive = lengths > tol
    if len(lengths) == 1 or not alive.any():
        return spread(tensor, np.full(len(lengths), 1.0 / len(lengths)))
    units = np.where(alive, lengths, 1.0)
    cosines = products / (units[:, None] * units[None, :])
    mean = _mean(cosines, alive / total(alive.astype(np.float64)), max_iter, tol)
    return spread(tensor, mean / units * (total(lengths) / np.float64(len(lengths))))


def _mean(cosines: Matrix, shares: Coefficients, max_iter: int, tol: float) -> Coefficients:
    """Coefficients of the unit vectors; `shares` is zero for those that do not count."""
    length = norm(cosines, shares)
    mean = shares / length if length >= tol else np.eye(len(shares))[int(np.argmax(shares > 0.0))]
    for _ in range(max_iter):
        tangent = _tangent(cosines, shares, mean, tol)
        step = norm(cosines, tangent)
        if step < tol:
            break
        arc = np.minimum(step, PI)
        mean = cosine(arc) * mean + sine(arc) * (tangent / step)
        length = norm(cosines, mean)
        mean = mean / length if length > tol else mean
    return mean


def _tangent(cosines: Matrix, shares: Coefficients, mean: Coefficients, tol: float) -> Coefficients:
    """The mean of the models' logarithms at `mean`."""
    onto = np.array([total(row * mean) for row in cosines])
    onto = np.minimum(np.maximum(onto, -1.0), 1.0)
    angles = angle_of(onto)
    pulls = np.where(angles < tol, 0.0, shares * angles / np.where(angles < tol, 1.0, sine(angles)))
    return pulls - total(pulls * onto) * mean
