"""How a merge method is defined: a typed function of one tensor, whose signature is its parameters."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_type_hints

from widen.combination import Combination
from widen.errors import RecipeError
from widen.methods.operands import Operands

Each = Sequence[float]
"""A parameter that every participant has a value of its own for, in their order."""


def each(default: float) -> Any:
    """A default for every participant."""
    return default


Origin = Literal["required", "optional", "none"]
Kind = Literal["number", "whole", "switch"]
Value = float | int | bool
_KINDS: Mapping[Any, Kind] = {float: "number", int: "whole", bool: "switch", Each: "number"}
_EXPECTED = {"number": "a finite number", "whole": "a whole number", "switch": "true or false"}


@dataclass(frozen=True)
class Parameter:
    """One parameter: a value for the merge, or one for `each` participant. `default` None: it must be given."""

    name: str
    kind: Kind
    each: bool
    default: Value | None

    def checked(self, value: Any) -> Value:
        """The value in its own type. Raises ValueError that says what was expected."""
        right = isinstance(value, bool) if self.kind == "switch" else _is_number(value, self.kind == "whole")
        if not right:
            raise ValueError(f"expected {_EXPECTED[self.kind]}")
        return float(value) if self.kind == "number" else value


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
        taken = inspect.signature(self.function).parameters
        named = {name if name in taken else f"{name}_": value for name, value in arguments}
        return self.function(operands, **named)

    def require_participants(self, count: int) -> None:
        """Raise RecipeError for a number of participants that the method does not take."""
        if count < self.least or (self.most is not None and count > self.most):
            many = f"{self.least}" if self.most == self.least else f"at least {self.least}"
            raise RecipeError(f"merge method {self.name} takes {many} models{_BESIDE[self.origin]}, found {count}")


_BESIDE: Mapping[Origin, str] = {"required": " besides the base", "optional": " besides a base", "none": ""}
METHODS: dict[str, Method] = {}


def merge_method(
    name: str, origin: Origin, least: int = 1, most: int | None = None
) -> Callable[[Callable[..., Combination]], Callable[..., Combination]]:
    """Make a function a merge method. Its first argument is the tensor's `Operands`; the others are parameters.

    A trailing underscore keeps a parameter's name out of Python's way (`lambda_`).
    """

    def define(function: Callable[..., Combination]) -> Callable[..., Combination]:
        METHODS[name] = Method(name, function, dict(_parameters(function)), origin, least, most)
        return function

    return define


def _parameters(function: Callable[..., Combination]) -> Sequence[tuple[str, Parameter]]:
    hints = get_type_hints(function)
    found = []
    for argument in list(inspect.signature(function).parameters.values())[1:]:
        hint, name = hints[argument.name], argument.name.removesuffix("_")
        default = None if argument.default is inspect.Parameter.empty else argument.default
        found.append((name, Parameter(name, _KINDS[hint], hint == Each, default)))
    return found


def _is_number(value: Any, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if whole else isfinite(value)
