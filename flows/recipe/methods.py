"""A recipe's merge section against its method: which parameters that has, what they may be, whom it merges from."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from flows.recipe import mergekit
from flows.recipe import slices as recipe_slices
from flows.recipe.faults import Fault, Where, describe, listed, unknown
from flows.recipe.schema import Merge, Model, Slice, SliceSource
from flows.recipe.values import finite, whole_number
from widen.methods import METHODS, Method
from widen.methods.definition import Parameter
from widen.parameters import Setting, scalars
from widen.settings import WIDEN, Settings

Owner = TypeVar("Owner", Merge, Model, Slice, SliceSource)


def method_of(merge: Merge) -> Method:
    """The method that the section names."""
    return METHODS[merge.merge_method]


def settings_of(merge: Merge) -> Settings:
    """The section as the engine's settings."""
    owns = [dict(one) for one in _owns(merge)]
    shared, slices = dict(merge.parameters), recipe_slices.contents(merge)
    fields: dict[str, Setting] = {}
    if merge.merge_method == WIDEN:
        fields = {"t": shared.pop("t"), "s": shared.pop("s")}
    return Settings(
        merge.merge_method, out_dtype=merge.output_dtype, parameters=shared, models=owns if any(owns) else (),
        origin=has_origin(merge), slices=slices, **fields, **_tokenizer(merge),
    )  # fmt: skip


def _tokenizer(merge: Merge) -> dict[str, Any]:
    """What is asked of the output's tokenizer, spelt out."""
    return {"tokenizer": merge.tokenizer, "chat_template": merge.chat_template}


def has_origin(merge: Merge) -> bool:
    """Whether differences from the base are merged: else the base, or the first model, is one of the models."""
    origin = method_of(merge).origin
    return origin == "required" or (origin == "optional" and merge.base_model is not None)


def lacks_base(merge: Merge) -> bool:
    """Whether the method needs a base and the section names none."""
    return method_of(merge).origin == "required" and merge.base_model is None


def merged_models(merge: Merge) -> Iterator[tuple[int, str]]:
    """The models beside the base, by their place in the list; mergekit lets the base stand there too, but not WIDEN."""
    for index, entry in enumerate(merge.models):
        if entry.model != merge.base_model or merge.merge_method == WIDEN:
            yield index, entry.model


def _owns(merge: Merge) -> list[Mapping[str, Setting]]:
    """The participants' own parameters, in the order in which the engine has them: the base first where it is one."""
    if not merge.models:
        return []
    found: list[Mapping[str, Setting]] = [merge.models[index].parameters for index, _ in merged_models(merge)]
    if has_origin(merge) or merge.base_model is None:
        return found
    of_base = (entry.parameters for entry in merge.models if entry.model == merge.base_model)
    return [next(of_base, {}), *found]


def spelt_out(merge: Merge) -> Merge:
    """The section with every default of the merge as a whole in place, and values as their parameters have them.

    What came when there were recipes without it is left out where it has its default. Modules are slices then.
    """
    known = method_of(merge).parameters
    merge = recipe_slices.in_one_form(merge)
    shared = {key: one.default for key, one in known.items() if not one.each and one.default is not None}
    shared |= _spelt(known, merge).parameters
    told = {key: value for key, value in shared.items() if not known[key].is_untold(value)}
    slices = tuple(
        replace(_spelt(known, one), sources=tuple(_spelt(known, source) for source in one.sources))
        for one in merge.slices
    )
    models = tuple(_spelt(known, entry) for entry in merge.models)
    return replace(merge, parameters=told, models=models, slices=slices)


def _spelt(known: Mapping[str, Parameter], owner: Owner) -> Owner:
    given = {key: _typed(known[key], known[key].spelt_out(value)) for key, value in owner.parameters.items()}
    return replace(owner, parameters=given)


def _typed(parameter: Parameter, setting: Setting) -> Setting:
    if isinstance(setting, Mapping):
        return {key: _typed(parameter, one) if key == "value" else one for key, one in setting.items()}
    if isinstance(setting, list):
        return [_typed(parameter, one) for one in setting]
    return parameter.checked(setting)


def faults(merge: Merge) -> Iterator[Fault]:
    """Everything in which the section and its method disagree; places as in a whole recipe."""
    method = method_of(merge)
    if lacks_base(merge):
        yield Fault(("merge", "base_model"), f"a required key is missing: `{method.name}` merges what changed since it")
    yield from _of(method, merge.parameters, ("merge", "parameters"), shared=True)
    for where, given, shared in recipe_slices.owners(merge):
        yield from _of(method, given, where, shared)
    yield from recipe_slices.faults(merge, has_origin(merge))
    yield from _missing(merge, method)
    yield from _count(merge, method)


def _of(method: Method, given: Mapping[str, Any], where: Where, shared: bool) -> Iterator[Fault]:
    own = {key: one for key, one in method.parameters.items() if shared or one.each}
    for key, setting in given.items():
        if key in own:
            mistake = _mistake(method, own[key], setting)
            if mistake is not None:
                yield Fault((*where, key), mistake)
        elif key in method.parameters:
            yield Fault((*where, key), f"`{key}` is one for the whole merge: it belongs under `merge.parameters`")
        elif key in mergekit.PARAMETERS:
            told = (
                f"`{method.name}` has {listed(own)}"
                if own
                else f"no model has parameters of its own in `{method.name}`"
            )
            yield Fault((*where, key), f"mergekit's `{key}` is not supported: {told}")
        else:
            yield Fault((*where, key), unknown("key", key, own))


def _mistake(method: Method, parameter: Parameter, setting: Any) -> str | None:
    """What was expected of a setting and what was found, or None."""
    try:
        values = list(scalars(parameter.spelt_out(setting)))
    except ValueError as error:
        return f"{error}, found {describe(setting)}"
    told = ((value, expected(method, parameter, value)) for value in values)
    return next((f"expected {wanted}, found {describe(value)}" for value, wanted in told if wanted), None)


def expected(method: Method, parameter: Parameter, value: Any) -> str | None:
    """What was expected of one value of a parameter where it is none; else None."""
    match parameter.kind:
        case "number":
            return finite(value, "a number of at least 0", 0.0) if method.name == WIDEN else finite(value)
        case "whole":
            return whole_number(value)
        case "switch" | "choice":
            return None if parameter.fits(value) else parameter.expected(value)


def _missing(merge: Merge, method: Method) -> Iterator[Fault]:
    needed = [one for one in method.parameters.values() if one.default is None and one.name not in merge.parameters]
    stacked = [one.parameters for _, one in recipe_slices.placed(merge)] or [{}]
    for parameter in needed:
        if not parameter.each and not all(parameter.name in own for own in stacked):
            yield Fault(("merge", "parameters"), f"`{method.name}` needs `{parameter.name}`")
        for where, own in _participants(merge) if parameter.each else ():
            if parameter.name not in own:
                yield Fault(where, f"`{method.name}` needs its `{parameter.name}`")


def _participants(merge: Merge) -> Iterator[tuple[Where, Mapping[str, Setting]]]:
    """Where each participant stands, and its own parameters; the base is one where it is no origin."""
    for place, one in recipe_slices.placed(merge):
        for source in one.sources:
            if source.model != (one.base_model or merge.base_model) or not has_origin(merge):
                yield place, one.parameters | source.parameters
    listed = {entry.model for entry in merge.models}
    if merge.models and merge.base_model is not None and not has_origin(merge) and merge.base_model not in listed:
        yield ("merge", "base_model"), {}
    for index, entry in enumerate(merge.models):
        if entry.model != merge.base_model or not has_origin(merge):
            yield ("merge", "models", index), entry.parameters


def _count(merge: Merge, method: Method) -> Iterator[Fault]:
    for where, participants in _counted(merge):
        if participants < method.least or (method.most is not None and participants > method.most):
            wanted = str(method.least) if method.least == method.most else f"at least {method.least}"
            yield Fault(where, f"`{method.name}` merges {wanted} models, found {participants}")


def _counted(merge: Merge) -> Iterator[tuple[Where, int]]:
    """How many participants the merge has, or each of its slices."""
    if merge.models:
        models = len(list(merged_models(merge)))
        yield ("merge", "models"), models + (1 if merge.base_model is not None and not has_origin(merge) else 0)
    for where, one in recipe_slices.placed(merge):
        base = one.base_model or merge.base_model
        models = len([source for source in one.sources if source.model != base or not has_origin(merge)])
        yield where, models
