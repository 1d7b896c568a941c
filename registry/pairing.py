"""Two or more models on the same documents: joined by key, or refused."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from registry.errors import GateError
from registry.scorecard import Document, Kind, Scorecard, TaskScores

_REMEDIES = {
    "harness": "evaluate {name} again with the same harness, backend and dtype",
    "task hash": "the task's definition or its documents changed in between, evaluate both again on one of them",
    "prompts": "the same task was put in other words: by another system instruction, other examples or another chat "
    "template, which may be the tokenizer's own; evaluate both with the same settings, and without "
    "`apply_chat_template` where the models' own templates differ",
}


@dataclass(frozen=True)
class Paired:
    """The scores of several models on one task, document i of each being the same document.

    `scores` holds one tuple a model, in the order asked for; `weights` and `clusters` are shared by all models.
    """

    task: TaskScores
    models: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    clusters: tuple[str, ...] | None
    values: tuple[float, ...]

    @property
    def kind(self) -> Kind:
        """How the documents make the metric."""
        return self.task.kind

    @property
    def n(self) -> int:
        """How many documents the models share: all of them."""
        return len(self.weights)


def pair(cards: Mapping[str, Scorecard], task: str, metric: str, filter_name: str | None) -> Paired:
    """The models of `cards` (first one first) joined on (task, filter, doc_hash, target_hash).

    A key that occurs several times is joined in the order the documents were scored in, provided that it occurs equally
    often everywhere. Raises GateError, naming the task and the model, when a task is missing or without documents, when
    two models were scored by another harness, version, task hash, prompts or kind of metric, or when their documents,
    weights or clusters differ: a comparison on a subset would be another comparison than the clause asks for.
    """
    (first, *others) = cards
    lead = _scores(first, cards[first], task, metric, filter_name)
    columns = [lead]
    for name in others:
        column = _scores(name, cards[name], task, metric, lead.filter)
        _require_same_measurement(first, cards[first], lead, name, cards[name], column)
        _require_same_documents(first, lead, name, column)
        columns.append(column)
    return Paired(
        task=lead,
        models=tuple(cards),
        scores=tuple(tuple(d.score for d in column.documents) for column in columns),
        weights=tuple(d.weight for d in lead.documents),
        clusters=tuple(str(d.cluster) for d in lead.documents) if lead.clustered else None,
        values=tuple(column.value for column in columns),
    )


def _scores(name: str, card: Scorecard, task: str, metric: str, filter_name: str | None) -> TaskScores:
    scores = card.get(task, metric, filter_name)
    if not scores.documents:
        raise GateError(f"{name}: zero documents were scored on {scores.label}; nothing can be concluded from none")
    return scores


def _require_same_measurement(
    first: str, first_card: Scorecard, lead: TaskScores, name: str, card: Scorecard, column: TaskScores
) -> None:
    pairs = {
        "harness": (first_card.harness, card.harness),
        "task version": (lead.version, column.version),
        "task hash": (lead.task_hash, column.task_hash),
        "prompts": (lead.prompts_hash, column.prompts_hash),
        "kind of metric": (lead.kind, column.kind),
        "higher is better": (lead.higher_is_better, column.higher_is_better),
    }
    for what, (expected, found) in pairs.items():
        if expected != found:
            remedy = _REMEDIES.get(what, "evaluate {name} again with the same task").format(name=name)
            raise GateError(
                f"{lead.label}: {first} and {name} were measured differently: {what} {expected!r} against {found!r}; "
                + remedy
            )


def _require_same_documents(first: str, lead: TaskScores, name: str, column: TaskScores) -> None:
    mine, theirs = Counter(d.key for d in lead.documents), Counter(d.key for d in column.documents)
    if mine != theirs:
        raise GateError(
            f"{lead.label}: {first} has {mine.total()} documents and {name} has {theirs.total()}; "
            f"{(mine - theirs).total()} only in the former, {(theirs - mine).total()} only in the latter; "
            "evaluate both on the same documents"
        )
    # Both sides are sorted by key and stable, so equal multiplicities line up.
    for one, two in zip(lead.documents, column.documents, strict=True):
        _require_same_frame(lead.label, first, one, name, two)


def _require_same_frame(label: str, first: str, one: Document, name: str, two: Document) -> None:
    if (one.weight, one.cluster) != (two.weight, two.cluster):
        raise GateError(
            f"{label}, document {one.doc_hash}: weight and cluster are {one.weight}, {one.cluster!r} for {first} "
            f"and {two.weight}, {two.cluster!r} for {name}; a weight is a property of the document, evaluate again"
        )
