"""SCE: select the elements in which models differ most, calculate weights, erase minority signs (arXiv 2408.07990)."""

import numpy as np

from widen.combination import BEYOND, SMALLEST, Elected, Kept, Mark
from widen.methods.definition import merge_method
from widen.methods.operands import Operands, total
from widen.methods.task_vectors import require_share

LEAST_ENERGY = 1e-6
"""A mean square, over all models, below which none counts more than another."""


@merge_method("sce", origin="required")
def sce(tensor: Operands, select_topk: float = 1.0) -> Elected:
    """Of the elements whose deltas vary over the models, the `select_topk` share that vary most, and there the average.

    The models count by the mean square of what is selected of their deltas, and in each element only those of the sign
    of the selected deltas' plain sum.
    """
    varied = _varied(tensor, select_topk)
    squares = tensor.elements.energies(varied) / np.float64(max(1, tensor.geometry.elements))
    together = total(squares)
    count = np.float64(tensor.participants)
    weights = squares / together if together >= LEAST_ENERGY else np.full(tensor.participants, 1.0) / count
    kept = tuple(Kept(float(weight)) for weight in weights)
    return Elected(kept, consensus=True, normalize=True, equal_votes=True, varied=varied)


def _varied(tensor: Operands, select_topk: float) -> Mark:
    require_share("select_topk", select_topk)
    if select_topk == 1.0:
        return SMALLEST
    count = int(tensor.elements.varied() * select_topk)
    return tensor.elements.varied_mark(tensor.geometry.elements - count) if count else BEYOND
