"""What a method asks of pass 2: how the models of one tensor are put together, as values that every backend takes."""

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Lines = Literal["columns", "stored rows", "stored columns"]
EVERY = 1 << 32
"""The share of random numbers, of 2**32, that keeps every element."""


@dataclass(frozen=True)
class Weighted:
    """base + growth * base + sum over models of weight * (model - base).

    weights: float64 (models, batch, lines). growth: what the base counts beyond once, float64 (batch, lines), None for
    nothing. lines: the columns as the plan has them, or, for methods that go by it, the stored rows or columns.
    """

    weights: NDArray[np.float64]
    growth: NDArray[np.float64] | None = None
    lines: Lines = "columns"


@dataclass(frozen=True)
class Mark:
    """A mark in the order of a tensor's elements by a size, equal ones by their index in storage.

    It stands before the element of this size and index. The size is abs(delta), unless another one is named.
    """

    size: float
    index: int = 0


SMALLEST, BEYOND = Mark(0.0), Mark(inf)
"""Before every element, and after them all."""


@dataclass(frozen=True)
class Kept:
    """Which elements of one model's delta count, and how much.

    Those from `first` up to but not including `last`, as far as their random number, uint32, is below their share of
    2**32: `share` for all, or, with a `spread`, from share - spread for the smallest abs(delta) of a stored row to
    share + spread for the largest, in steps by rank. The numbers are a function of `key` and the element's index in
    storage. Each element is multiplied by `factor`, with `unbiased` divided by its share, and multiplied by `weight`.
    """

    weight: float
    first: Mark = SMALLEST
    last: Mark = BEYOND
    share: int = EVERY
    spread: int = 0
    key: int = 0
    factor: float = 1.0
    unbiased: bool = False


@dataclass(frozen=True)
class Elected:
    """base + scale * the sum over models of what is kept of their deltas.

    consensus: in each element only models of the sign that their sum has count; the sum is of the weighted deltas, or
    with `equal_votes` of the deltas alone. normalize: divided by the sum of the weights that count there. varied: only
    elements count whose variance over the models stands at or beyond this mark.
    """

    models: tuple[Kept, ...]
    consensus: bool
    normalize: bool
    scale: float = 1.0
    equal_votes: bool = False
    varied: Mark = SMALLEST


Combination = Weighted | Elected
