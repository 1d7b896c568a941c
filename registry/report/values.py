"""What a report says, as values that can be stored beside the page and drawn again later from the registry alone."""

import json
from dataclasses import dataclass, fields

from registry.decision import Decision
from registry.errors import GateError, RegistryError
from registry.lineage import Lineage
from registry.report.stored import decoded, encoded
from registry.scorecard import canonical

SCHEMA = "widen-report/1"


@dataclass(frozen=True)
class Scored:
    """A model that was scored: its role (base, parent, champion or merged), its name and the digest of its weights."""

    role: str
    name: str
    digest: str


@dataclass(frozen=True)
class Score:
    """One model's value on a task, with its one-sided bounds, both at the decision's alpha, in the metric's unit.

    `role` and `model` are those of a `Scored`. Without bounds the value had no interval (`ScoreRow.method` says why).
    """

    role: str
    model: str
    value: float
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one task, for every model that has it."""

    task: str
    metric: str
    filter: str
    higher_is_better: bool
    documents: int
    method: str
    scores: tuple[Score, ...]

    @property
    def label(self) -> str:
        """Task and metric, and the filter where one was used."""
        return f"{self.task} {self.metric}" + (f" [{self.filter}]" if self.filter not in ("", "none") else "")


@dataclass(frozen=True)
class TensorChange:
    """How far one tensor of a model is from the base's: norm of the delta over the base's norm, and 1 - cos.

    `layer` is empty outside the layers. `relative` is None where the base's tensor is zero and the model's is not.
    """

    tensor: str
    layer: str
    elements: int
    changed: int
    relative: float | None
    direction: float


@dataclass(frozen=True)
class ModelChange:
    """What one model changed: the same two figures over its network, and for every tensor."""

    model: str
    elements: int
    changed: int
    relative: float | None
    direction: float
    tensors: tuple[TensorChange, ...]


@dataclass(frozen=True)
class Standing:
    """One model's weight in one tensor of the merge: its mean over the columns, the share of columns with the whole
    score (None: the method has no threshold), and the share of columns where it is above every other model's.
    """

    model: str
    tensor: str
    layer: str
    columns: int
    mean_score: float
    share_above: float | None
    share_won: float


@dataclass(frozen=True)
class Reuse:
    """How many tensors were taken from an earlier run, and how many were computed, by reason."""

    reused: int
    computed: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Stage:
    """How long one station of the run took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Override:
    """A promotion against the gate's verdict: who, why, and when (ISO 8601)."""

    by: str
    reason: str
    at: str


@dataclass(frozen=True)
class Event:
    """One entry of the model's history, in words."""

    number: int
    kind: str
    text: str
    by: str
    at: str


@dataclass(frozen=True)
class Report:
    """Everything on the page of one version.

    `standing` is what became of the version when this was written, in words ("the champion", say). `history` holds
    the entries that concern it.
    """

    name: str
    version: int
    decision: Decision
    lineage: Lineage
    models: tuple[Scored, ...]
    scores: tuple[ScoreRow, ...]
    changes: tuple[ModelChange, ...] = ()
    standings: tuple[Standing, ...] = ()
    reuse: Reuse | None = None
    stages: tuple[Stage, ...] = ()
    standing: str = ""
    override: Override | None = None
    history: tuple[Event, ...] = ()

    def to_json(self) -> str:
        """Canonical JSON text: equal reports give equal bytes."""
        held = {one.name: encoded(getattr(self, one.name)) for one in fields(self)}
        held |= {"decision": json.loads(self.decision.to_json()), "lineage": json.loads(self.lineage.to_json())}
        return canonical({"schema": SCHEMA, **held})

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """The report that `to_json` wrote. Raises RegistryError for anything else."""
        try:
            held = json.loads(text)
            if (schema := held.pop("schema")) != SCHEMA:
                raise RegistryError(f"report: expected schema {SCHEMA}, found {schema!r}; run the recipe again")
            decision = Decision.from_json(canonical(held.pop("decision")))
            lineage = Lineage.from_json(canonical(held.pop("lineage")))
            return decoded(cls, {**held, "decision": decision, "lineage": lineage})
        except (ValueError, KeyError, TypeError, AttributeError, GateError) as error:
            raise RegistryError(f"not a stored report: {error!r}; run the recipe again") from error
