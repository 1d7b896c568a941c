"""What a comparison came to, as values: a row a method, each number with its bounds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from flows.compare.plan import Candidate

if TYPE_CHECKING:
    from registry.clauses import Parent
    from registry.intervals import Interval
    from registry.kept_share import Kept
    from registry.scorecard import Scorecard

SCHEMA = "widen-comparison/1"
WINNER, SAME, NOT_TOLD, LOWER = "winner", "the same merge", "not told apart", "lower"
MOST_SHOWN = 6


@dataclass(frozen=True)
class Figure:
    """A number with its one-sided bounds."""

    value: float
    lower: float
    upper: float

    @classmethod
    def of(cls, found: "Interval") -> "Figure":
        """From the gate's statistics."""
        return cls(found.estimate, found.lower, found.upper)


@dataclass(frozen=True)
class Tried:
    """A candidate that was scored. `scores` are by label; `key` is what its tensors are a function of."""

    candidate: Candidate
    key: str
    digest: str
    kept: "Kept"
    shares: Mapping[str, Figure]
    objective: Figure
    scores: Mapping[str, Figure]

    @property
    def method(self) -> str:
        """Its method."""
        return self.candidate.method

    def content(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "method": self.method,
            "trial": self.candidate.trial,
            "parameters": self.candidate.parameters,
            "key": self.key,
            "digest": self.digest,
            "objective": asdict(self.objective),
            "shares": _figures(self.shares),
            "scores": _figures(self.scores),
        }


@dataclass(frozen=True)
class Row:
    """A method by its best candidate, and how it stands to the winner; `trials` are all of its candidates."""

    best: Tried
    standing: str
    trials: tuple[Tried, ...]


@dataclass(frozen=True)
class Reference:
    """The base or a parent: its scores, and what a merge that were this model would keep."""

    name: str
    objective: float
    scores: Mapping[str, Figure]


@dataclass(frozen=True)
class Result:
    """Rows from the best to the worst; `failed` methods with the reason; `level` is that of the comparisons.

    `better` says of each label whether higher is; `shown` are the labels that table and picture have room for.
    """

    name: str
    alpha: float
    level: float
    documents: Mapping[str, Mapping[str, int]]
    rows: tuple[Row, ...]
    references: tuple[Reference, ...]
    failed: Mapping[str, str]
    better: Mapping[str, bool]
    shown: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def winner(self) -> Tried:
        """The candidate with the largest mean share kept."""
        return self.rows[0].best

    @property
    def candidates(self) -> int:
        """How many were compared."""
        return sum(len(row.trials) for row in self.rows)

    def content(self) -> dict[str, Any]:
        """As JSON can hold it."""
        rows = [
            row.best.content() | {"standing": row.standing, "trials": [one.content() for one in row.trials]}
            for row in self.rows
        ]
        references = [
            {"name": one.name, "objective": one.objective, "scores": _figures(one.scores)} for one in self.references
        ]
        return {
            "schema": SCHEMA,
            "recipe": self.name,
            "alpha": self.alpha,
            "level": self.level,
            "documents": {side: dict(counts) for side, counts in self.documents.items()},
            "higher_is_better": dict(self.better),
            "methods": rows,
            "references": references,
            "failed": dict(self.failed),
            "warnings": list(self.warnings),
        }


def figures_of(card: "Scorecard", alpha: float) -> dict[str, Figure]:
    """Every score of a model with its bounds, by label."""
    from registry.kept_share import score_interval

    return {one.label: Figure.of(score_interval(card, one.task, one.metric, one.filter, alpha)) for one in card.tasks}


def shares_of(
    clauses: "Sequence[Parent]", card: "Scorecard", base: "Scorecard", parents: "Mapping[str, Scorecard]"
) -> "list[Kept]":
    """What a model keeps on every clause."""
    from registry.kept_share import kept_share

    return [kept_share(clause, card, base, parents[clause.owner]) for clause in clauses]


def ranked(tried: Sequence[Tried], alpha: float) -> tuple[list[Row], float]:
    """Methods by their best candidates, ties in the order given; and the level at which the winner is held to others.

    A method is `lower` where all of its candidates are below the winner by a paired difference whose bound at level
    alpha / (candidates - 1) excludes zero: with confidence 1 - alpha the truly best of the candidates is then among the
    methods that are not (J. C. Hsu, Annals of Statistics 9 (1981), 1026-1034, by Bonferroni's inequality).
    """
    level = alpha / max(1, len(tried) - 1)
    methods = dict.fromkeys(one.method for one in tried)
    best = {name: max((one for one in tried if one.method == name), key=lambda one: one.kept.value) for name in methods}
    ordered = sorted(methods, key=lambda name: -best[name].kept.value)
    winner = best[ordered[0]]
    rows = []
    for name in ordered:
        mine = tuple(one for one in tried if one.method == name)
        rows.append(Row(best[name], _standing(best[name], mine, winner, level), mine))
    return rows, level


def _standing(best: Tried, mine: Sequence[Tried], winner: Tried, level: float) -> str:
    if best is winner:
        return WINNER
    if best.digest == winner.digest:  # two methods may be one at some parameters
        return SAME
    lower = all(one.kept.minus(winner.kept).interval(level).upper < 0 for one in mine)
    return LOWER if lower else NOT_TOLD


def labels_shown(labels: Sequence[str], asked: Sequence[str]) -> tuple[str, ...]:
    """All labels where they are few, else those that the gate's clauses ask about."""
    return tuple(labels) if len(labels) <= MOST_SHOWN else tuple(one for one in labels if one in asked)


def notes(result: Result) -> Iterator[str]:
    """What the table shows, and what it does not."""
    confidence = 100 * (1 - 2 * result.alpha)
    yield f"Kept: the share of the owners' gains over the base, mean over {_clauses(result)} of gates.parents."
    yield f"In brackets: {confidence:g}% intervals, each bound at level {result.alpha:g}, on the selection documents."
    same = [row.best.method for row in result.rows if row.standing == SAME]
    if same:
        yield f"The very same merge as the winner's, to the byte: {', '.join(same)}."
    unsure = [row.best.method for row in result.rows if row.standing == NOT_TOLD]
    if unsure:
        yield (
            f"Not told apart from the winner by paired differences on the same documents, at level {result.alpha:g} "
            f"over all {result.candidates} candidates: {', '.join(unsure)}."
        )
    elif len(result.rows) > 1 + len(same):
        count = result.candidates
        yield f"Every other method is below the winner, at level {result.alpha:g} over all {count} candidates."
    yield (
        "The winner was chosen by these very documents, so its own figures here are high by chance too: the gate below "
        "asks others."
    )


def _clauses(result: Result) -> str:
    count = len(result.winner.shares)
    return "one clause" if count == 1 else f"{count} clauses"


def _figures(figures: Mapping[str, Figure]) -> dict[str, dict[str, float]]:
    return {label: asdict(figure) for label, figure in figures.items()}
