"""Model Breadcrumbs: task vectors without their largest and smallest elements (Davari et al., arXiv 2312.06795)."""

from widen.combination import Elected, Kept
from widen.methods.definition import Each, each, merge_method
from widen.methods.operands import Operands
from widen.methods.task_vectors import require_share, rescaled


@merge_method("breadcrumbs", origin="required")
def breadcrumbs(
    tensor: Operands, weight: Each, density: Each = each(1.0), gamma: Each = each(0.01),
    normalize: bool = False, rescale: bool = False, lambda_: float = 1.0,
) -> Elected:  # fmt: skip
    """The weighted sum of what is left: of each delta the `gamma` largest go, and the smallest down to `density`.

    rescale: what is left of a delta is scaled up to the L1 norm of the whole.
    """
    kept = _between(tensor, weight, density, gamma, rescale)
    return Elected(kept, consensus=False, normalize=normalize, scale=lambda_)


@merge_method("breadcrumbs_ties", origin="required")
def breadcrumbs_ties(
    tensor: Operands, weight: Each, density: Each = each(1.0), gamma: Each = each(0.01),
    normalize: bool = False, rescale: bool = False, lambda_: float = 1.0,
) -> Elected:  # fmt: skip
    """The same with the sign that TIES elects in each element."""
    kept = _between(tensor, weight, density, gamma, rescale)
    return Elected(kept, consensus=True, normalize=normalize, scale=lambda_)


def _between(tensor: Operands, weight: Each, density: Each, gamma: Each, rescale: bool) -> tuple[Kept, ...]:
    each = zip(range(tensor.participants), weight, density, gamma, strict=True)
    return tuple(rescaled(tensor, one[0], between(tensor, *one), rescale) for one in each)


def between(tensor: Operands, model: int, weight: float, density: float, gamma: float) -> Kept:
    """A density of 1 keeps all; where both shares exceed the whole, fewer large ones go, so that the density holds."""
    require_share("density", density)
    require_share("gamma", gamma)
    if density == 1.0:
        return Kept(weight)
    elements = tensor.geometry.elements
    count = int(density * elements)
    smallest = max(0, elements - count - int(gamma * elements))
    return Kept(weight, tensor.elements.mark(model, smallest), tensor.elements.mark(model, smallest + count))
