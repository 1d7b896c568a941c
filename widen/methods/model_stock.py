"""Model Stock: towards the average of models, by how much their task vectors agree (arXiv 2403.19522, equation 7)."""

import numpy as np

from widen.combination import Weighted
from widen.methods.definition import merge_method
from widen.methods.gram import gram, spread
from widen.methods.operands import Operands, total

LEAST_PRODUCT, LEAST_DIVISOR = 1e-6, 1e-6


@merge_method("model_stock", origin="required", least=2)
def model_stock(tensor: Operands) -> Weighted:
    """W_0 + t * the mean delta, t = n c / (1 + (n - 1) c), with c the mean cosine between the n deltas of a tensor.

    Deltas that oppose each other so far that the divisor vanishes leave the base as it is.
    """
    products, n = gram(tensor), tensor.participants
    norms = np.sqrt(np.maximum(np.diag(products), 0.0))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    found = np.array([products[i, j] / np.maximum(norms[i] * norms[j], LEAST_PRODUCT) for i, j in pairs])
    mean = total(np.minimum(np.maximum(found, -1.0), 1.0)) / np.float64(len(pairs))
    divisor = 1.0 + (n - 1) * mean
    t = np.float64(0.0) if abs(divisor) < LEAST_DIVISOR else n * mean / divisor
    return spread(tensor, np.full(n, t / n))
