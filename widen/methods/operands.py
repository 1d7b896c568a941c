"""What a merge method may ask about one tensor."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from widen.combination import Kept, Lines, Mark
from widen.geometry import ColumnSums, Geometry


class Elements(Protocol):
    """The single elements of a tensor; what is asked reads all of it, once or a few times."""

    def mark(self, model: int, rank: int) -> Mark:
        """Where `rank` elements of a model's delta, the smallest, end."""

    def varied_mark(self, rank: int) -> Mark:
        """Where `rank` elements, those in which the models' deltas vary least, end."""

    def varied(self) -> int:
        """In how many elements the models' deltas vary at all."""

    def energies(self, varied: Mark) -> NDArray[np.float64]:
        """Each model's sum of squared deltas over the elements at or beyond a mark of the variance, (models,)."""

    def kept_size(self, model: int, kept: Kept) -> tuple[float, float]:
        """The sum of a model's abs(delta) over all elements, and over those kept, without factor and weight."""


class Operands(Protocol):
    """One tensor of the base and of every model; nothing is measured before it is asked for.

    Participants are what a method puts together. With an `origin` they are the models, as task vectors from the base;
    without one the base is the first participant, and all are tensors from zero.
    """

    participants: int
    origin: bool
    is_vector: bool
    geometry: Geometry

    @property
    def elements(self) -> Elements:
        """Its single elements."""

    def sums(self, model: int, against: int | None = None, lines: Lines = "columns") -> ColumnSums:
        """Pass 1 of a model against the base, or against another model; of its columns, or of other lines."""

    def key(self, seed: int, model: int) -> int:
        """64 bits for random numbers that belong to this seed, tensor and model, by its place in the recipe."""


def total(values: NDArray[np.float64]) -> np.float64:
    """A sum in one order; NumPy's `sum` promises none."""
    return np.float64(np.cumsum(values.reshape(-1))[-1]) if values.size else np.float64(0.0)
