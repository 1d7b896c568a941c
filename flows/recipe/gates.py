"""The section `gates` of a recipe, named as in its YAML: frozen, typed, unknown keys forbidden."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, StrictBool, with_config

from flows.recipe.values import AnyNumber, Level, NotNegative, Share, Text, choice, some


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class AbsoluteClause:
    """The merged model reaches `floor`, or (a loss) stays under `ceiling`."""

    task: Text
    metric: Text
    floor: AnyNumber | None = None
    ceiling: AnyNumber | None = None
    filter: Text | None = None


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class ParentClause:
    """The merged model keeps the share `keep` of its owner's gain over the base, or is within `margin` of the owner."""

    task: Text
    metric: Text
    owner: Text
    keep: Share | None = None
    margin: NotNegative | None = None
    superior: StrictBool = False
    filter: Text | None = None


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class ChampionClause:
    """The merged model is within `margin` of the model now behind the alias `champion`."""

    task: Text
    metric: Text
    margin: NotNegative
    filter: Text | None = None


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class TaskMetric:
    """One metric of one task."""

    task: Text
    metric: Text
    filter: Text | None = None


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class BetterClause:
    """The merged model is better than `champion`, `base` or a parent, on `any` of the tasks or in their `mean`."""

    than: Text
    tasks: Annotated[tuple[TaskMetric, ...], AfterValidator(some)]
    rule: Annotated[Literal["any", "mean"], choice("any", "mean")] = "any"


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Gates:
    """The clauses that must all hold before a version may be promoted, each at level `alpha`."""

    alpha: Level = 0.05
    absolute: tuple[AbsoluteClause, ...] = ()
    parents: tuple[ParentClause, ...] = ()
    champion: tuple[ChampionClause, ...] = ()
    better: tuple[BetterClause, ...] = ()
