"""Model Stock: towards the average of models, by how much their task vectors agree (arXiv 2403.19522, equation 7)."""

import numpy as np

from widen.combination import Lines, Weighted
from widen.methods.definition import merge_method
from widen.methods.gram import gram, spread
from widen.methods.operands import Operands

LEAST_PRODUCT, LEAST_DIVISOR = 1e-6, 1e-6


@merge_method("model_stock", origin="required", least=2)
def model_stock(tensor: Operands, filter_wise: bool = False) -> Weighted:
    """W_0 + t * the mean delta, t = n c / (1 + (n - 1) c), with c the mean cosine between the n deltas of a tensor.

    filter_wise: each stored row has a t of its own. Deltas that oppose each other so far that the divisor vanishes
    leave the base as it is.
    """
    lines: Lines | None = "stored rows" if filter_wise else None
    products, n = gram(tensor, lines), tensor.participants
    norms = [np.sqrt(np.maximum(products[k, k], 0.0)) for k in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    found = np.stack([products[i, j] / np.maximum(norms[i] * norms[j], LEAST_PRODUCT) for i, j in pairs])
    mean = np.cumsum(np.minimum(np.maximum(found, -1.0), 1.0), axis=0)[-1] / np.float64(len(pairs))
    divisor = 1.0 + (n - 1) * mean
    singular = np.abs(divisor) < LEAST_DIVISOR
    t = np.where(singular, 0.0, n * mean / np.where(singular, 1.0, divisor))
    return spread(tensor, np.stack([t / n] * n), lines=lines)
