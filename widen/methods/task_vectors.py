"""What the methods of task vectors share: weights, and which elements of a delta are kept."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from widen.combination import EVERY, Kept
from widen.errors import RecipeError
from widen.methods.definition import Each
from widen.methods.operands import Operands, total

LEAST_SIZE = 1e-7
"""A delta whose elements add up to less is not scaled."""


def column(values: Each) -> NDArray[np.float64]:
    """A parameter of each participant as float64 (participants,)."""
    return np.array(values, np.float64)


def divisor_of(weight: Each, normalize: bool) -> np.float64:
    """The sum of the weights, or 1. Raises RecipeError where it is zero, for then nothing can be divided by it."""
    divisor = total(column(weight)) if normalize else np.float64(1.0)
    if divisor == 0.0:
        raise RecipeError("weight: expected weights whose sum is not zero, found zero; set `normalize: false`")
    return divisor


def kept_count(density: float, elements: int) -> int:
    """How many elements a density keeps: rounded down, and at least one of any positive density."""
    require_share("density", density)
    return 0 if density == 0.0 else max(1, int(density * elements))


def rescaled(tensor: Operands, model: int, kept: Kept, rescale: bool) -> Kept:
    """With `rescale`, scaled up to the L1 norm of the whole delta, as mergekit does; nothing is left as nothing."""
    if not rescale:
        return kept
    whole, left = tensor.elements.kept_size(model, kept)
    return replace(kept, factor=whole / left) if min(whole, left) >= LEAST_SIZE else kept


def share_of(density: float) -> int:
    """Of 2**32 equally likely random numbers those that keep an element."""
    require_share("density", density)
    return round(density * EVERY)


def require_share(name: str, value: float) -> None:
    """Raise RecipeError for what is no share of a whole."""
    if not 0.0 <= value <= 1.0:
        raise RecipeError(f"{name}: expected a number from 0 to 1, found {value}")
