"""How a merge method is defined: a typed function of one tensor, whose signature is its parameters."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

from widen.combination import Combination
from widen.errors import RecipeError
from widen.methods.operands import Operands
from widen.parameters import Setting, by_names

Each = Sequence[float]
"""A parameter that every participant has a value of its own for, in their order."""
EachSwitch = Sequence[bool]
"""The same, true or false; a recipe may give it as a list of parts of tensors' names."""


def each(default: float) -> Any:
    """A default for every participant."""
    return default


Origin = Literal["required", "optional", "none"]
Kind = Literal["number", "whole", "switch", "choice"]
Value = float | int | bool | str
_KINDS: Mapping[Any, Kind] = {float: "number", int: "whole", bool: "switch", Each: "number", EachSwitch: "switch"}
_EXPECTED = {"number": "a finite number", "whole": "a whole number", "switch": "true or false"}


@dataclass(frozen=True)
class Parameter:
    """One parameter: a value for the merge, or one for `each` participant. `default` None: it must be given.

    choices: the words that a choice is among. argument: its name in the method's function. later: it came when there
    were records without it, so it stays out of them while it has its default, and their digests stay what they were.
    """

    name: str
    kind: Kind
    each: bool
    default: Value | None
    choices: tuple[str, ...] = ()
    argument: str = ""
    later: bool = False

    def checked(self, value: Any) -> Value:
        """The value in its own type. Raises ValueError that says what was expected."""
        if not self.fits(value):
            raise ValueError(f"expected {self.expected(value)}")
        return float(value) if self.kind == "number" else value

    def expected(self, value: Any) -> str:
        """What to say of a value that it cannot have; of a word, with the nearest that it can be."""
        if self.kind == "choice":
            listed = " or ".join(f"`{one}`" for one in self.choices)
            near = get_close_matches(value, self.choices, 1, 0.0) if isinstance(value, str) else []
            return f"{listed} (the nearest is `{near[0]}`)" if near else listed
        return _EXPECTED[self.kind] + (", or a list of parts of tensors' names" if self._named else "")

    def spelt_out(self, setting: Setting) -> Setting:
        """A setting without shorthand: a list of parts of names becomes filters."""
        return by_names(setting) if self._named else setting

    def is_untold(self, setting: Setting) -> bool:
        """Whether a setting, or the values of every participant, stay out of records."""
        if not self.later:
            return False
        values = setting if isinstance(setting, tuple) else (setting,)
        return all(value == self.default for value in values)

    def fits(self, value: Any) -> bool:
        """Whether it can have the value."""
        match self.kind:
            case "choice":
                return isinstance(value, str) and value in self.choices
            case "switch":
                return isinstance(value, bool)
            case _:
                return _is_number(value, self.kind == "whole")

    @property
    def _named(self) -> bool:
        return self.each and self.kind == "switch"


@dataclass(frozen=True)
class Method:
    """A merge method, as recipes name it.

    origin: whether its participants are task vectors from a base. least, most: how many participants it takes.
    """

    name: str
    function: Callable[..., Combination]
    parameters: Mapping[str, Parameter]
    origin: Origin
    least: int
    most: int | None

    def call(self, operands: Operands, arguments: Sequence[tuple[str, Any]]) -> Combination:
        """What the method makes of one tensor. arguments: by the parameters' names."""
        return self.function(operands, **{self.parameters[name].argument: value for name, value in arguments})

    def require_participants(self, count: int) -> None:
        """Raise RecipeError for a number of participants that the method does not take."""
        if count < self.least or (self.most is not None and count > self.most):
            many = f"{self.least}" if self.most == self.least else f"at least {self.least}"
            raise RecipeError(f"merge method {self.name} takes {many} models{_BESIDE[self.origin]}, found {count}")


_BESIDE: Mapping[Origin, str] = {"required": " besides the base", "optional": " besides a base", "none": ""}
METHODS: dict[str, Method] = {}


def merge_method(
    name: str, origin: Origin, least: int = 1, most: int | None = None, later: Sequence[str] = ()
) -> Callable[[Callable[..., Combination]], Callable[..., Combination]]:
    """Make a function a merge method. Its first argument is the tensor's `Operands`; the others are parameters.

    A trailing underscore keeps a parameter's name out of Python's way (`lambda_`). later: see `Parameter`.
    """

    def define(function: Callable[..., Combination]) -> Callable[..., Combination]:
        METHODS[name] = Method(name, function, dict(_parameters(function, later)), origin, least, most)
        return function

    return define


def _parameters(function: Callable[..., Combination], later: Sequence[str]) -> Sequence[tuple[str, Parameter]]:
    hints = get_type_hints(function)
    found = []
    for argument in list(inspect.signature(function).parameters.values())[1:]:
        hint, name = hints[argument.name], argument.name.removesuffix("_")
        default = None if argument.default is inspect.Parameter.empty else argument.default
        words = get_args(hint) if get_origin(hint) is Literal else ()
        kind, is_each = "choice" if words else _KINDS[hint], hint in (Each, EachSwitch)
        found.append((name, Parameter(name, kind, is_each, default, words, argument.name, name in later)))
    return found


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if whole else isfinite(value)
