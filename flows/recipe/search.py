"""A recipe's section `compare` against its methods: which can be compared, and which values a search may try."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from flows.recipe import checks as recipe_checks
from flows.recipe import methods as recipe_methods
from flows.recipe.faults import Fault, Where, describe, listed, show, unknown
from flows.recipe.models import sides
from flows.recipe.schema import Body, Merge, Model
from flows.recipe.values import finite
from tasks.search_space import Choices, Range
from widen.methods import METHODS, Method
from widen.methods.definition import Parameter

GIVEN = {"weight": 1.0, "t": 0.5}
"""What a parameter without a default gets where neither the recipe nor a search says."""
MOST_STEPS = 1_000_000
"""More are as good as none, and at some point more than decimal arithmetic can count."""
STACKED = "a comparison merges whole models: list them under `merge.models`, in place of slices or modules"
ADAPTED = (
    "a comparison merges whole models, and {model} is one with an adapter: merge the adapter into it first, by "
    "`widen merge` of a recipe with `merge_method: passthrough` and `models: [{{model: MODEL+ADAPTER}}]`, and name "
    "what that makes"
)
NOT_UNASKED = {"karcher": "the base would count as one more model, with equal say; name it to have it all the same"}


def section(merge: Merge, method: str) -> Merge:
    """The recipe's merge section as that of another method, at its defaults; for the recipe's own as it is.

    `linear` averages the models alone: the base, which its gate compares with, takes part with a weight of 0.
    """
    if method == merge.merge_method:
        return merge
    models = tuple(Model(model=one.model) for one in merge.models if one.model != merge.base_model)
    if method == "linear" and merge.base_model is not None:
        models = (Model(model=merge.base_model, parameters={"weight": 0.0}), *models)
    given = {key: GIVEN[key] for key, one in METHODS[method].parameters.items() if one.default is None}
    return replace(merge, merge_method=method, models=models, parameters=given)


def unfit(merge: Merge) -> str | None:
    """Why a recipe's models cannot be compared by any method, or None."""
    if not merge.models:
        return STACKED
    composed = (show(one) for _, one in recipe_checks.references(merge) if len(sides(one)) > 1)
    return next((ADAPTED.format(model=one) for one in composed), None)


def misfit(merge: Merge, method: str) -> str | None:
    """Why a method cannot merge the recipe's models, or None."""
    fault = next(recipe_methods.faults(section(merge, method)), None)
    return None if fault is None else fault.text


def unasked(merge: Merge) -> tuple[dict[str, None], dict[str, str]]:
    """The methods compared where none is named, and those left out with the reason."""
    reasons = {name: misfit(merge, name) or NOT_UNASKED.get(name) for name in METHODS}
    own = merge.merge_method
    return (
        {name: None for name, reason in reasons.items() if reason is None or name == own},
        {name: reason for name, reason in reasons.items() if reason is not None and name != own},
    )


def values_of(method: Method, parameter: Parameter, given: Any) -> Choices | Range:
    """A search's values for one parameter. Raises ValueError, which says what was expected, for anything else."""
    if isinstance(given, list | tuple):
        return _choices(method, parameter, given)
    if isinstance(given, Mapping):
        return _range(method, parameter, given)
    raise ValueError(f"expected a list of values, or low and high, found {describe(given)}")


def space_of(method: str, given: Mapping[str, Any]) -> dict[str, Choices | Range]:
    """A method's search, from a section that holds together."""
    known = METHODS[method]
    return {key: values_of(known, known.parameters[key.partition(".")[0]], one) for key, one in given.items()}


def faults(body: Body) -> Iterator[Fault]:
    """Everything that is wrong with the section."""
    asked = body.compare
    if asked is None:
        return
    if told := unfit(body.merge):
        yield Fault(("compare",), told)
        return
    sound = not any(recipe_methods.faults(body.merge)) and body.merge.base_model is not None
    for index, name in enumerate(asked.methods or ()):
        yield from _method(("compare", "methods", index), body.merge, name, sound)
    for name, search in asked.search.items():
        where = ("compare", "search", name)
        if name not in METHODS:
            yield Fault(where, unknown("merge method", name, METHODS))
        elif asked.methods is not None and name not in asked.methods:
            yield Fault(where, f"`{name}` is not among compare.methods: {listed(asked.methods)}")
        elif not search:
            yield Fault(where, "expected at least one parameter to search, found none; or leave the method out here")
        else:
            yield from _search(where, body, METHODS[name], search)


def _method(where: Where, merge: Merge, name: str, sound: bool) -> Iterator[Fault]:
    if name not in METHODS:
        yield Fault(where, unknown("merge method", name, METHODS))
    elif sound and (reason := misfit(merge, name)):
        yield Fault(where, reason)


def _search(where: Where, body: Body, method: Method, search: Mapping[str, Any]) -> Iterator[Fault]:
    parents = list(recipe_checks.inputs(body))[1:]
    for key, given in search.items():
        name, dot, model = key.partition(".")
        parameter = method.parameters.get(name)
        if parameter is None:
            yield Fault((*where, key), unknown(f"parameter of `{method.name}`", name, method.parameters))
        elif dot and not parameter.each:
            yield Fault((*where, key), f"`{name}` is one for the whole merge: write it without a model")
        elif dot and model not in parents:
            yield Fault((*where, key), unknown("model", model, parents))
        elif told := _mistake(method, parameter, given):
            yield Fault((*where, key), told)


def _mistake(method: Method, parameter: Parameter, given: Any) -> str | None:
    try:
        values_of(method, parameter, given)
    except ValueError as error:
        return str(error)
    return None


def _choices(method: Method, parameter: Parameter, given: list[Any] | tuple[Any, ...]) -> Choices:
    if not given:
        raise ValueError("expected at least one value, found an empty list")
    for value in given:
        _require(method, parameter, value)
    if len(set(given)) != len(given):
        raise ValueError("expected each value once")
    return Choices(tuple(parameter.checked(value) for value in given))


def _range(method: Method, parameter: Parameter, given: Mapping[str, Any]) -> Range:
    known = [one.name for one in fields(Range) if one.name != "whole"]
    for key in given:
        if key not in known:
            raise ValueError(unknown("key", key, known))
    if parameter.kind in ("switch", "choice"):
        values = "true and false" if parameter.kind == "switch" else listed(parameter.choices)
        raise ValueError(f"expected a list of {values}, found a range")
    for key in ("low", "high"):
        if key not in given:
            raise ValueError(f"a range needs `{key}`")
        _require(method, parameter, given[key])
    log, step = given.get("log", False), given.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"log: expected true or false, found {describe(log)}")
    whole = parameter.kind == "whole"
    _require_order(given["low"], given["high"], log, step, whole)
    return Range(given["low"], given["high"], log, None if step is None else step, whole)


def _require(method: Method, parameter: Parameter, value: Any) -> None:
    if expected := recipe_methods.expected(method, parameter, value):
        raise ValueError(f"expected {expected}, found {describe(value)}")


def _require_order(low: float, high: float, log: bool, step: object, whole: bool) -> None:
    if not low < high:
        raise ValueError(f"expected low below high, found {low} and {high}")
    if log and low <= 0:
        raise ValueError(f"a logarithmic range needs a low above 0, found {low}")
    if step is None:
        return
    if log:
        raise ValueError("a logarithmic range has no steps: leave out `log` or `step`")
    if expected := finite(step):
        raise ValueError(f"step: expected {expected}, found {describe(step)}")
    assert isinstance(step, int | float)
    if not 0 < step <= high - low or (whole and step != int(step)):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"step: expected {kind} above 0 and at most {high - low:g}, found {step}")
    if (high - low) / step > MOST_STEPS:
        least = (high - low) / MOST_STEPS
        raise ValueError(f"step: expected at least {least:g}, for a range of {MOST_STEPS:,} steps, found {step}")
