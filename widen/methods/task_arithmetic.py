"""Task arithmetic: the base and a weighted sum of task vectors (Ilharco et al., arXiv 2212.04089, section 2)."""

from widen.combination import Weighted
from widen.methods.definition import Each, merge_method
from widen.methods.gram import spread
from widen.methods.operands import Operands
from widen.methods.task_vectors import column, divisor_of


@merge_method("task_arithmetic", origin="required")
def task_arithmetic(tensor: Operands, weight: Each, normalize: bool = False, lambda_: float = 1.0) -> Weighted:
    """W_0 + lambda * the sum of weight_k * (W_k - W_0), divided by the sum of the weights with `normalize`."""
    return spread(tensor, column(weight) / divisor_of(weight, normalize) * lambda_)
