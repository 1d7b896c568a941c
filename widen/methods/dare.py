"""DARE: task vectors with elements dropped at random, the rest scaled up for it (Yu et al., arXiv 2311.03099, eq 3)."""

from widen.combination import Elected, Kept
from widen.methods.definition import Each, each, merge_method
from widen.methods.operands import Operands
from widen.methods.task_vectors import share_of


@merge_method("dare_linear", origin="required")
def dare_linear(
    tensor: Operands, weight: Each, density: Each = each(1.0),
    normalize: bool = False, rescale: bool = True, lambda_: float = 1.0, seed: int = 0,
) -> Elected:  # fmt: skip
    """The weighted sum of the deltas; each element stays with probability `density`, and then counts 1 / density.

    seed: of the random numbers, which are a function of it, the model's place, the tensor's name and the element.
    """
    kept = _drawn(tensor, weight, density, rescale, seed)
    return Elected(kept, consensus=False, normalize=normalize, scale=lambda_)


@merge_method("dare_ties", origin="required")
def dare_ties(
    tensor: Operands, weight: Each, density: Each = each(1.0),
    normalize: bool = False, rescale: bool = True, lambda_: float = 1.0, seed: int = 0,
) -> Elected:  # fmt: skip
    """The same with the sign that TIES elects in each element."""
    kept = _drawn(tensor, weight, density, rescale, seed)
    return Elected(kept, consensus=True, normalize=normalize, scale=lambda_)


def _drawn(tensor: Operands, weight: Each, density: Each, rescale: bool, seed: int) -> tuple[Kept, ...]:
    return tuple(
        Kept(
            weight[model],
            share=share_of(density[model]),
            key=tensor.key(seed, model),
            factor=1.0 / density[model] if rescale and density[model] > 0.0 else 1.0,
        )
        for model in range(tensor.participants)
    )
