"""A recipe's `slices` and `modules`: in one form, as the engine's settings have them, and what is wrong with them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flows.recipe.faults import Fault, Where, listed
from flows.recipe.models import name_of
from flows.recipe.schema import Merge, Module, Slice, SliceSource

KINDS = ("models", "slices", "modules")
SliceAt = tuple[Where, Slice]


def placed(merge: Merge) -> Iterator[SliceAt]:
    """Every slice with its place, modules' among them; those of a module that lists models are slices of whole ones."""
    for index, one in enumerate(merge.slices):
        yield ("merge", "slices", index), one
    for name, module in merge.modules.items():
        yield from _of_module(name, module, merge.base_model, len(merge.modules) == 1)


def _of_module(name: str, module: Module, base: str | None, alone: bool) -> Iterator[SliceAt]:
    where: Where = ("merge", "modules", name)
    prefix = "" if alone and name == "default" else name
    for index, one in enumerate(module.slices):
        yield (*where, "slices", index), replace(one, module=prefix, parameters=module.parameters | one.parameters)
    if module.models:
        sources = [SliceSource(model=one.model, parameters=one.parameters) for one in module.models]
        if base is not None and base not in {one.model for one in sources}:
            sources.append(SliceSource(model=base))
        yield where, Slice(sources=tuple(sources), module=prefix, parameters=module.parameters)


def in_one_form(merge: Merge) -> Merge:
    """The section with modules as slices."""
    return replace(merge, slices=tuple(one for _, one in placed(merge)), modules={})


def references(merge: Merge) -> Iterator[tuple[Where, str]]:
    """Every model that a slice names, and where; base models of single slices too."""
    for where, one in placed(merge):
        listing = "models" if where[-2] == "modules" else "sources"
        for index, source in enumerate(one.sources):
            yield (*where, listing, index, "model"), source.model
        if one.base_model is not None:
            yield (*where, "base_model"), one.base_model


def contents(merge: Merge) -> list[dict[str, Any]]:
    """The slices as `widen.Settings` takes them, models by their names in the merge."""
    return [_content(one) for _, one in placed(merge)]


def _content(one: Slice) -> dict[str, Any]:
    content: dict[str, Any] = {"sources": [_source(source) for source in one.sources]}
    if one.parameters:
        content["parameters"] = dict(one.parameters)
    if one.base_model is not None:
        content["base"] = name_of(one.base_model)
    return content | ({"module": one.module} if one.module else {})


def _source(source: SliceSource) -> dict[str, Any]:
    content: dict[str, Any] = {"model": name_of(source.model)}
    if source.layer_range is not None:
        content["layers"] = list(source.layer_range)
    return content | ({"parameters": dict(source.parameters)} if source.parameters else {})


def faults(merge: Merge, origin: bool) -> Iterator[Fault]:
    """Not exactly one of models, slices and modules; a slice that names a model twice; a module of both.

    origin: deltas are merged, so that every slice needs its base.
    """
    given = [kind for kind in KINDS if getattr(merge, kind)]
    if not given:
        told = "a required key is missing: the models to merge, or `slices` or `modules` of them"
        yield Fault(("merge", "models"), told)
    elif len(given) > 1:
        yield Fault(("merge", given[1]), f"expected exactly one of {listed(KINDS)}, found {listed(given)}")
    for name, module in merge.modules.items():
        if bool(module.models) == bool(module.slices):
            found = "both" if module.models else "neither"
            yield Fault(("merge", "modules", name), f"expected either `models` or `slices`, found {found}")
    for where, one in placed(merge):
        yield from _of_slice(where, one)
        base = one.base_model or merge.base_model
        if origin and base is not None and base not in {source.model for source in one.sources}:
            told = f"its sources lack the base `{base}`, and `{merge.merge_method}` merges what changed since it"
            yield Fault((*where, "sources"), told + ": add it with its layer_range")


def _of_slice(where: Where, one: Slice) -> Iterator[Fault]:
    models = [source.model for source in one.sources]
    if repeated := sorted({model for model in models if models.count(model) > 1}):
        yield Fault((*where, "sources"), f"the model `{repeated[0]}` stands twice; list it once in a slice")
    sizes = {source.layer_range[1] - source.layer_range[0] for source in one.sources if source.layer_range is not None}
    if len(sizes) > 1:
        told = listed(f"{size} layers" for size in sorted(sizes))
        yield Fault((*where, "sources"), f"expected as many layers of every source, found {told}")


def owners(merge: Merge) -> Iterator[tuple[Where, Mapping[str, Any], bool]]:
    """Where models, slices and their sources have parameters, these, and whether they are shared by a slice."""
    for index, model in enumerate(merge.models):
        yield ("merge", "models", index, "parameters"), model.parameters, False
    for index, one in enumerate(merge.slices):
        yield ("merge", "slices", index, "parameters"), one.parameters, True
    for name, module in merge.modules.items():
        yield ("merge", "modules", name, "parameters"), module.parameters, True
        for index, one in enumerate(module.slices):
            yield ("merge", "modules", name, "slices", index, "parameters"), one.parameters, True
        for index, model in enumerate(module.models):
            yield ("merge", "modules", name, "models", index, "parameters"), model.parameters, False
    for where, one in placed(merge):
        for index, source in enumerate(one.sources if where[-2] != "modules" else ()):
            yield (*where, "sources", index, "parameters"), source.parameters, False
