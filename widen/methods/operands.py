"""What a merge method may ask about one tensor."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from widen.combination import Mark
from widen.geometry import ColumnSums


class Operands(Protocol):
    """One tensor of the base and of every model; nothing is measured before it is asked for.

    Participants are what a method puts together. With an `origin` they are the models, as task vectors from the base;
    without one the base is the first participant, and all are tensors from zero. elements: of the whole tensor.
    """

    participants: int
    origin: bool
    is_vector: bool
    elements: int
    batch: int
    columns: int

    def sums(self, model: int) -> ColumnSums:
        """Pass 1 of model number `model` against the base."""

    def between(self, first: int, second: int) -> ColumnSums:
        """Pass 1 of model number `second` against model number `first`."""

    def mark(self, model: int, rank: int) -> Mark:
        """Where `rank` elements of a model's delta, the smallest, end."""

    def key(self, seed: int, model: int) -> int:
        """64 bits for random numbers that belong to this seed, tensor and model, by its place in the recipe."""


def total(values: NDArray[np.float64]) -> np.float64:
    """A sum in one order; NumPy's `sum` promises none."""
    return np.float64(np.cumsum(values.reshape(-1))[-1]) if values.size else np.float64(0.0)
