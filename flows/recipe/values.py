"""What a value in a recipe may be: numbers in a range, names, words, each told by what was expected of it."""

import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

MOST = 10**9
ALL_MODELS = "*"
"""The key under which a band for all models stands until the models are known."""


def number(expected: str, holds: Callable[[float], bool]) -> BeforeValidator:
    """A finite number for which `holds`, as a float; true and false are no numbers, nor is text."""

    def check(value: object) -> float:
        if (told := _not_a_number(value, expected, holds)) is not None:
            raise ValueError(told)
        return float(value)  # type: ignore[arg-type]

    return BeforeValidator(check)


def finite(value: object, expected: str = "a finite number", least: float = -math.inf) -> str | None:
    """What was expected where `value` is no finite number of at least `least`; else None."""
    return _not_a_number(value, expected, lambda found: found >= least)


def whole_number(value: object) -> str | None:
    """What was expected where `value` is no whole number; else None."""
    right = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST
    return None if right else "a whole number"


def _not_a_number(value: object, expected: str, holds: Callable[[float], bool]) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return expected + _as_number(value)
    return None if abs(value) < math.inf and abs(value) <= 1e300 and holds(value) else expected


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


def _layer_range(value: object) -> tuple[int, int]:
    plain = isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    if not plain or not isinstance(value, list) or len(value) != 2 or not 0 <= value[0] < value[1] <= MOST:
        raise ValueError("two whole numbers [first, last] with 0 <= first < last")
    return value[0], value[1]


def _bands(value: object) -> object:
    return {ALL_MODELS: value} if isinstance(value, list) else value


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise ValueError("each name once")
    return value


def some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same list, which has something in it."""
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
SomeNames = Annotated[Names, AfterValidator(some)]
Dtype = Annotated[str, choice("bfloat16", "float16", "float32")]
NotNegative = Annotated[float, number("a number of at least 0", lambda value: value >= 0)]
AnyNumber = Annotated[float, number("a finite number", lambda _: True)]
Share = Annotated[float, number("a number above 0 and at most 1", lambda value: 0 < value <= 1)]
Level = Annotated[float, number("a number above 0 and below 0.5", lambda value: 0 < value < 0.5)]
DirectionChange = Annotated[float, number("a number above 0 and at most 2", lambda value: 0 < value <= 2)]
Band = Annotated[tuple[float, float], BeforeValidator(_band)]
LayerRange = Annotated[tuple[int, int], BeforeValidator(_layer_range)]
Bands = Annotated[dict[str, Band], BeforeValidator(_bands)]
