"""What a unit of scoring holds: models by their tasks' costs, longest first, cut where that ends sooner; pure."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

LEAST_GAIN = 0.01
"""The share of the time that cuts must save."""
CUTS = 4
"""Cuts that are tried, by slot beside the first."""


@dataclass(frozen=True)
class Piece:
    """Tasks of one model, asked in one go: seconds to load it, and of each task."""

    model: int
    load: float
    tasks: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """What it takes."""
        return fsum((self.load, *self.tasks.values()))  # the same in any order


def plan(models: Sequence[tuple[float, Mapping[str, float]]], slots: int) -> list[Piece]:
    """The pieces of all models, longest first: each slot takes the next as it becomes free.

    models: seconds to load, and each task's. A model is one piece unless cutting some in two, the longest piece first,
    shortens the whole by more than LEAST_GAIN; of the numbers of cuts that do, the one that ends soonest.
    """
    best = [Piece(place, load, dict(tasks)) for place, (load, tasks) in enumerate(models) if tasks]
    ends, pieces = makespan(best, slots), best
    for _ in range(CUTS * (slots - 1)):
        pieces = _cut_longest(pieces)
        if (sooner := makespan(pieces, slots)) < ends * (1 - LEAST_GAIN):
            best, ends = pieces, sooner
    return _ordered(best)


def makespan(pieces: Sequence[Piece], slots: int) -> float:
    """Seconds until the last of `slots` ends, each taking the next longest piece as it becomes free."""
    free = [0.0] * slots
    for piece in _ordered(pieces):
        heapq.heapreplace(free, free[0] + piece.seconds)
    return max(free)


def _ordered(pieces: Sequence[Piece]) -> list[Piece]:
    return sorted(pieces, key=lambda one: (-one.seconds, one.model, list(one.tasks)))


def _cut_longest(pieces: Sequence[Piece]) -> list[Piece]:
    """With the longest piece of several tasks in two: each task, dearest first, to the half that costs less."""
    longest = next((one for one in _ordered(pieces) if len(one.tasks) > 1), None)
    if longest is None:
        return list(pieces)
    halves: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name in sorted(longest.tasks, key=lambda name: (-longest.tasks[name], name)):
        least = min(halves, key=lambda half: (sum(half.values()), len(half)))
        least[name] = longest.tasks[name]
    cut = [Piece(longest.model, longest.load, half) for half in halves]
    return [*(one for one in pieces if one is not longest), *cut]
