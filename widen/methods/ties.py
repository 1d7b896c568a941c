"""TIES: trim each task vector to its largest elements, elect a sign, average those that agree (arXiv 2306.01708)."""

from widen.combination import Elected, Kept
from widen.methods.definition import Each, each, merge_method
from widen.methods.operands import Operands
from widen.methods.task_vectors import kept_count, rescaled


@merge_method("ties", origin="required")
def ties(
    tensor: Operands, weight: Each, density: Each = each(1.0),
    normalize: bool = True, rescale: bool = False, lambda_: float = 1.0,
) -> Elected:  # fmt: skip
    """Of each delta the `density` largest elements, weighted; in each element the models of the larger total's sign.

    normalize: the average of those that agree, by their weights, in place of their sum. rescale: what is left of a
    delta is scaled up to the L1 norm of the whole. The result counts lambda times.
    """
    chosen = ((model, largest(tensor, model, weight[model], density[model])) for model in range(tensor.participants))
    kept = tuple(rescaled(tensor, model, one, rescale) for model, one in chosen)
    return Elected(kept, consensus=True, normalize=normalize, scale=lambda_)


def largest(tensor: Operands, model: int, weight: float, density: float) -> Kept:
    """The largest elements of one model's delta; of equal ones, those that are stored last."""
    elements = tensor.geometry.elements
    return Kept(weight, first=tensor.elements.mark(model, elements - kept_count(density, elements)))
