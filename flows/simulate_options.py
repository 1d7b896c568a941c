"""What `widen simulate` is told of nodes, storage and units, as NAME=AMOUNT,... on the command line."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from flows.merge import parse_size
from widen.errors import RecipeError

Kind = Callable[[str, str], float]
MOST_NODES = 4096


def _bytes(what: str, text: str) -> float:
    return parse_size(what, text)


def _count(what: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise RecipeError(f"{what}: expected a whole number, found {text!r}")
    return int(text)


def _number(what: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < 0:
        raise RecipeError(f"{what}: expected a number of at least 0, found {text!r}")
    return value


NODE: Mapping[str, Kind] = {
    "cpus": _count, "gpus": _count, "memory": _bytes, "read": _bytes, "write": _bytes, "network": _bytes,
    "pcie": _bytes, "kernel": _bytes, "scaling": _number, "speed": _number, "price": _number,
}  # fmt: skip
STORAGE: Mapping[str, Kind] = {
    "read": _bytes, "write": _bytes, "latency": _number, "part": _bytes, "requests": _count,
}  # fmt: skip
UNIT: Mapping[str, Kind] = {"cpus": _count, "gpus": _count, "memory": _bytes}
OVERHEAD: Mapping[str, Kind] = {"start": _number, "worker": _number, "unit": _number, "tensor": _number}


def parse_amounts(option: str, text: str | None, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """`cpus=32,read=3GB` as values. Raises RecipeError naming what is wrong."""
    found: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in (text or "").split(","))):
        name, equals, amount = (one.strip() for one in part.partition("="))
        if not equals or name not in kinds:
            raise RecipeError(f"{option} {part!r}: expected NAME=AMOUNT with one of {', '.join(kinds)}")
        if name in found:
            raise RecipeError(f"{option}: {name} is given twice")
        found[name] = kinds[name](f"{option} {name}", amount)
    return found


def parse_nodes(text: str) -> list[int]:
    """`1-64` as 1, 2, 4 ... 64, and `1,3,8` as it stands. Raises RecipeError for anything else."""
    found: set[int] = set()
    for part in (one.strip() for one in text.split(",")):
        first, dash, last = part.partition("-")
        ends = [_count("--nodes", first), _count("--nodes", last if dash else first)]
        if not 1 <= ends[0] <= ends[1] <= MOST_NODES:
            raise RecipeError(f"--nodes {part!r}: expected numbers from 1 to {MOST_NODES}, as in 1-64 or 1,2,8")
        found |= {ends[0], ends[1]}
        while dash and 2 * ends[0] < ends[1]:
            ends[0] *= 2
            found.add(ends[0])
    return sorted(found)
