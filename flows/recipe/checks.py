"""What a recipe's sections must agree on: names that name something, clauses that can be decided, sources inside."""

import re
from collections.abc import Iterator

from flows.recipe import methods as recipe_methods
from flows.recipe import slices as recipe_slices
from flows.recipe import tokenizer as recipe_tokenizer
from flows.recipe.faults import Fault, Where, listed, show, unknown
from flows.recipe.gates import AbsoluteClause, Gates, ParentClause
from flows.recipe.methods import merged_models
from flows.recipe.models import name_of, sides
from flows.recipe.schema import Body, Evaluation, Merge, SourceSpec
from flows.recipe.values import ALL_MODELS
from tasks import revision
from tasks.evaluate_settings import mistakes
from tasks.sources import is_cached, model_id, path_mistake, shown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHAMPION, BASE = "champion", "base"
SECTIONS = ("absolute", "parents", "champion", "better")
NAME_RULE = "letters, digits, `.`, `_` and `-`, a letter or digit first"


def inputs(body: Body) -> dict[str, SourceSpec]:
    """What is merged, base first, by name: a source's own, or the last part of a folder's path; adapters too."""
    return {name_of(side): _spec(body, side) for _, reference in references(body.merge) for side in sides(reference)}


def parents(body: Body) -> tuple[str, ...]:
    """The names of the models that are merged into the base."""
    return tuple(dict.fromkeys(name_of(reference) for _, reference in references(body.merge)))[1:]


def names(body: Body) -> dict[str, str]:
    """Each merged model's name by how the merge section writes it."""
    return {reference: name_of(reference) for _, reference in references(body.merge)}


def references(merge: Merge) -> Iterator[tuple[Where, str]]:
    """Each model as the merge section writes it, base first where it names one, and where.

    A model that several slices name is told once.
    """
    if merge.base_model is not None:
        yield ("merge", "base_model"), merge.base_model
    for index, model in merged_models(merge):
        yield ("merge", "models", index, "model"), model
    told = {merge.base_model}
    for where, model in () if merge.models else recipe_slices.references(merge):
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


def _spec(body: Body, reference: str) -> SourceSpec:
    return body.sources.get(reference) or SourceSpec(path=reference)


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
        local = source.repo is None and not is_cached(source.path) and model_id(source.path) is None
        if source.rev is not None and local:
            yield Fault((*where, "rev"), "a revision needs a `repo`; without one `path` is a local folder as it is")
        if source.rev is not None and (expected := revision.mistake(source.rev)):
            yield Fault((*where, "rev"), f"expected {expected}, found {show(source.rev)}")
        if expected := path_mistake(source.path, source.repo is not None):
            yield Fault((*where, "path"), f"expected {expected}, found {show(shown(source.path))}")


def _references(body: Body) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    named: dict[str, str] = {}
    base, *_ = [*references(body.merge), ((), None)]
    for where, reference in references(body.merge):
        name = name_of(reference)
        mistakes = list(_sides(body, reference, named))
        if mistakes:
            yield from (Fault(where, told) for told in mistakes)
        elif name not in seen:
            seen[name] = reference
        elif body.merge.base_model is not None and base[1] in (reference, seen[name]):
            told = (
                "the base is among the models; it would take part in the softmax with a delta of zero: remove it here"
            )
            yield Fault(where, told)
        else:
            yield Fault(where, f"the model {show(reference)} stands twice; list it once")


def _sides(body: Body, reference: str, named: dict[str, str]) -> Iterator[str]:
    """What is wrong with the model or the adapter on it; `named` holds the first side of each name."""
    if len(sides(reference)) > 2:
        yield f"expected MODEL or MODEL+ADAPTER, found {show(reference)}; a path with a `+` is named under `sources`"
        return
    for side in sides(reference):
        name = name_of(side)
        expected = None if side in body.sources else path_mistake(side, in_repository=False)
        if expected is not None:
            yield f"expected {expected}, found {show(shown(side))}"
        elif body.sources and side not in body.sources and "/" not in side:
            yield unknown("source", side, body.sources) + f"; a folder is written `./{side}`"
        elif not NAME.fullmatch(name):
            yield f"{show(side)} gives no name of {NAME_RULE}; name it under `sources`"
        elif _spec(body, side) != _spec(body, named.setdefault(name, side)):
            yield f"{show(side)} and {show(named[name])} would both be named `{name}`; name them under `sources`"


def _bands(body: Body) -> Iterator[Fault]:
    for model in body.validate.relative_change if body.validate else ():
        if model not in parents(body) and model != ALL_MODELS:
            yield Fault(("validate", "relative_change", model), unknown("model", model, parents(body)))


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
    gates, models = body.gates or Gates(), parents(body)
    for index, clause in enumerate(gates.parents):
        if clause.owner not in models:
            yield Fault(("gates", "parents", index, "owner"), unknown("parent", clause.owner, models))
    for index, better in enumerate(gates.better):
        where = ("gates", "better", index, "than")
        if better.than not in (CHAMPION, BASE, *models):
            yield Fault(where, unknown("model", better.than, (CHAMPION, BASE, *models)))
        elif better.than == BASE and BASE in models:
            yield Fault(where, f"`{BASE}` means the merge's base here, and a parent has that name; name it otherwise")


def _reserved(body: Body) -> Iterator[Fault]:
    """With a champion to compare with, no model of the merge may bear its name."""
    gates = body.gates
    if gates is None or not (gates.champion or any(clause.than == CHAMPION for clause in gates.better)):
        return
    for where, reference in references(body.merge):
        if name_of(reference) == CHAMPION:
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
