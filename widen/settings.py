"""What is asked of a merge, besides its inputs: a method, its parameters, and what is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from typing import Any

from widen.digests import digest_of
from widen.dtypes import storage_type
from widen.errors import RecipeError
from widen.methods import METHODS, Method
from widen.methods.definition import Parameter, Value
from widen.parameters import Setting, resolve, scalars
from widen.slices import Slice
from widen.vocabulary.chat_templates import mistake
from widen.vocabulary.request import TokenizerRequest

WIDEN = "widen"
Argument = Value | tuple[Value, ...]
Arguments = tuple[tuple[str, Argument], ...]
"""A method's arguments for one tensor, by name; one for each participant is a tuple."""


@dataclass(frozen=True)
class Settings:
    """What is asked of a merge, besides its inputs. `out_dtype` None keeps each tensor's type in the base.

    t: factor on the mean rank above which a column is important. s: the score of an important column; both of WIDEN
    alone. parameters: those of any other method, and WIDEN's others. models: each participant's own, in their order,
    the base first where it is one. origin: whether the models' differences from the base are merged; without it the
    base is a model like the others. Values may be gradients and filters, see `widen.parameters`. shard_bytes: the
    largest output file, unless one tensor alone is larger, None for a share of the model; it changes no tensor's bytes.
    slices: layers stacked anew, as JSON values of `widen.slices.Slice`, which hold the participants' own parameters.
    tokenizer: aligns vocabularies by token, as a request or its content; None merges rows by position. chat_template:
    `auto`, a name or a Jinja text, see `widen.vocabulary.chat_templates`; None keeps the tokenizer's.
    composed: where an adapter lies on a model, the inputs' names that make each participant, the base first, as in
    [["base"], ["chat", "tone"]]; without it each input is a participant, and an adapter lies on the base.
    """

    method: str = WIDEN
    t: Setting = 1.0
    s: Setting = 1.0
    out_dtype: str | None = None
    shard_bytes: int | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    models: Sequence[Mapping[str, Setting]] = ()
    origin: bool = True
    slices: Sequence[Mapping[str, Any]] = ()
    tokenizer: TokenizerRequest | None = None
    chat_template: str | None = None
    composed: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise RecipeError(f"merge method {self.method!r} is unknown; expected one of {', '.join(sorted(METHODS))}")
        object.__setattr__(self, "models", tuple(self._spelt_out(own) for own in self.models))
        object.__setattr__(self, "parameters", self._told(self._spelt_out(self.parameters)))
        object.__setattr__(self, "slices", tuple(self._slice_spelt_out(one) for one in self.slices))
        object.__setattr__(self, "composed", tuple(tuple(one) for one in self.composed))
        for key, value in self._given():
            _check(self.definition, key, value)
        for key in ("t", "s"):
            if isinstance(value := getattr(self, key), int) and not isinstance(value, bool):
                object.__setattr__(self, key, float(value))
        if self.definition.origin == ("none" if self.origin else "required"):
            told = (
                "merges whole models: say origin=False"
                if self.origin
                else "merges what changed since a base: origin=True"
            )
            raise RecipeError(f"merge method {self.method} {told}")
        if self.out_dtype is not None:
            storage_type(self.out_dtype)
        if isinstance(self.tokenizer, Mapping):
            object.__setattr__(self, "tokenizer", TokenizerRequest.of(self.tokenizer))
        if self.chat_template is not None and (wrong := mistake(self.chat_template)):
            raise RecipeError(f"chat_template: {wrong}")
        if self.shard_bytes is not None and self.shard_bytes < 1:
            raise RecipeError(f"shard size must be at least 1 byte, found {self.shard_bytes}")

    @property
    def definition(self) -> Method:
        """The method."""
        return METHODS[self.method]

    @property
    def shared(self) -> Mapping[str, Setting]:
        """The parameters of the merge as a whole."""
        return {**self.parameters, "t": self.t, "s": self.s} if self.method == WIDEN else self.parameters

    @property
    def content(self) -> dict[str, Any]:
        """As the manifest records it: all that was asked, without what the method does not have."""
        own: dict[str, Any] = {"t": self.t, "s": self.s}
        if self.method != WIDEN:
            own = {"parameters": dict(self.parameters)}
        elif self.parameters:
            own["parameters"] = dict(self.parameters)
        if any(self.models):
            own["models"] = [dict(one) for one in self.models]
        if not self.origin:
            own["origin"] = False
        if self.slices:
            own["slices"] = [dict(one) for one in self.slices]
        if self.tokenizer is not None:
            own["tokenizer"] = self.tokenizer.content
        if self.chat_template is not None:
            own["chat_template"] = self.chat_template
        if self.composed:
            own["composed"] = [list(one) for one in self.composed]
        return {"method": self.method, **own, "out_dtype": self.out_dtype, "shard_bytes": self.shard_bytes}

    @property
    def digest(self) -> str:
        """Of what the merged tensors depend on: the shard size is not part of it."""
        return digest_of({key: value for key, value in self.content.items() if key != "shard_bytes"})

    def arguments(
        self,
        participants: int,
        name: str,
        place: float,
        owns: Sequence[Mapping[str, Setting]] = (),
        first: Mapping[str, Setting] | None = None,
    ) -> Arguments:
        """The method's arguments for the tensor `name`, `place` of the way through the layers.

        owns: the participants' own parameters, those of `models` by default. first: parameters that come before those
        of the whole merge. Raises RecipeError for a parameter that is required and has no value there.
        """
        each, shared = owns or self.models or [{}] * participants, (first or {}, self.shared)

        def argument(parameter: Parameter) -> Argument:
            if not parameter.each:
                return self._value(parameter, shared, name, place)
            return tuple(self._value(parameter, (own, *shared), name, place) for own in each)

        found = ((one, argument(one)) for _, one in sorted(self.definition.parameters.items()))
        return tuple((one.name, value) for one, value in found if not one.is_untold(value))

    def _value(self, parameter: Parameter, sources: Sequence[Mapping[str, Setting]], name: str, place: float) -> Value:
        for source in sources:
            if parameter.name in source:
                value = resolve(source[parameter.name], name, place)
                if value is not None:
                    return parameter.checked(int(value) if parameter.kind == "whole" else value)
        if parameter.default is None:
            raise RecipeError(
                f"merge method {self.method} needs `{parameter.name}`, and {name} has none; give it a value"
            )
        return parameter.default

    def _spelt_out(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        known = self.definition.parameters
        return {key: known[key].spelt_out(value) if key in known else value for key, value in given.items()}

    def _slice_spelt_out(self, content: Mapping[str, Any]) -> dict[str, Any]:
        Slice.of(content)
        sources = [self._owner_spelt_out(source) for source in content["sources"]]
        return {**self._owner_spelt_out(content), "sources": sources}

    def _owner_spelt_out(self, content: Mapping[str, Any]) -> dict[str, Any]:
        given = content.get("parameters")
        return dict(content) if not given else {**content, "parameters": self._spelt_out(given)}

    def _told(self, given: Mapping[str, Setting]) -> dict[str, Setting]:
        """What of the shared parameters is recorded."""
        known = self.definition.parameters
        if self.method == WIDEN and (own := sorted({"t", "s"} & given.keys())):
            raise RecipeError(f"{own[0]}: expected as a setting of its own, Settings({own[0]}=...), not in parameters")
        return {key: value for key, value in given.items() if key not in known or not known[key].is_untold(value)}

    def _given(self) -> Iterator[tuple[str, Setting]]:
        sliced = [Slice.of(one) for one in self.slices]
        own = [source.parameters for one in sliced for source in one.sources]
        for source in (self.shared, *self.models, *(one.parameters for one in sliced), *own):
            yield from source.items()


def _check(method: Method, key: str, setting: Setting) -> None:
    parameter = method.parameters.get(key)
    if parameter is None:
        near = get_close_matches(key, method.parameters, 1)
        told = f"; the nearest is `{near[0]}`" if near else ""
        known = ", ".join(sorted(method.parameters)) or "none"
        raise RecipeError(f"merge method {method.name} has no parameter `{key}`{told} (known: {known})")
    try:
        for value in scalars(setting):
            _require(method, parameter, value)
    except ValueError as error:
        raise RecipeError(f"{key}: {error}, found {setting!r}") from error


def _require(method: Method, parameter: Parameter, value: Any) -> None:
    parameter.checked(value)
    if method.name == WIDEN and parameter.kind == "number" and not (isfinite(value) and value >= 0):
        raise ValueError("must be a finite number of at least 0")
