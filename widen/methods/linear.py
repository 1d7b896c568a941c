"""Linear: the weighted average of whole models (model soups: Wortsman et al., arXiv 2203.05482, section 2)."""

from widen.combination import Weighted
from widen.methods.definition import Each, merge_method
from widen.methods.gram import spread
from widen.methods.operands import Operands
from widen.methods.task_vectors import column, divisor_of


@merge_method("linear", origin="none")
def linear(tensor: Operands, weight: Each, normalize: bool = True) -> Weighted:
    """weight_1 * W_1 + ... + weight_n * W_n, divided by the sum of the weights unless `normalize` is false."""
    return spread(tensor, column(weight) / divisor_of(weight, normalize), affine=normalize)
