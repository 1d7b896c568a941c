"""A model's scores, document by document: what a gate compares."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

from registry.errors import GateError

Kind = Literal["proportion", "mean", "ratio"]

SCHEMA = "widen-scorecard/2"


def canonical(value: object) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text, so that its digest is an identity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(text: str) -> str:
    """The sha256 of `text` in UTF-8, as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Document:
    """One document's score.

    `score` is 0 or 1 (a proportion), a term of a mean, or, for a ratio of sums, the document's loss with `weight` its
    bytes or words. `cluster` names the group of documents that are not independent of each other (one passage, say).
    Raises GateError when `score` or `weight` is not finite or `weight` is negative.
    """

    doc_hash: str
    target_hash: str
    score: float
    weight: float = 1.0
    cluster: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", float(self.score))
        object.__setattr__(self, "weight", float(self.weight))
        if not math.isfinite(self.score):
            raise GateError(
                f"document {self.doc_hash}: expected a finite score, found {self.score}; "
                "the model's outputs or its weights hold NaN or infinity: do not gate on it, look at the model"
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise GateError(f"document {self.doc_hash}: expected a finite weight >= 0, found {self.weight}")

    @property
    def key(self) -> tuple[str, str]:
        """What two models' documents are joined on, inside one task and filter."""
        return self.doc_hash, self.target_hash


@dataclass(frozen=True)
class TaskScores:
    """One metric of one task: every document's score, sorted by document key (equal keys keep their given order).

    `kind` says how the documents make the metric: "proportion" and "mean" average the scores, "ratio" is
    sum(score) / sum(weight). `task_hash` pins the task's configuration and documents, `prompts_hash` every request made
    of them: instruction, examples and chat template included.

    Raises GateError for an unknown kind, a proportion's score other than 0 or 1, or documents of which only some name a
    cluster.
    """

    task: str
    metric: str
    filter: str
    kind: Kind
    higher_is_better: bool
    version: str
    task_hash: str
    documents: tuple[Document, ...]
    prompts_hash: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "documents", tuple(sorted(self.documents, key=lambda d: d.key)))
        if self.kind not in get_args(Kind):
            raise GateError(f"{self.label}: expected a kind among {', '.join(get_args(Kind))}, found {self.kind!r}")
        if self.kind == "proportion":
            self._require_zero_or_one()
        if len({d.cluster is None for d in self.documents}) > 1:
            raise GateError(f"{self.label}: some documents name a cluster and some do not; give every one or none")

    def _require_zero_or_one(self) -> None:
        for document in self.documents:
            if document.score not in (0.0, 1.0):
                raise GateError(
                    f"{self.label}, document {document.doc_hash}: a proportion's score is 0 or 1, "
                    f"found {document.score}; use the kind 'mean'"
                )

    @property
    def label(self) -> str:
        """The task and metric as messages name them."""
        return f"{self.task}/{self.metric}" + (f"[{self.filter}]" if self.filter not in ("", "none") else "")

    @property
    def clustered(self) -> bool:
        """Whether the documents come in clusters."""
        return bool(self.documents) and self.documents[0].cluster is not None

    @property
    def value(self) -> float:
        """The metric over all documents. Raises GateError when there is no document, or no weight in a ratio."""
        if not self.documents:
            raise GateError(f"{self.label}: zero documents were scored, so the metric has no value")
        total = math.fsum(d.score for d in self.documents)
        weight = math.fsum(d.weight for d in self.documents) if self.kind == "ratio" else float(len(self.documents))
        if weight == 0:
            raise GateError(f"{self.label}: the documents' weights sum to zero, so the ratio has no value")
        return total / weight


@dataclass(frozen=True)
class Scorecard:
    """Everything measured on one model. `digest` is the model's root digest.

    `harness` is what measured it: the harness, its backend and the arithmetic, with their versions.

    Tasks are held sorted by (task, metric, filter). Raises GateError when two entries share all three.
    """

    model: str
    digest: str
    harness: str
    tasks: tuple[TaskScores, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.tasks, key=lambda t: (t.task, t.metric, t.filter)))
        object.__setattr__(self, "tasks", ordered)
        for one, two in pairwise(ordered):
            if (one.task, one.metric, one.filter) == (two.task, two.metric, two.filter):
                raise GateError(f"{self.model}: the scorecard holds {one.label} twice")

    def get(self, task: str, metric: str, filter_name: str | None = None) -> TaskScores:
        """The scores of `task` and `metric`. Raises GateError for none, and for several when no filter is named."""
        found = [t for t in self.tasks if t.task == task and t.metric == metric and filter_name in (None, t.filter)]
        if not found:
            held = ", ".join(f"{t.task}/{t.metric}[{t.filter}]" for t in self.tasks) or "nothing"
            wanted = f"{task}/{metric}" + (f"[{filter_name}]" if filter_name is not None else "")
            raise GateError(f"{self.model}: no scores for {wanted}; the scorecard holds {held}")
        if len(found) > 1:
            names = ", ".join(repr(t.filter) for t in found)
            raise GateError(f"{self.model}: {task}/{metric} was scored under several filters ({names}); name one")
        return found[0]

    def to_json(self) -> str:
        """Canonical JSON text: equal scorecards give equal bytes."""
        return canonical(
            {
                "schema": SCHEMA,
                "model": self.model,
                "digest": self.digest,
                "harness": self.harness,
                "tasks": [_task_to_dict(t) for t in self.tasks],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Scorecard":
        """The scorecard that `to_json` wrote.

        Raises GateError when `text` is anything else, one of an earlier schema included: what it lacks (prompts by
        hash, in the first) cannot be told from what it holds.
        """
        try:
            held = json.loads(text)
            if held["schema"] != SCHEMA:
                raise GateError(
                    f"scorecard: expected schema {SCHEMA}, found {held['schema']!r}; evaluate that model again"
                )
            tasks = tuple(_task_from_dict(t) for t in held["tasks"])
            return cls(held["model"], held["digest"], held["harness"], tasks)
        except (ValueError, KeyError, TypeError) as error:
            raise GateError(f"not a scorecard: {error!r}; evaluate again") from error

    def digest_of_scores(self) -> str:
        """The sha256 of `to_json()`: the identity of these scores (`digest` is the model's own)."""
        return sha256(self.to_json())


def _task_to_dict(scores: TaskScores) -> dict[str, Any]:
    rows = [[d.doc_hash, d.target_hash, d.score, d.weight, d.cluster] for d in scores.documents]
    return {
        "task": scores.task,
        "metric": scores.metric,
        "filter": scores.filter,
        "kind": scores.kind,
        "higher_is_better": scores.higher_is_better,
        "version": scores.version,
        "task_hash": scores.task_hash,
        "prompts_hash": scores.prompts_hash,
        "value": scores.value if scores.documents else None,
        "documents": rows,
    }


def _task_from_dict(held: Mapping[str, Any]) -> TaskScores:
    fields = ("task", "metric", "filter", "kind", "higher_is_better", "version", "task_hash", "prompts_hash")
    documents = tuple(Document(*row) for row in held["documents"])
    return TaskScores(**{name: held[name] for name in fields}, documents=documents)
