"""What a recipe's sections must agree on: names that name something, clauses that can be decided, sources inside."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from flows.faults import Fault, Where, listed, show, unknown
from flows.recipe_schema import ALL_MODELS, AbsoluteClause, Body, Evaluation, Gates, ParentClause, SourceSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE = "letters, digits, `.`, `_` and `-`, a letter or digit first"


def inputs(body: Body) -> dict[str, SourceSpec]:
    """The checkpoints merged, base first, by name: a source's own, or the last part of a folder's path."""
    return {_name(body, reference): _spec(body, reference) for _, reference in references(body)}


def references(body: Body) -> Iterator[tuple[Where, str]]:
    """Each model as the merge section writes it, base first, and where."""
    yield ("merge", "base_model"), body.merge.base_model
    for index, entry in enumerate(body.merge.models):
        yield ("merge", "models", index, "model"), entry.model


def faults(body: Body) -> list[Fault]:
    """Every disagreement in a recipe whose structure is sound; the places are those of a full recipe."""
    unresolved = list(_references(body))
    # Where a model has no name yet, who is meant by that name elsewhere cannot be told.
    about_models = [] if unresolved else [*_bands(body), *_owners(body)]
    return [*_names(body), *_sources(body), *unresolved, *about_models, *_gates(body)]


def _name(body: Body, reference: str) -> str:
    return reference if reference in body.sources else PurePosixPath(reference).name


def _spec(body: Body, reference: str) -> SourceSpec:
    return body.sources.get(reference) or SourceSpec(path=reference)


def _parents(body: Body) -> list[str]:
    return [_name(body, entry.model) for entry in body.merge.models]


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
        if source.repo is not None and _leaves(source.path):
            yield Fault((*where, "path"), f"expected a path inside the repository, found {show(source.path)}")


def _leaves(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts


def _references(body: Body) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    base, *_ = references(body)
    for where, reference in references(body):
        name = _name(body, reference)
        if body.sources and reference not in body.sources and "/" not in reference:
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
        elif reference == base[1] or seen[name] == base[1]:
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


def _gates(body: Body) -> Iterator[Fault]:
    if body.gates is None:
        return
    if not body.gates.absolute and not body.gates.parents:
        yield Fault(
            ("gates",), "expected at least one clause under `absolute` or `parents`: a gate without one passes anything"
        )
    if body.evaluate is None:
        yield Fault(("gates",), "gates need an `evaluate` section: they decide on its scores")
    for where, clause in _clauses(body.gates):
        yield from _tasks(where, clause, body.evaluate)
        yield from _either(where, clause)


def _owners(body: Body) -> Iterator[Fault]:
    for index, clause in enumerate(body.gates.parents if body.gates else ()):
        if clause.owner not in _parents(body):
            where = ("gates", "parents", index, "owner")
            yield Fault(where, unknown("parent", clause.owner, _parents(body)))


def _clauses(gates: Gates) -> Iterator[tuple[Where, AbsoluteClause | ParentClause]]:
    yield from ((("gates", "absolute", index), clause) for index, clause in enumerate(gates.absolute))
    yield from ((("gates", "parents", index), clause) for index, clause in enumerate(gates.parents))


def _tasks(where: Where, clause: AbsoluteClause | ParentClause, evaluation: Evaluation | None) -> Iterator[Fault]:
    if evaluation is not None and clause.task not in evaluation.tasks:
        yield Fault(
            (*where, "task"), unknown("task", clause.task, evaluation.tasks) + "; it must be under `evaluate.tasks`"
        )


def _either(where: Where, clause: AbsoluteClause | ParentClause) -> Iterator[Fault]:
    """A clause has exactly one bound."""
    names = ("floor", "ceiling") if isinstance(clause, AbsoluteClause) else ("keep", "margin")
    given = [name for name in names if getattr(clause, name) is not None]
    if len(given) != 1:
        found = listed(given) if given else "neither"
        yield Fault(where, f"expected exactly one of {listed(names)}, found {found}")
