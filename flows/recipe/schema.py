"""The sections of a recipe, named as in its YAML: frozen, typed, unknown keys forbidden.

A validator's ValueError says what was expected; `check` turns all that pydantic found into faults.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, StrictBool, TypeAdapter, ValidationError, with_config

from flows.recipe.comparison import Comparison
from flows.recipe.evaluation_values import BatchSize, Scalars, Template
from flows.recipe.faults import Fault, Where, describe, unknown
from flows.recipe.gates import Gates
from flows.recipe.secrets import ADVICE, is_secret_key
from flows.recipe.values import (
    ALL_MODELS,
    Bands,
    DirectionChange,
    Dtype,
    LayerRange,
    Names,
    SomeNames,
    Text,
    choice,
    some,
    whole,
)
from widen.methods import METHODS


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """Where a checkpoint comes from: a folder of a repository at a revision, or (without `repo`) a local folder.

    `license` is an SPDX identifier or Hugging Face's name of one; without it, what the checkpoint's own files state.
    """

    path: Text
    repo: Text | None = None
    rev: Text | None = None
    license: Text | None = None

    @property
    def place(self) -> dict[str, str | None]:
        """Where it comes from, without what is said about it."""
        return {"path": self.path, "repo": self.repo, "rev": self.rev}

    @property
    def content(self) -> dict[str, str | None]:
        """All that is said."""
        return self.place | ({"license": self.license} if self.license else {})


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Model:
    """One model to merge: a source's name, or a folder; `parameters` are its own of the method's."""

    model: Text
    parameters: dict[str, Any] = field(default_factory=dict)


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class SliceSource:
    """Layers of one model, from the first up to but not including the last; without a range all of them."""

    model: Text
    layer_range: LayerRange | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Slice:
    """Layers of the output, merged from those of its sources; `parameters` come before those of the whole merge."""

    sources: Annotated[tuple[SliceSource, ...], AfterValidator(some)]
    base_model: Text | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    module: str = ""


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Module:
    """A stack of layers among several, merged from whole `models`, or from `slices` of them."""

    models: Annotated[tuple[Model, ...], AfterValidator(some)] = ()
    slices: Annotated[tuple[Slice, ...], AfterValidator(some)] = ()
    parameters: dict[str, Any] = field(default_factory=dict)


@with_config(extra="forbid")
@dataclass(frozen=True, kw_only=True)
class Merge:
    """A mergekit configuration, as far as it is supported; `methods` says what the method's parameters are."""

    merge_method: Annotated[str, choice(*METHODS)]
    models: Annotated[tuple[Model, ...], AfterValidator(some)] = ()
    slices: Annotated[tuple[Slice, ...], AfterValidator(some)] = ()
    modules: dict[str, Module] = field(default_factory=dict)
    base_model: Text | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Text | None = None
    tokenizer: dict[str, Any] | None = None
    chat_template: Text | None = None

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
    batch_size: BatchSize = 8
    parallel: Annotated[int, whole(1)] = 1
    limit: Annotated[int, whole(1)] | None = None
    num_fewshot: Annotated[int, whole(0)] | None = None
    apply_chat_template: Template = False
    fewshot_as_multiturn: StrictBool | None = None
    system_instruction: Text | None = None
    max_length: Annotated[int, whole(1)] | None = None
    backend: Annotated[str, choice("hf", "vllm")] = "hf"
    backend_args: Scalars = field(default_factory=dict)


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
    follow: StrictBool = True
    sources: dict[str, SourceSpec] = field(default_factory=dict)
    validate: Validation | None = None
    evaluate: Evaluation | None = None
    gates: Gates | None = None
    registry: Registration | None = None
    compare: Comparison | None = None


Section = TypeVar("Section", Body, Merge)


def check(data: Mapping[str, Any]) -> tuple[Body | None, list[Fault]]:
    """The typed recipe, with a fault for everything wrong in its structure.

    Unknown keys are left out and the rest is read, so that one misspelt key does not hide the faults behind it.
    """
    value, problems = _validated(Body, data)
    return value, [_fault(problem) for problem in problems]


def merge_section(data: Mapping[str, Any]) -> Merge | None:
    """The merge section alone, for what can be told of it where another section is wrong; None where it is itself."""
    return _validated(Merge, data.get("merge"))[0]


def _validated(section: type[Section], data: Any) -> tuple[Section | None, list[Mapping[str, Any]]]:
    """The section without the keys that it does not know, and all that pydantic says against it."""
    try:
        return _adapter(section).validate_python(data), []
    except ValidationError as error:
        problems: list[Mapping[str, Any]] = [dict(problem) for problem in error.errors(include_url=False)]
    known = data
    for problem in problems:
        if problem["type"] != "unexpected_keyword_argument":
            return None, problems
        known = _without(known, problem["loc"])
    try:
        return _adapter(section).validate_python(known), problems
    except ValidationError:
        return None, problems


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


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
