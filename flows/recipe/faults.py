"""What is wrong with a recipe, said the same way everywhere: file, line, key, expected, found, nearest known key."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from widen.errors import RecipeError

Where = tuple[str | int, ...]
"""A place in a document: ("merge", "models", 1, "model")."""

LONGEST_SHOWN = 60
LARGEST_SHOWN = 10**15


@dataclass(frozen=True)
class Fault:
    """One problem at one place; `line` is given where the place is not a key of the document."""

    where: Where
    text: str
    line: int | None = None


def dotted(where: Where) -> str:
    """("merge", "models", 1, "model") -> "merge.models[1].model"."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`; None only when nothing is known."""
    return max(sorted(known), key=lambda one: SequenceMatcher(None, name.lower(), one.lower()).ratio(), default=None)


def listed(names: Iterable[str]) -> str:
    """Names for a message: `a`, `b`, `c`."""
    return ", ".join(f"`{name}`" for name in names)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The text of a fault about a name that is not among `known`."""
    known = list(known)
    if not known:
        return f"unknown {what} {show(name)}; none is known here"
    return f"unknown {what} {show(name)}; the nearest known is `{nearest(name, known)}` (known: {listed(known)})"


def show(text: str) -> str:
    """Text of the user's for a message: one line, cut when long."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return f"`{text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + '...'}`"


def describe(value: object) -> str:
    """A value found in a document, for "expected ..., found ..."."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text {show(value)}"
    if isinstance(value, int | float):
        return f"the number {value}" if isinstance(value, float) or abs(value) < LARGEST_SHOWN else "a number too large"
    return "a list" if isinstance(value, list | tuple) else "a mapping"


def refusal(path: Path, faults: Iterable[Fault], line_of: Callable[[Where], int]) -> RecipeError:
    """The error that lists every fault once, in the order of the file's lines."""
    numbered = {(fault.line or line_of(fault.where), dotted(fault.where), fault.text) for fault in faults}
    lines = [
        f"{path}:{line}: {key}: {text}" if key else f"{path}:{line}: {text}" for line, key, text in sorted(numbered)
    ]
    if len(lines) == 1:
        return RecipeError(lines[0])
    return RecipeError("\n  ".join([f"{path}: {len(lines)} problems", *lines]))
