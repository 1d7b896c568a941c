"""What a comparison tries: methods, each at its defaults and, where asked, by a search. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flows.recipe import Recipe
from flows.recipe import search as recipe_search
from flows.recipe.comparison import TRIALS, Comparison
from flows.recipe.faults import unknown
from flows.recipe.methods import merged_models, spelt_out
from flows.recipe.models import name_of
from flows.recipe.schema import Merge, Model
from tasks.search_space import Choices, Range, Space, Value, planned
from widen.errors import RecipeError
from widen.methods import METHODS

_WEIGHT = Range(0.2, 1.2)
_BOUNDS: Mapping[str, Choices | Range] = {
    "density": Range(0.2, 0.8),  # inside, so that DELLA's epsilon fits on either side
    "select_topk": Range(0.1, 1.0),
    "filter_wise": Choices((False, True)),
}
_OF_METHOD: Mapping[str, Space] = {
    "widen": {"t": Range(0.5, 1.5), "s": Range(0.5, 1.2)},
    "slerp": {"t": Range(0.1, 0.9)},
}


@dataclass(frozen=True)
class Candidate:
    """One merge to be tried: a method at its defaults (`trial` None), or with the values of one trial of its search."""

    method: str
    merge: Merge
    values: Mapping[str, Value] = field(default_factory=dict)
    trial: int | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, defaults" if self.trial is None else f"{self.method}, trial {self.trial + 1}"

    @property
    def parameters(self) -> dict[str, Any]:
        """The method's, spelt out; one model's own as NAME.MODEL, the model by its name, as a search has it."""
        owns = {
            f"{key}.{name_of(one.model)}": value for one in self.merge.models for key, value in one.parameters.items()
        }
        overridden = [key for key in self.merge.parameters if self._is_overridden(key)]
        return {key: value for key, value in self.merge.parameters.items() if key not in overridden} | owns

    def _is_overridden(self, key: str) -> bool:
        return all(key in one.parameters for one in self.merge.models)


@dataclass(frozen=True)
class Plan:
    """`methods` in the order in which ties are decided; `spaces` of those that are searched, `trials` each."""

    methods: tuple[str, ...]
    spaces: Mapping[str, Space]
    trials: int
    selection: float
    seed: int
    left_out: Mapping[str, str]

    @property
    def candidates(self) -> int:
        """How many there are to be."""
        return len(self.methods) + sum(planned(space, self.trials) for space in self.spaces.values())

    def content(self) -> dict[str, Any]:
        """As JSON can hold it, for the record."""
        spaces = {name: {key: asdict(one) for key, one in space.items()} for name, space in self.spaces.items()}
        return {
            "methods": list(self.methods),
            "search": spaces,
            "trials": self.trials,
            "selection": self.selection,
            "seed": self.seed,
        }


def plan_of(recipe: Recipe, methods: Sequence[str] | None, trials: int | None) -> Plan:
    """What the recipe's section asks for, with the command's `methods` and `trials` in place of its own.

    Without a search in the recipe, `trials` searches every method in a space of ours. Raises RecipeError for a method
    that is unknown or does not fit, and for a recipe without a base or without a clause to compare by.
    """
    asked = recipe.compare or Comparison()
    _require_comparable(recipe)
    named = methods or asked.methods
    chosen, left_out = _methods(recipe, named)
    count = trials or asked.trials or (TRIALS if asked.search else 0)
    if asked.search:
        spaces: dict[str, Space] = {
            name: recipe_search.space_of(name, asked.search[name]) for name in chosen if name in asked.search
        }
    else:
        spaces = {name: space for name in chosen if count and (space := built_in(recipe, name))}
    return Plan(chosen, spaces, count if spaces else 0, asked.selection, asked.seed, left_out)


def _require_comparable(recipe: Recipe) -> None:
    for needed in ("evaluate", "gates", "registry"):
        recipe.require(needed)
    if not recipe.require("gates").parents:
        raise RecipeError(
            f"{recipe.path}: gates.parents: a comparison needs at least one clause here, by whose owners' gains merges "
            "are compared; add one a skill, such as {task: TASK, metric: acc, owner: MODEL, keep: 0.5}"
        )
    if told := recipe_search.unfit(recipe.merge):
        raise RecipeError(f"{recipe.path}: merge: {told}")
    if recipe.merge.base_model is None:
        raise RecipeError(f"{recipe.path}: merge.base_model: a comparison needs the base, over which gains are counted")


def _methods(recipe: Recipe, named: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, str]]:
    if named is None:
        fitting, left_out = recipe_search.unasked(recipe.merge)
        return tuple(fitting), left_out
    for name in named:
        if name not in METHODS:
            raise RecipeError(f"--methods: {unknown('merge method', name, METHODS)}")
        if reason := recipe_search.misfit(recipe.merge, name):
            raise RecipeError(f"--methods {name}: {reason}")
    return tuple(dict.fromkeys(named)), {}


def built_in(recipe: Recipe, method: str) -> dict[str, Choices | Range]:
    """The search of a method where the recipe has none: a weight for each model, densities and the like."""
    parameters = METHODS[method].parameters
    space = {f"weight.{name}": _WEIGHT for name in recipe.parents if "weight" in parameters}
    found: dict[str, Choices | Range] = {**space, **_OF_METHOD.get(method, {})}
    found |= {name: one for name, one in _BOUNDS.items() if name in parameters}
    normalised = parameters.get("normalize")
    if "lambda" in parameters and normalised is not None and normalised.default is True:
        found["lambda"] = Range(0.5, 1.5)  # only the weights' ratio counts there
    return found


def defaults(recipe: Recipe, method: str) -> Candidate:
    """A method with the recipe's parameters, where it is the recipe's own, else with its defaults."""
    return Candidate(method, spelt_out(recipe_search.section(recipe.merge, method)))


def tried(recipe: Recipe, method: str, trial: int, values: Mapping[str, Value]) -> Candidate:
    """The same with what a search chose."""
    merge = defaults(recipe, method).merge
    names = dict(zip([index for index, _ in merged_models(merge)], recipe.parents, strict=True))
    shared = {key: value for key, value in values.items() if "." not in key}
    models = []
    for index, one in enumerate(merge.models):
        if index not in names:  # the base among the models keeps what is its own
            models.append(one)
            continue
        suffix = f".{names[index]}"
        own = {key.removesuffix(suffix): value for key, value in values.items() if key.endswith(suffix)}
        kept = {key: value for key, value in one.parameters.items() if key not in shared}
        models.append(Model(model=one.model, parameters=kept | own))
    return Candidate(
        method,
        spelt_out(replace(merge, parameters={**merge.parameters, **shared}, models=tuple(models))),
        values,
        trial,
    )


def said_defaults(plan: Plan, recipe: Recipe) -> list[str]:
    """Which values are ours, since a method has none and the recipe gives none."""
    lines = []
    for name in plan.methods:
        given = [key for key, one in METHODS[name].parameters.items() if one.default is None]
        if given and name != recipe.merge.merge_method:
            lines.append(f"{name}: {', '.join(f'{key} {recipe_search.GIVEN[key]:g}' for key in given)}")
    return lines
