"""The sections of a recipe, named as in its YAML: frozen, typed, unknown keys forbidden; the only importer of pydantic.

A validator's ValueError says what was expected; `problems` turns all that pydantic found into faults.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import AfterValidator, BeforeValidator, StrictBool, TypeAdapter, ValidationError, with_config

from flows.faults import Fault, Where, describe, unknown
from flows.secrets import ADVICE, is_secret_key

MOST = 10**9
ALL_MODELS = "*"
"""The key under which a band for all models stands until the models are known."""


def number(expected: str, holds: Callable[[float], bool]) -> BeforeValidator:
    """A finite number for which `holds`, as a float; true and false are no numbers, nor is text."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(expected + _as_number(value))
        if not abs(value) < math.inf or abs(value) > 1e300 or not holds(value):
            raise ValueError(expected)
        return float(value)

    return BeforeValidator(check)


def whole(least: int) -> BeforeValidator:
    """A whole number from `least` to a thousand million."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return BeforeValidator(check)


def choice(*names: str) -> BeforeValidator:
    """One of the given words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError(" or ".join(f"`{name}`" for name in names))
        return value

    return BeforeValidator(check)


def _text(value: object) -> str:
    if not isinstance(value, str):
        hint = "" if value is None or isinstance(value, list | dict) else " (put it in quotes)"
        raise ValueError("text" + hint)
    if not value.strip():
        raise ValueError("text that is not empty")
    return value


def _band(value: object) -> tuple[float, float]:
    expected = "two numbers [low, high] with 0 <= low < high"
    plain = isinstance(value, list) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    if not plain or not isinstance(value, list) or len(value) != 2 or not 0 <= value[0] < value[1] <= 1e300:
        raise ValueError(expected)
    return float(value[0]), float(value[1])


def _bands(value: object) -> object:
    return {ALL_MODELS: value} if isinstance(value, list) else value


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise ValueError("each name once")
    return value


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("at least one")
    return value


def _as_number(value: object) -> str:
    """YAML reads 1e-3 as text: it wants 1.0e-3."""
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return ""
    return f" (YAML takes this for text; write {number!r})" if math.isfinite(number) else ""


Text = Annotated[str, BeforeValidator(_text)]
Names = Annotated[tuple[Text, ...], AfterValidator(_distinct)]
SomeNames = Annotated[Names, AfterValidator(_some)]
Dtype = Annotated[str, choice("bfloat16", "float16", "float32")]
NotNegative = Annotated[float, number("a number of at least 0", lambda value: value >= 0)]
AnyNumber = Annotated[float, number("a finite number", lambda _: True)]
Share = Annotated[float, number("a number above 0 and at most 1", lambda value: 0 < value <= 1)]
Level = Annotated[float, number("a number above 0 and below 0.5", lambda value: 0 < value < 0.5)]
DirectionChange = Annotated[float, number("a number above 0 and at most 2", lambda value: 0 < value <= 2)]
Band = Annotated[tuple[float, float], BeforeValidator(_band)]
Bands = Annotated[dict[str, Band], BeforeValidator(_bands)]


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """Where a checkpoint comes from: a folder of a repository at a revision, or (without `repo`) a local folder."""

    path: Text
    repo: Text | None = None
    rev: Text | None = None


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Model:
    """One model to merge: a source's name, or a folder."""

    model: Text


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Parameters:
    """WIDEN's `t`, the factor on the average rank, and `s`, the calibrated score."""

    t: NotNegative = 1.0
    s: NotNegative = 1.0


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Merge:
    """A mergekit configuration, as far as a WIDEN merge takes it."""

    merge_method: Annotated[Literal["widen"], choice("widen")]
    base_model: Text
    models: Annotated[tuple[Model, ...], AfterValidator(_some)]
    parameters: Parameters = field(default_factory=Parameters)
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None

    @property
    def output_dtype(self) -> str | None:
        """The type written: `out_dtype`, or `dtype`, or (None) the base's."""
        return self.out_dtype or self.dtype


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a parent may have changed of the base; `relative_change` holds a band per model's name."""

    relative_change: Bands = field(default_factory=dict)
    direction_change_max: DirectionChange = 0.5
    allow_config: Names = ()


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The lm-eval tasks to score every model on, and how; `parallel` models at once, so all of them must fit."""

    tasks: SomeNames
    include_path: Text | None = None
    dtype: Dtype = "float32"
    batch_size: Annotated[int, whole(1)] = 8
    parallel: Annotated[int, whole(1)] = 1
    limit: Annotated[int, whole(1)] | None = None
    num_fewshot: Annotated[int, whole(0)] | None = None


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
class Gates:
    """The clauses that must all hold before a version may be promoted, each at level `alpha`."""

    alpha: Level = 0.05
    absolute: tuple[AbsoluteClause, ...] = ()
    parents: tuple[ParentClause, ...] = ()


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Registration:
    """Under which name, and in which MLflow registry; `uri` None is the workspace's own."""

    name: Text
    uri: Text | None = None


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Body:
    """A whole recipe file."""

    name: Text
    merge: Merge
    sources: dict[str, SourceSpec] = field(default_factory=dict)
    validate: Validation | None = None
    evaluate: Evaluation | None = None
    gates: Gates | None = None
    registry: Registration | None = None


def check(data: Mapping[str, Any]) -> tuple[Body | None, list[Fault]]:
    """The typed recipe, with a fault for everything wrong in its structure.

    Unknown keys are left out and the rest is read, so that one misspelt key does not hide the faults behind it.
    """
    try:
        return _adapter().validate_python(data), []
    except ValidationError as error:
        faults = [_fault(problem) for problem in error.errors(include_url=False)]
        known = data
        for problem in error.errors(include_url=False):
            if problem["type"] != "unexpected_keyword_argument":
                return None, faults
            known = _without(known, problem["loc"])
    try:
        return _adapter().validate_python(known), faults
    except ValidationError:
        return None, faults


@cache
def _adapter() -> TypeAdapter[Body]:
    return TypeAdapter(Body)


_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
}


def _fault(problem: Mapping[str, Any]) -> Fault:
    where: Where = tuple(part for part in problem["loc"] if part != ALL_MODELS)
    kind = problem["type"]
    if kind == "missing":
        return Fault(where, "a required key is missing")
    if kind == "unexpected_keyword_argument":
        return Fault(where, _unknown_key(where))
    error = problem.get("ctx", {}).get("error")
    expected = str(error) if error is not None else _EXPECTED.get(kind, problem["msg"])
    return Fault(where, f"expected {expected}, found {describe(problem['input'])}")


def _unknown_key(where: Where) -> str:
    key = str(where[-1])
    advice = f"; a credential does not belong in a recipe, use {ADVICE}" if is_secret_key(key) else ""
    return unknown("key", key, _known_keys(where[:-1])) + advice


def _known_keys(where: Where) -> list[str]:
    """The keys of the section at `where`, found by walking down the sections' own annotations."""
    section: Any = Body
    for part in where:
        section = next(_sections(get_type_hints(section).get(str(part))), section)
    return [one.name for one in fields(section)]


def _sections(annotation: Any) -> Any:
    if hasattr(annotation, "__dataclass_fields__"):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)


def _without(value: Any, where: Where) -> Any:
    if isinstance(value, list):
        return [_without(one, where[1:]) if index == where[0] else one for index, one in enumerate(value)]
    if len(where) == 1:
        return {key: one for key, one in value.items() if key != where[0]}
    return {key: _without(one, where[1:]) if key == where[0] else one for key, one in value.items()}
