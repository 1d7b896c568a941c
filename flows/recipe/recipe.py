"""A recipe: which checkpoints are merged, how, and what the result must show before it may be promoted.

`load_recipe` is the one way in, for a full recipe and for a bare mergekit configuration. Its error lists every problem
with file, line and key.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

from flows.recipe import checks as recipe_checks
from flows.recipe import mergekit
from flows.recipe import methods as recipe_methods
from flows.recipe import models as recipe_models
from flows.recipe import search as recipe_search
from flows.recipe import tokenizer as recipe_tokenizer
from flows.recipe.comparison import Comparison
from flows.recipe.faults import Fault, Where, listed, refusal
from flows.recipe.gates import Gates
from flows.recipe.schema import (
    Body,
    Evaluation,
    Merge,
    Registration,
    SourceSpec,
    Validation,
    check,
    merge_section,
)
from flows.recipe.values import ALL_MODELS
from flows.recipe.yaml_source import read
from widen.adapter import JOIN
from widen.errors import RecipeError
from widen.settings import Settings

METHOD = ("merge", "merge_method")
SECTIONS = ("validate", "evaluate", "gates", "registry")


@dataclass(frozen=True)
class Recipe:
    """A recipe that holds together: every name in it names something. Attributes are named as in the YAML.

    `inputs` are the checkpoints and adapters that are merged, by name and base first. One given as a folder is named by
    the last part of its path, a model with an adapter by both names, joined by `+`. Paths are as written, relative to
    the workspace. `follow` says whether the watch runs it, `compare` what `widen compare` tries: neither is part of
    what a run depends on.
    """

    name: str
    merge: Merge
    inputs: Mapping[str, SourceSpec]
    sources: Mapping[str, SourceSpec] = field(default_factory=dict)
    validate: Validation | None = None
    evaluate: Evaluation | None = None
    gates: Gates | None = None
    registry: Registration | None = None
    follow: bool = True
    compare: Comparison | None = None
    text: str = field(default="", compare=False, repr=False)
    path: Path = field(default=Path(), compare=False)

    @property
    def base(self) -> str:
        """The base's name."""
        return self.participants[0]

    @property
    def participants(self) -> tuple[str, ...]:
        """The names of the base and the models, as they are merged and scored."""
        return tuple(JOIN.join(names) for names in self._composition) or tuple(self.inputs)

    @property
    def _composition(self) -> tuple[tuple[str, ...], ...]:
        return recipe_models.composition(model for _, model in recipe_checks.references(self.merge))

    @property
    def parents(self) -> tuple[str, ...]:
        """The merged models' names, in the recipe's order."""
        return self.participants[1:]

    @property
    def digest(self) -> str:
        """sha256 of the recipe's content: comments, key order, layout and spelt-out defaults do not change it."""
        content = {section: getattr(self, section) for section in ("merge", *SECTIONS)}
        sources = {name: source.content for name, source in {**self.sources, **self.inputs}.items()}
        named = {section: asdict(value) for section, value in content.items() if value is not None}
        return _digest({"name": self.name, "sources": sources, **named})

    @property
    def merge_digest(self) -> str:
        """sha256 of what decides the merged bytes: the sources used, in order, the method, its settings, the type."""
        inputs = [[name, source.place] for name, source in self.inputs.items()]
        asked = self.settings.content
        dtype, shared = asked.pop("out_dtype"), asked.pop("parameters", {})
        return _digest({"inputs": inputs, "settings": {**shared, **asked, "dtype": dtype}})

    @property
    def settings(self) -> Settings:
        """The merge section as the engine's settings."""
        return replace(recipe_methods.settings_of(self.merge), composed=self._composition)

    @overload
    def require(self, section: Literal["validate"]) -> Validation: ...
    @overload
    def require(self, section: Literal["evaluate"]) -> Evaluation: ...
    @overload
    def require(self, section: Literal["gates"]) -> Gates: ...
    @overload
    def require(self, section: Literal["registry"]) -> Registration: ...
    def require(self, section: str) -> Validation | Evaluation | Gates | Registration:
        """The section, which a merge alone may leave out and `widen run` needs.

        Raises:
            RecipeError: the recipe has no such section; the message names all that a run would miss.
        """
        value: Validation | Evaluation | Gates | Registration | None = getattr(self, section)
        if value is None:
            missing = listed(name for name in SECTIONS if getattr(self, name) is None)
            raise RecipeError(
                f"{self.path}:1: {section}: a run needs this section; add what the recipe lacks: {missing}"
            )
        return value


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, or a bare mergekit configuration, which is a recipe named by its file with a merge section only.

    Raises:
        RecipeError: the file cannot be read or does not hold together; the message lists every problem found.
    """
    document = read(Path(path))
    if (foreign := mergekit.foreign(document.data)) is not None:
        raise refusal(document.path, [foreign], document.line_of)
    bare = mergekit.looks_like(document.data)
    data, adapted = _adapt(_as_recipe(document.data, document.path.stem) if bare else document.data)
    body, structural = check(data)
    merge = body.merge if body else merge_section(data)
    about = list(recipe_methods.faults(merge)) if merge else []
    misspelt = {fault.where[:-1] for fault in structural}
    others = [*recipe_checks.faults(body), *recipe_search.faults(body)] if body else []
    about += [fault for fault in others if fault.where not in misspelt]
    if METHOD in {fault.where for fault in adapted}:  # what a merge section lacks depends on its method
        about = [fault for fault in about if fault.where[:1] != METHOD[:1]]
    faults = [*adapted, *structural, *about]
    if bare:
        faults = [replace(fault, where=_unwrapped(fault.where)) for fault in faults]
    faults += document.faults
    if faults or body is None:
        raise refusal(document.path, faults, document.line_of)
    return _recipe(body, document.text, document.path)


def _as_recipe(data: Mapping[str, Any], stem: str) -> dict[str, Any]:
    """A bare configuration's keys, under `merge`; `name` is the one key of a recipe that it may have."""
    return {"name": data.get("name", stem), "merge": {key: value for key, value in data.items() if key != "name"}}


def _unwrapped(where: Where) -> Where:
    return where[1:] if where[:1] == ("merge",) else where


def _adapt(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Fault]]:
    if not isinstance(data.get("merge"), Mapping):
        return data, []
    merge, faults = mergekit.adapt(data["merge"], ("merge",))
    return {**data, "merge": merge}, faults


def _recipe(body: Body, text: str, path: Path) -> Recipe:
    return Recipe(
        name=body.name,
        merge=recipe_tokenizer.spelt_out(recipe_methods.spelt_out(body.merge), recipe_checks.names(body)),
        inputs=recipe_checks.inputs(body),
        sources=body.sources,
        validate=_spread(body.validate, recipe_checks.parents(body)) if body.validate else None,
        evaluate=body.evaluate,
        gates=body.gates,
        registry=body.registry,
        follow=body.follow,
        compare=body.compare,
        text=text,
        path=path,
    )


def _spread(validation: Validation, parents: tuple[str, ...]) -> Validation:
    """One band for all models becomes a band for each."""
    bands = dict(validation.relative_change)
    band = bands.pop(ALL_MODELS, None)
    return replace(validation, relative_change={**dict.fromkeys(parents, band), **bands} if band else bands)


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(_given(content), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _given(value: Any) -> Any:
    """Without the keys that are None or empty, so that a key added later, and not given, changes no digest."""
    if isinstance(value, Mapping):
        return {key: _given(one) for key, one in value.items() if one is not None and one not in ((), {})}
    return [_given(one) for one in value] if isinstance(value, list | tuple) else value
