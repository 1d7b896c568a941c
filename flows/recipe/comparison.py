"""The section `compare` of a recipe, named as in its YAML: frozen, typed, unknown keys forbidden."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, with_config

from flows.recipe.values import number, some, whole

SELECTION = 0.5
TRIALS = 20


def _distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(value)) != len(value):
        raise ValueError("each method once")
    return value


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a method's name")
    return value


Word = Annotated[str, BeforeValidator(_word)]
InsideShare = Annotated[float, number("a number above 0 and below 1", lambda value: 0 < value < 1)]


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `widen compare` tries. `search` says what may stand under `search`, by method and parameter.

    `methods` None: all that fit. `trials` is for each method that has a search; None where none is asked for, or
    TRIALS with a `search`. `selection` is the share of every task's documents that choose; the others judge the winner.
    """

    methods: Annotated[tuple[Word, ...], AfterValidator(some), AfterValidator(_distinct)] | None = None
    search: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    trials: Annotated[int, whole(1)] | None = None
    selection: InsideShare = SELECTION
    seed: Annotated[int, whole(0)] = 0
