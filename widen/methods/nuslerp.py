"""NuSLERP: slerp between two models, or between two task vectors, by weights (mergekit's method; no paper)."""

import numpy as np

from widen.combination import Lines, Weighted
from widen.methods.definition import Each, merge_method
from widen.methods.gram import gram, spread
from widen.methods.operands import Operands
from widen.methods.slerp import arc

LEAST_TOTAL, LEAST_SQUARE, LEAST_NORM = 1e-6, 1e-16, 1e-7


@merge_method("nuslerp", origin="optional", least=2, most=2)
def nuslerp(tensor: Operands, weight: Each, nuslerp_flatten: bool = True, nuslerp_row_wise: bool = False) -> Weighted:
    """Along the arc from the first to the second, by the second's share of both weights; half way where they cancel.

    With a base the arc is between the deltas, and what comes of it is added to the base. A tensor is one vector, or,
    without `nuslerp_flatten`, each stored row is; with `nuslerp_row_wise` each stored column (mergekit's own name for
    it).
    """
    by_column = nuslerp_row_wise and not tensor.is_vector
    lines: Lines | None = None if nuslerp_flatten else "stored columns" if by_column else "stored rows"
    both = weight[0] + weight[1]
    t = 0.5 if abs(both) < LEAST_TOTAL else weight[1] / both
    products = gram(tensor, lines)
    norms = [np.maximum(np.sqrt(np.maximum(products[k, k], 0.0)), LEAST_NORM) for k in range(2)]
    cosine = np.minimum(np.maximum(products[0, 1] / (norms[0] * norms[1]), -1.0), 1.0)
    return spread(tensor, arc(t, cosine, straight=1.0 - cosine * cosine <= LEAST_SQUARE), lines=lines)
