"""Nested frozen values to JSON types and back, by their annotations."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encoded(value: Any) -> Any:
    """A dataclass as an object, a tuple as a list, whatever else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [encoded(one) for one in value] if isinstance(value, tuple) else value


def decoded(kind: type[T], held: Mapping[str, Any]) -> T:
    """The dataclass `kind` from what `encoded` made of it. Raises TypeError for a missing or unknown field."""
    hints = get_type_hints(kind)
    unknown = held.keys() - hints.keys()
    if unknown:
        raise TypeError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _value(hints[name], one) for name, one in held.items()})


def _value(kind: Any, held: Any) -> Any:
    if get_origin(kind) is UnionType:
        kind = next(one for one in get_args(kind) if one is not type(None))
        return None if held is None else _value(kind, held)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            return tuple(_value(kinds[0], one) for one in held)
        return tuple(_value(one_kind, one) for one_kind, one in zip(kinds, held, strict=True))
    if is_dataclass(kind) and isinstance(held, Mapping):
        return decoded(kind, held)  # type: ignore[arg-type]
    return kind(held) if kind is float else held
