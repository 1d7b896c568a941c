"""DELLA: elements dropped at random, the smaller the likelier, the rest scaled up for it (arXiv 2406.11617)."""

from widen.combination import EVERY, Elected, Kept
from widen.errors import RecipeError
from widen.methods.definition import Each, each, merge_method
from widen.methods.operands import Operands
from widen.methods.task_vectors import share_of


@merge_method("della", origin="required")
def della(
    tensor: Operands, weight: Each, density: Each = each(1.0), epsilon: Each = each(0.15),
    normalize: bool = True, rescale: bool = True, lambda_: float = 1.0, seed: int = 0,
) -> Elected:  # fmt: skip
    """With the sign that TIES elects among what is left of the deltas, averaged by weights.

    An element stays with a probability from density - epsilon, of the smallest in its stored row, to density + epsilon,
    of the largest, in steps by rank; with `rescale` it then counts 1 / probability. A density of 1 drops nothing.
    """
    kept = _drawn(tensor, weight, density, epsilon, rescale, seed)
    return Elected(kept, consensus=True, normalize=normalize, scale=lambda_)


@merge_method("della_linear", origin="required")
def della_linear(
    tensor: Operands, weight: Each, density: Each = each(1.0), epsilon: Each = each(0.15),
    normalize: bool = False, rescale: bool = True, lambda_: float = 1.0, seed: int = 0,
) -> Elected:  # fmt: skip
    """The weighted sum of the same, without a vote."""
    kept = _drawn(tensor, weight, density, epsilon, rescale, seed)
    return Elected(kept, consensus=False, normalize=normalize, scale=lambda_)


def _drawn(tensor: Operands, weight: Each, density: Each, epsilon: Each, rescale: bool, seed: int) -> tuple[Kept, ...]:
    each = zip(weight, density, epsilon, strict=True)
    return tuple(_kept(*one, tensor.key(seed, model), rescale) for model, one in enumerate(each))


def _kept(weight: float, density: float, epsilon: float, key: int, rescale: bool) -> Kept:
    spread = _spread(density, epsilon)
    alike = 1.0 / density if rescale and not spread and density > 0.0 else 1.0
    return Kept(weight, share=share_of(density), spread=spread, key=key, factor=alike, unbiased=rescale)


def _spread(density: float, epsilon: float) -> int:
    """Of 2**32. Raises RecipeError where a probability would leave the open interval from 0 to 1."""
    if density in (0.0, 1.0):
        return 0
    if not epsilon >= 0.0 or density - epsilon <= 0.0 or density + epsilon >= 1.0:
        raise RecipeError(
            f"epsilon: expected a number such that density - epsilon and density + epsilon lie between 0 and 1, found "
            f"{epsilon} with density {density}"
        )
    return round(epsilon * EVERY)
