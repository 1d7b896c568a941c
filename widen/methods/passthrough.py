"""Passthrough: one model as it is, for stacking layers anew (mergekit, Goddard et al., arXiv 2403.13257)."""

import numpy as np

from widen.combination import Weighted
from widen.methods.definition import Each, each, merge_method
from widen.methods.operands import Operands


@merge_method("passthrough", origin="none", most=1)
def passthrough(tensor: Operands, scale: Each = each(1.0)) -> Weighted:
    """scale * W; with a scale of 1, the bits of W."""
    lines = (tensor.geometry.batch, tensor.geometry.columns)
    growth = None if scale[0] == 1.0 else np.full(lines, np.float64(scale[0]) - np.float64(1.0))
    return Weighted(np.empty((0, *lines)), growth)
