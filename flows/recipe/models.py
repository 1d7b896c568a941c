"""How a merge section writes a model: a source's name, a folder, or MODEL+ADAPTER, each side one of those."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from widen.adapter import JOIN


def sides(reference: str) -> tuple[str, ...]:
    """The model and the adapter on it as they are written, or the model alone."""
    return tuple(reference.split(JOIN))


def name_of(reference: str) -> str:
    """What the participant is called: each side a source's name, or the last part of a folder's path."""
    return JOIN.join(PurePosixPath(side).name for side in sides(reference))


def composition(references: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Every participant, the base first, as the names of its sides; empty where none has an adapter.

    It is `widen.Settings.composed`.
    """
    names = [tuple(name_of(side) for side in sides(reference)) for reference in references]
    return tuple(names) if any(len(one) > 1 for one in names) else ()
