"""A model's scores with intervals, for records that are read without the pipeline."""

from collections.abc import Mapping
from dataclasses import dataclass

from registry.contrast import absolute
from registry.errors import GateError
from registry.pairing import pair
from registry.scorecard import Scorecard, TaskScores

CONFIDENCE = 0.95
"""Of the two-sided intervals here; the gate's own bounds are one-sided, at the recipe's level."""


@dataclass(frozen=True)
class Figure:
    """One metric's value over `n` documents, with the bounds of its interval where there are enough of them for one."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool
    n: int
    value: float
    lower: float | None
    upper: float | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What the same figure of another model has in common with this one."""
        return self.task, self.metric, self.filter

    @property
    def label(self) -> str:
        """Task, metric and, where one was used, filter."""
        return f"{self.task} {self.metric}" + (f" [{self.filter}]" if self.filter not in ("", "none") else "")


def figures(card: Scorecard) -> tuple[Figure, ...]:
    """The card's scores, each with the interval that the gate would take for such a metric."""
    return tuple(_figure(card, scores) for scores in card.tasks if scores.documents)


def _figure(card: Scorecard, scores: TaskScores) -> Figure:
    lower, upper = _bounds(card, scores)
    return Figure(
        task=scores.task,
        metric=scores.metric,
        filter=scores.filter,
        higher_is_better=scores.higher_is_better,
        n=len(scores.documents),
        value=scores.value,
        lower=lower,
        upper=upper,
    )


def _bounds(card: Scorecard, scores: TaskScores) -> tuple[float | None, float | None]:
    cards: Mapping[str, Scorecard] = {card.model: card}
    try:
        found = absolute(pair(cards, scores.task, scores.metric, scores.filter), (1 - CONFIDENCE) / 2).interval
    except GateError:  # a single document has a value and no interval
        return None, None
    return (found.lower, found.upper) if scores.higher_is_better else (-found.upper, -found.lower)
