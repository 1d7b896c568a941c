"""The clauses of a gate as values: what each asks, checked when it is written; `registry.gate` answers them."""

import math
from dataclasses import dataclass
from typing import Literal

from registry.errors import GateError

CHAMPION_ROLE, BASE_ROLE = "champion", "base"

Rule = Literal["any", "mean"]


@dataclass(frozen=True)
class Absolute:
    """The merged model reaches `floor` (higher is better) or stays under `ceiling` (lower is better) on a task.

    Raises GateError unless exactly one of the two is given, as a finite number.
    """

    task: str
    metric: str
    floor: float | None = None
    ceiling: float | None = None
    filter: str | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.floor, self.ceiling) if limit is not None]
        if len(limits) != 1:
            raise GateError(f"absolute {self.task}/{self.metric}: give either a floor or a ceiling")
        if not math.isfinite(limits[0]):
            raise GateError(f"absolute {self.task}/{self.metric}: expected a finite limit, found {limits[0]}")

    def __str__(self) -> str:
        limit = f"floor {self.floor:g}" if self.floor is not None else f"ceiling {self.ceiling:g}"
        return f"absolute {_label(self.task, self.metric, self.filter)}: {limit}"


@dataclass(frozen=True)
class Parent:
    """The merged model is not worse than `owner` by `margin`, or keeps the share `keep` of its gain over the base.

    With `keep` the question is whether merged - keep * owner - (1 - keep) * base is above zero, formed document by
    document: the owner's gain is estimated from the same documents, and its uncertainty is in the interval exactly, as
    it would not be in a margin computed first. With `superior` the merged model must also beat every other parent.
    Raises GateError unless exactly one of `keep` (above 0, at most 1) and `margin` (0 or more) is given.
    """

    task: str
    metric: str
    owner: str
    keep: float | None = None
    margin: float | None = None
    superior: bool = False
    filter: str | None = None

    def __post_init__(self) -> None:
        name = f"parents {self.task}/{self.metric}"
        if (self.keep is None) == (self.margin is None):
            raise GateError(f"{name}: give either keep (a share of the owner's gain) or margin (in the metric's unit)")
        if self.keep is not None and not 0.0 < self.keep <= 1.0:
            raise GateError(f"{name}: expected keep above 0 and at most 1, found {self.keep}")
        if self.margin is not None:
            _require_margin(name, self.margin)

    def __str__(self) -> str:
        rule = f"keep {self.keep:g} of its gain" if self.keep is not None else f"margin {self.margin:g}"
        also = ", superior to every other parent" if self.superior else ""
        return f"parents {_label(self.task, self.metric, self.filter)}: owner {self.owner}, {rule}{also}"


@dataclass(frozen=True)
class Champion:
    """The merged model is not worse by `margin`, in the metric's unit, than the model behind the alias `champion`.

    On a first run there is none, and a `Parent` clause on the same task, metric and filter stands in. Raises GateError
    for a margin that is not a finite number of 0 or more.
    """

    task: str
    metric: str
    margin: float
    filter: str | None = None

    def __post_init__(self) -> None:
        _require_margin(f"champion {self.task}/{self.metric}", self.margin)

    def __str__(self) -> str:
        return f"champion {_label(self.task, self.metric, self.filter)}: margin {self.margin:g}"


@dataclass(frozen=True)
class Better:
    """The merged model is better than `than`: the champion, the base, or a parent by its name.

    `tasks` are (task, metric, filter). Rule "any": better on at least one of them, by p-values adjusted after Holm.
    Rule "mean": better in the mean of the tasks' differences, each counting the same. Raises GateError for no task, a
    task named twice, an unknown rule, or "any" with a single task.
    """

    than: str
    tasks: tuple[tuple[str, str, str | None], ...]
    rule: Rule = "any"

    def __post_init__(self) -> None:
        if self.rule not in ("any", "mean"):
            raise GateError(f"better than {self.than}: expected the rule any or mean, found {self.rule!r}")
        if len(self.tasks) < (2 if self.rule == "any" else 1):
            hint = "; with a single task take the rule mean" if self.tasks else ""
            least = "two tasks" if self.rule == "any" else "a task"
            raise GateError(f"{self}: expected at least {least}, found {len(self.tasks)}{hint}")
        if len(set(self.tasks)) != len(self.tasks):
            raise GateError(f"{self}: a task is named twice; name each once")

    def __str__(self) -> str:
        named = ", ".join(_label(*one) for one in self.tasks) or "no task"
        rule = "on at least one of" if self.rule == "any" else "in the mean of"
        return f"better than {self.than}: {rule} {named}"


Clause = Absolute | Parent | Champion | Better


def asks_champion(clause: Clause) -> bool:
    """Whether the clause compares with the champion."""
    return isinstance(clause, Champion) or (isinstance(clause, Better) and clause.than == CHAMPION_ROLE)


def stands_in(parent: Parent, champion: Champion) -> bool:
    """Whether `parent` asks about what `champion` does, and so answers for it while there is no champion."""
    return (parent.task, parent.metric, parent.filter) == (champion.task, champion.metric, champion.filter)


def _label(task: str, metric: str, filter_name: str | None) -> str:
    return f"{task}/{metric}" + (f"[{filter_name}]" if filter_name is not None else "")


def _require_margin(name: str, margin: float) -> None:
    if not 0.0 <= margin < math.inf:
        raise GateError(f"{name}: expected a finite margin of 0 or more, found {margin}")
