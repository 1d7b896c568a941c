"""A report's values from what a run left: decision, lineage, scorecards, manifest."""

from collections.abc import Mapping, Sequence
from typing import Any

from registry.contrast import absolute
from registry.decision import Decision
from registry.errors import GateError
from registry.lineage import Lineage
from registry.pairing import pair
from registry.report.values import ModelChange, Report, Reuse, Score, Scored, ScoreRow, Stage, Standing
from registry.scorecard import Scorecard, TaskScores

ROLES = ("base", "parent", "champion", "merged")


def build(
    name: str,
    version: int,
    decision: Decision,
    lineage: Lineage,
    cards: Sequence[Scorecard],
    changes: tuple[ModelChange, ...] = (),
    standings: tuple[Standing, ...] = (),
    reuse: Reuse | None = None,
    stages: tuple[Stage, ...] = (),
    standing: str = "",
) -> Report:
    """The report of `version` of `name`. Scorecards that the decision does not stand on are left out."""
    models = _models(decision, lineage)
    by_scores = {card.digest_of_scores(): card for card in cards}
    held = {(role, name): by_scores.get(scores) for role, name, _, scores in decision.models}
    scored = [(model, card) for model in models if (card := held[model.role, model.name]) is not None]
    rows = _rows(scored, decision.alpha)
    return Report(name, version, decision, lineage, models, rows, changes, standings, reuse, stages, standing)


def reuse_of(manifest: Mapping[str, Any]) -> Reuse | None:
    """The reuse record of a merge's manifest, None where it has none."""
    held = manifest.get("reuse")
    if not isinstance(held, Mapping):
        return None
    return Reuse(int(held["reused"]), tuple(sorted((reason, len(names)) for reason, names in held["computed"].items())))


def _models(decision: Decision, lineage: Lineage) -> tuple[Scored, ...]:
    """The models of the decision: base, parents in the recipe's order, champion, merge."""
    order = [entry.name for entry in lineage.inputs]

    def place(model: Scored) -> tuple[int, int]:
        role = ROLES.index(model.role) if model.role in ROLES else len(ROLES)
        return role, order.index(model.name) if model.name in order else len(order)

    return tuple(sorted((Scored(role, name, digest) for role, name, digest, _ in decision.models), key=place))


def _rows(scored: Sequence[tuple[Scored, Scorecard]], alpha: float) -> tuple[ScoreRow, ...]:
    tasks: dict[tuple[str, str, str], TaskScores] = {}
    for _, card in scored:
        for task in card.tasks:
            tasks.setdefault((task.task, task.metric, task.filter), task)
    return tuple(_row(task, scored, alpha) for _, task in sorted(tasks.items()))


def _row(task: TaskScores, scored: Sequence[tuple[Scored, Scorecard]], alpha: float) -> ScoreRow:
    scores, methods = [], []
    for model, card in scored:
        if any((one.task, one.metric, one.filter) == (task.task, task.metric, task.filter) for one in card.tasks):
            score, method = _score(model, card, task, alpha)
            scores.append(score)
            methods.append(method)
    method = ", ".join(dict.fromkeys(methods))
    return ScoreRow(
        task.task, task.metric, task.filter, task.higher_is_better, len(task.documents), method, tuple(scores)
    )


def _score(model: Scored, card: Scorecard, task: TaskScores, alpha: float) -> tuple[Score, str]:
    paired = pair({card.model: card}, task.task, task.metric, task.filter)
    value = paired.values[0]
    try:
        found = absolute(paired, alpha).interval
    except GateError as error:  # one document has a value and no interval
        return Score(model.role, model.name, value, None, None), str(error)
    bounds = (found.lower, found.upper) if task.higher_is_better else (-found.upper, -found.lower)
    return Score(model.role, model.name, value, *bounds), found.method
