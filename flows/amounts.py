"""Options written as NAME=AMOUNT,NAME=AMOUNT: names that are known, each with the kind of its amount."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from flows.merge import parse_size
from widen.errors import RecipeError

Kind = Callable[[str, str], float]
"""Reads one amount, and names the option and the amount in what it raises."""


def size(what: str, text: str) -> float:
    """Bytes, as in 32GB."""
    return parse_size(what, text)


def whole(what: str, text: str) -> int:
    """A whole number, 0 too."""
    if not (text.isascii() and text.strip().isdecimal()):
        raise RecipeError(f"{what}: expected a whole number, found {text!r}")
    return int(text)


def one_or_more(what: str, text: str) -> int:
    """A whole number, at least 1."""
    if (count := whole(what, text)) < 1:
        raise RecipeError(f"{what}: expected a whole number of at least 1, found {text!r}")
    return count


def number(what: str, text: str) -> float:
    """Any number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < 0:
        raise RecipeError(f"{what}: expected a number of at least 0, found {text!r}")
    return value


def parse_amounts(
    option: str, text: str | None, kinds: Mapping[str, Kind], other: Kind | None = None
) -> dict[str, Any]:
    """`cpus=32,read=3GB` as values. other: the kind of names beside the known ones; None allows none.

    Raises RecipeError naming what is wrong.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in (text or "").split(","))):
        name, equals, amount = (one.strip() for one in part.partition("="))
        kind = kinds.get(name, other)
        if not equals or not name or kind is None:
            raise RecipeError(f"{option} {part!r}: expected NAME=AMOUNT with {_names(kinds, other)}")
        if name in found:
            raise RecipeError(f"{option}: {name} is given twice")
        found[name] = kind(f"{option} {name}", amount)
    return found


def _names(kinds: Mapping[str, Kind], other: Kind | None) -> str:
    listed = ", ".join(kinds)
    return f"one of {listed}" if other is None else f"{listed} or a resource that the cluster's nodes offer"
