"""What a search may try: a value chosen from a list, or from a range."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import prod

Value = bool | int | float | str


@dataclass(frozen=True)
class Choices:
    """One of `values`."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included; on a logarithmic scale, or in steps from `low`; whole numbers only."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def last(self) -> float:
        """The highest value that steps from `low` reach."""
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(one)) for one in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)


Space = Mapping[str, Choices | Range]
"""By a parameter's name, or NAME.MODEL for one model's own."""


def planned(space: Space, trials: int) -> int:
    """How many trials a search makes: `trials`, or each combination once where these are no more."""
    return min(trials, grid_size(space) or trials)


def grid_size(space: Space) -> int | None:
    """How many combinations there are where all are lists; else None."""
    lists = [one for one in space.values() if isinstance(one, Choices)]
    return prod(len(one.values) for one in lists) if len(lists) == len(space) else None
