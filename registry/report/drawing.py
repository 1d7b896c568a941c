"""Intervals on an axis, as positions in percent of the axis' width: a page of any width draws them with these."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

from registry.decision import ClauseResult
from registry.report.values import ScoreRow
from registry.report.words import asked, figure, found, interval, number

PADDING = 0.08


@dataclass(frozen=True)
class Whisker:
    """An estimate with its bounds, `low` <= `at` <= `high` in percent, and what they are in words."""

    label: str
    role: str
    at: float
    low: float | None
    high: float | None
    value: str
    bounds: str


@dataclass(frozen=True)
class Forest:
    """One question of the gate: its whisker, and the threshold; to the right is better."""

    verdict: str
    whisker: Whisker
    threshold: float
    text: str
    details: str
    method: str


@dataclass(frozen=True)
class Lanes:
    """One task: a whisker a model on a common axis from `first` to `last`, in the metric's unit."""

    row: ScoreRow
    whiskers: tuple[Whisker, ...]
    first: str
    last: str


class _Axis:
    def __init__(self, values: Iterable[float]) -> None:
        finite = [value for value in values if isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = (high - low) * PADDING or abs(high) * PADDING or 1.0
        self.low, self.high = low - room, high + room

    def at(self, value: float) -> float:
        """The place of a value in percent; what is not finite lies at the end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(100 * share, 2)


def forest(result: ClauseResult) -> Forest:
    """One clause on an axis of its own, with more to the right being better whatever the metric."""
    axis = _Axis((result.lower, result.estimate, result.upper, result.threshold))
    whisker = Whisker(
        asked(result), "merged", axis.at(result.estimate), axis.at(result.lower), axis.at(result.upper),
        figure(result.estimate), interval(result.lower, result.upper),
    )  # fmt: skip
    documents = f"{result.n} documents" + (f" in {result.clusters} clusters" if result.clusters != result.n else "")
    return Forest(
        str(result.verdict), whisker, axis.at(result.threshold), found(result), result.text,
        f"{result.method}, {documents}",
    )  # fmt: skip


def lanes(row: ScoreRow) -> Lanes:
    """All models of one task on one axis, in the metric's own direction."""
    axis = _Axis(value for one in row.scores for value in (one.value, one.lower, one.upper) if value is not None)
    whiskers = tuple(
        Whisker(
            one.model, one.role, axis.at(one.value), None if one.lower is None else axis.at(one.lower),
            None if one.upper is None else axis.at(one.upper), figure(one.value), interval(one.lower, one.upper),
        )
        for one in row.scores
    )  # fmt: skip
    return Lanes(row, whiskers, number(axis.low), number(axis.high))


def lanes_of(rows: Sequence[ScoreRow]) -> tuple[Lanes, ...]:
    """`lanes` of every row that has a score."""
    return tuple(lanes(row) for row in rows if row.scores)
