"""What a model's history means for the pages of its versions: after a move, they say what became of them."""

from collections.abc import Iterable

from registry.entry import Entry
from registry.history import History
from registry.pages import REPORT, refresh
from registry.report import Event, Override
from registry.store import Registry


def events(history: History) -> tuple[Event, ...]:
    """The history's entries in words, oldest first."""
    return tuple(Event(entry.number, entry.kind, _moved(entry), entry.by, entry.at) for entry in history.entries)


def override_of(history: History, version: int) -> Override | None:
    """Who made `version` the champion against its gate's verdict, and why; None when nobody did."""
    for entry in reversed(history.entries):
        if entry.kind == "override" and entry.to_version == version:
            return Override(entry.by, entry.reason, entry.at)
    return None


def retell(registry: Registry, history: History, versions: Iterable[int | None]) -> None:
    """Draw and describe `versions` again by what the history says now; those without a report stay as they are.

    Raises RegistryError as every call to a registry.
    """
    for number in sorted({one for one in versions if one is not None and one in history.versions}):
        if history.versions[number].tag(REPORT) is not None:
            refresh(registry, history.name, number, override_of(history, number), events(history))


def _moved(entry: Entry) -> str:
    start = "no champion" if entry.from_version is None else f"version {entry.from_version}"
    return f"{start} to version {entry.to_version}: {entry.reason}"
