"""What a method asks of pass 2: how the models of one tensor are put together, as values that every backend takes."""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

EVERY = 1 << 32
"""The share of random numbers, of 2**32, that keeps every element."""


@dataclass(frozen=True)
class Weighted:
    """base + growth * base + sum over models of weight * (model - base).

    weights: float64 (models, batch, columns). growth: what the base counts beyond once.
    """

    weights: NDArray[np.float64]
    growth: float = 0.0


@dataclass(frozen=True)
class Mark:
    """A mark in the order of a tensor's elements by abs(delta), equal ones by their index in storage.

    It stands before the element of this size and index.
    """

    size: float
    index: int = 0


SMALLEST, BEYOND = Mark(0.0), Mark(inf)
"""Before every element, and after them all."""


@dataclass(frozen=True)
class Kept:
    """Which elements of one model's delta count, and how much.

    Those from `first` up to but not including `last`, as far as their random number, uint32, is below `share`; the
    numbers are a function of `key` and the element's index in storage. Each is multiplied by `factor`, then `weight`.
    """

    weight: float
    first: Mark = SMALLEST
    last: Mark = BEYOND
    share: int = EVERY
    key: int = 0
    factor: float = 1.0


@dataclass(frozen=True)
class Elected:
    """base + scale * the sum over models of what is kept of their deltas.

    consensus: in each element only models of the sign that their sum has count. normalize: divided by the sum of the
    weights that count there.
    """

    models: tuple[Kept, ...]
    consensus: bool
    normalize: bool
    scale: float = 1.0


Combination = Weighted | Elected
