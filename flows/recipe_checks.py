"""What a recipe's sections must agree on: names that name something, clauses that can be decided, sources inside."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from flows import recipe_methods, recipe_slices, recipe_tokenizer
from flows.faults import Fault, Where, listed, show, unknown
from flows.recipe_gates import AbsoluteClause, Gates, ParentClause
from flows.recipe_methods import merged_models
from flows.recipe_schema import Body, Evaluation, SourceSpec
from flows.recipe_values import ALL_MODELS
from tasks import revision
from tasks.evaluate_settings import mistakes
from tasks.sources import path_mistake, shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHAMPION, BASE = "champion", "base"
SECTIONS = ("absolute", "parents", "champion", "better")
NAME_RULE = "letters, digits, `.`, `_` and `-`, a letter or digit first"


def inputs(body: Body) -> dict[str, SourceSpec]:
    """The checkpoints merged, base first, by name: a source's own, or the last part of a folder's path."""
    return {_name(body, reference): _spec(body, reference) for _, reference in references(body)}


def names(body: Body) -> dict[str, str]:
    """Each merged model's name by how the merge section writes it."""
    return {reference: _name(body, reference) for _, reference in references(body)}


def references(body: Body) -> Iterator[tuple[Where, str]]:
    """Each model as the merge section writes it, base first where it names one, and where.

    A model that several slices name is told once.
    """
    if body.merge.base_model is not None:
        yield ("merge", "base_model"), body.merge.base_model
    for index, model in merged_models(body.merge):
        yield ("merge", "models", index, "model"), model
    told = {body.merge.base_model}
    for where, model in () if body.merge.models else recipe_slices.references(body.merge):
        if model not in told:
            yield where, model
        told.add(model)


def faults(body: Body) -> list[Fault]:
    """Every disagreement in a recipe whose structure is sound; the places are those of a full recipe."""
    unresolved = list(_references(body))
    # Where a model has no name yet, who is meant by that name elsewhere cannot be told.
    unnamed = unresolved or recipe_methods.lacks_base(body.merge)
    about_models = [] if unnamed else [*_bands(body), *_owners(body), *_reserved(body)]
    about_models += recipe_tokenizer.faults(body.merge, names(body))
    return [*_names(body), *_sources(body), *unresolved, *about_models, *_evaluation(body), *_gates(body)]


def _name(body: Body, reference: str) -> str:
    return reference if reference in body.sources else PurePosixPath(reference).name


def _spec(body: Body, reference: str) -> SourceSpec:
    return body.sources.get(reference) or SourceSpec(path=reference)


def _parents(body: Body) -> list[str]:
    return list(inputs(body))[1:]


def _names(body: Body) -> Iterator[Fault]:
    named: list[tuple[Where, str]] = [(("name",), body.name), *((("sources", name), name) for name in body.sources)]
    if body.registry:
        named.append((("registry", "name"), body.registry.name))
    for where, name in named:
        if not NAME.fullmatch(name):
            yield Fault(where, f"expected a name of {NAME_RULE}, found {show(name)}")


def _sources(body: Body) -> Iterator[Fault]:
    for name, source in body.sources.items():
        where = ("sources", name)
        if source.rev is not None and source.repo is None:
            yield Fault((*where, "rev"), "a revision needs a `repo`; without one `path` is a local folder as it is")
        if source.rev is not None and (expected := revision.mistake(source.rev)):
            yield Fault((*where, "rev"), f"expected {expected}, found {show(source.rev)}")
        if expected := path_mistake(source.path, source.repo is not None):
            yield Fault((*where, "path"), f"expected {expected}, found {show(shown(source.path))}")


def _references(body: Body) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    base, *_ = [*references(body), ((), None)]
    for where, reference in references(body):
        name = _name(body, reference)
        expected = None if reference in body.sources else path_mistake(reference, in_repository=False)
        if expected is not None:
            yield Fault(where, f"expected {expected}, found {show(shown(reference))}")
        elif body.sources and reference not in body.sources and "/" not in reference:
            yield Fault(where, unknown("source", reference, body.sources) + f"; a folder is written `./{reference}`")
        elif not NAME.fullmatch(name):
            yield Fault(where, f"{show(reference)} gives no name of {NAME_RULE}; name it under `sources`")
        elif name not in seen:
            seen[name] = reference
        elif _spec(body, reference) != _spec(body, seen[name]):
            yield Fault(
                where,
                f"{show(reference)} and {show(seen[name])} would both be named `{name}`; name them under `sources`",
            )
        elif body.merge.base_model is not None and base[1] in (reference, seen[name]):
            told = (
                "the base is among the models; it would take part in the softmax with a delta of zero: remove it here"
            )
            yield Fault(where, told)
        else:
            yield Fault(where, f"the model {show(reference)} stands twice; list it once")


def _bands(body: Body) -> Iterator[Fault]:
    for model in body.validate.relative_change if body.validate else ():
        if model not in _parents(body) and model != ALL_MODELS:
            yield Fault(("validate", "relative_change", model), unknown("model", model, _parents(body)))


def _evaluation(body: Body) -> Iterator[Fault]:
    for where, text in mistakes(body.evaluate) if body.evaluate else ():
        yield Fault(("evaluate", *where), text)


def _gates(body: Body) -> Iterator[Fault]:
    gates = body.gates
    if gates is None:
        return
    if not (gates.absolute or gates.parents or gates.champion or gates.better):
        told = f"expected at least one clause under {listed(SECTIONS)}: a gate without one passes anything"
        yield Fault(("gates",), told)
    if body.evaluate is None:
        yield Fault(("gates",), "gates need an `evaluate` section: they decide on its scores")
    for where, task in _scored(gates):
        yield from _tasks(where, task, body.evaluate)
    for where, clause in _bounded(gates):
        yield from _either(where, clause)
    yield from _champion(gates, body.evaluate)
    yield from _better(gates)


def _owners(body: Body) -> Iterator[Fault]:
    gates, parents = body.gates or Gates(), _parents(body)
    for index, clause in enumerate(gates.parents):
        if clause.owner not in parents:
            yield Fault(("gates", "parents", index, "owner"), unknown("parent", clause.owner, parents))
    for index, better in enumerate(gates.better):
        where = ("gates", "better", index, "than")
        if better.than not in (CHAMPION, BASE, *parents):
            yield Fault(where, unknown("model", better.than, (CHAMPION, BASE, *parents)))
        elif better.than == BASE and BASE in parents:
            yield Fault(where, f"`{BASE}` means the merge's base here, and a parent has that name; name it otherwise")


def _reserved(body: Body) -> Iterator[Fault]:
    """With a champion to compare with, no model of the merge may bear its name."""
    gates = body.gates
    if gates is None or not (gates.champion or any(clause.than == CHAMPION for clause in gates.better)):
        return
    for where, reference in references(body):
        if _name(body, reference) == CHAMPION:
            yield Fault(
                where, f"the gate asks about the registry's `{CHAMPION}`, so no model may be named so; rename it"
            )


def _scored(gates: Gates) -> Iterator[tuple[Where, str]]:
    """Every task that a clause names, and where."""
    for section in ("absolute", "parents", "champion"):
        for index, clause in enumerate(getattr(gates, section)):
            yield ("gates", section, index, "task"), clause.task
    for index, better in enumerate(gates.better):
        yield from ((("gates", "better", index, "tasks", at, "task"), one.task) for at, one in enumerate(better.tasks))


def _bounded(gates: Gates) -> Iterator[tuple[Where, AbsoluteClause | ParentClause]]:
    yield from ((("gates", "absolute", index), clause) for index, clause in enumerate(gates.absolute))
    yield from ((("gates", "parents", index), clause) for index, clause in enumerate(gates.parents))


def _tasks(where: Where, task: str, evaluation: Evaluation | None) -> Iterator[Fault]:
    if evaluation is not None and task not in evaluation.tasks:
        yield Fault(where, unknown("task", task, evaluation.tasks) + "; it must be under `evaluate.tasks`")


def _either(where: Where, clause: AbsoluteClause | ParentClause) -> Iterator[Fault]:
    """A clause has exactly one bound."""
    names = ("floor", "ceiling") if isinstance(clause, AbsoluteClause) else ("keep", "margin")
    given = [name for name in names if getattr(clause, name) is not None]
    if len(given) != 1:
        found = listed(given) if given else "neither"
        yield Fault(where, f"expected exactly one of {listed(names)}, found {found}")


def _champion(gates: Gates, evaluation: Evaluation | None) -> Iterator[Fault]:
    """On a first run a parents clause must ask about the same; an unknown task is told of elsewhere."""
    covered = {(clause.task, clause.metric, clause.filter) for clause in gates.parents}
    for index, clause in enumerate(gates.champion):
        known = evaluation is None or clause.task in evaluation.tasks
        if known and (clause.task, clause.metric, clause.filter) not in covered:
            told = "on a first run there is no champion, and a clause under `parents` stands in: add one on this task, "
            yield Fault(("gates", "champion", index), told + "metric and filter")


def _better(gates: Gates) -> Iterator[Fault]:
    for index, clause in enumerate(gates.better):
        where = ("gates", "better", index, "tasks")
        if clause.rule == "any" and len(clause.tasks) == 1:
            yield Fault(where, "with one task there is nothing to choose from: name two or more, or write `rule: mean`")
        if len(set(clause.tasks)) != len(clause.tasks):
            yield Fault(where, "expected each task once")
