"""What a gate found: a verdict with every number it stands on, as a value that can be stored and compared."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from registry.errors import GateError
from registry.scorecard import canonical, sha256

SCHEMA = "widen-decision/2"
READABLE = ("widen-decision/1", SCHEMA)
NO_CHAMPION = "none"

Question = Literal["absolute", "non-inferior", "superior", "better on any", "better in the mean"]


class Verdict(StrEnum):
    """INCONCLUSIVE is not a pass: the data neither shows the clause holds nor that it fails."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """PASS when every verdict is, FAIL when any is, else INCONCLUSIVE. Raises GateError when there is none."""
    held = tuple(verdicts)
    if not held:
        raise GateError("a gate without a clause decides nothing; name at least one that can be asked")
    if Verdict.FAIL in held:
        return Verdict.FAIL
    return Verdict.PASS if set(held) == {Verdict.PASS} else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class Reference:
    """A model that a clause compared with, and its value there."""

    model: str
    value: float


@dataclass(frozen=True)
class ClauseResult:
    """One question of one clause, answered.

    `estimate`, `lower` and `upper` are oriented so that more is better whatever the metric: for an absolute clause the
    merged model's value (negated when lower is better), else the contrast of the merged model with `references`. The
    question passes when `lower` is above `threshold` (or at it, if absolute) and fails when `upper` is below it.
    `margin` is what the clause allows to be lost, in the metric's unit; `merged` and `references` are plain values.
    A question over several tasks names them all in `task`, joined by " + ", and `metric` likewise. "better on any" then
    holds `estimate`, `merged` and `references` of the task with the smallest p-value, its `lower` at the level that
    Holm leaves it, and the highest `upper` of all; "better in the mean" holds the means over the tasks.
    `variance` is that of one document's term, for power; `n` counts documents in `clusters` independent groups.
    """

    clause: str
    question: Question
    task: str
    metric: str
    filter: str
    higher_is_better: bool
    verdict: Verdict
    estimate: float
    lower: float
    upper: float
    threshold: float
    margin: float | None
    n: int
    clusters: int
    variance: float
    method: str
    merged: float
    references: tuple[Reference, ...]
    text: str


@dataclass(frozen=True)
class Decision:
    """The verdict on one merged model.

    `models` holds (role, name, model digest, scores digest) of every scorecard used. `warnings` say where the numbers
    are thin, `notes` what stands in for what on a first run; neither changes the verdict. `against` is the weights'
    digest of the champion that champion clauses were asked against, NO_CHAMPION when there was none yet, and None when
    there is no such clause.
    """

    merged: str
    merged_digest: str
    alpha: float
    verdict: Verdict
    results: tuple[ClauseResult, ...]
    models: tuple[tuple[str, str, str, str], ...]
    warnings: tuple[str, ...] = ()
    against: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expected = overall(r.verdict for r in self.results)
        if self.verdict is not expected:
            raise GateError(f"decision on {self.merged}: its clauses make {expected}, yet it says {self.verdict}")

    @property
    def passed(self) -> bool:
        """Whether the verdict allows a promotion by itself."""
        return self.verdict is Verdict.PASS

    def to_json(self) -> str:
        """Canonical JSON text: equal decisions give equal bytes."""
        return canonical({"schema": SCHEMA, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Decision":
        """The decision that `to_json` wrote. Raises GateError for anything else, or a verdict that its clauses deny."""
        try:
            held = json.loads(text)
            if held.pop("schema") not in READABLE:
                raise GateError(f"decision: expected schema {SCHEMA}; run the gate again")
            held["verdict"] = Verdict(held["verdict"])
            held["results"] = tuple(_result(r) for r in held["results"])
            held["models"] = tuple(tuple(m) for m in held["models"])
            held["warnings"] = tuple(held["warnings"])
            held["notes"] = tuple(held.get("notes", ()))
            return cls(**held)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GateError(f"not a gate decision: {error!r}; run the gate again") from error

    def digest(self) -> str:
        """The sha256 of `to_json()`."""
        return sha256(self.to_json())

    def lines(self) -> tuple[str, ...]:
        """The decision for a terminal, one line a clause, then notes and warnings, then the verdict."""
        clauses = tuple(f"{r.verdict:<12} {r.text}" for r in self.results)
        notes = tuple(f"note         {note}" for note in self.notes)
        warnings = tuple(f"warning      {warning}" for warning in self.warnings)
        return (*clauses, *notes, *warnings, f"{self.verdict:<12} {self.merged}")


def _result(held: dict[str, Any]) -> ClauseResult:
    references = tuple(Reference(**r) for r in held["references"])
    return ClauseResult(**{**held, "verdict": Verdict(held["verdict"]), "references": references})
