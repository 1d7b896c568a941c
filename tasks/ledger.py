"""The ledgers of the recipes that are followed: `.widen/follow/<recipe>.json`, one writer at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.updates import Ledger, Look, Outcome, Update
from tasks.upstream import Pin
from tasks.workspace import state_folder
from widen.errors import EnvironmentFault
from widen.staging import write_atomically

_FOLDER = "follow"


@contextmanager
def ledger_lock(workspace: Path) -> Iterator[None]:
    """Hold the ledgers of a workspace from reading to writing, among threads and processes; for moments only."""
    from filelock import FileLock

    folder = state_folder(workspace) / _FOLDER
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        yield


def read_ledger(workspace: Path, name: str) -> Ledger:
    """The ledger of the recipe `name`, a blank one where there is none. Raises EnvironmentFault for a damaged one."""
    file = _file(workspace, name)
    try:
        return _ledger(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return Ledger(name)
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            f"{file}: expected the ledger of a recipe, found something else ({error!r}); remove it, and the recipe is "
            "looked at afresh"
        ) from None


def read_ledgers(workspace: Path) -> tuple[Ledger, ...]:
    """All ledgers of a workspace, by name; reads only. Raises EnvironmentFault as `read_ledger` does."""
    files = sorted((workspace / ".widen" / _FOLDER).glob("*.json"))
    return tuple(read_ledger(workspace, file.stem) for file in files)


def write_ledger(workspace: Path, ledger: Ledger) -> None:
    """Keep a ledger; its lock must be held since it was read."""
    write_atomically(_file(workspace, ledger.name), (json.dumps(asdict(ledger), indent=1) + "\n").encode())


def _file(workspace: Path, name: str) -> Path:
    return workspace / ".widen" / _FOLDER / f"{name}.json"


def _ledger(held: Mapping[str, Any]) -> Ledger:
    looks = {name: Look(**one | {"pin": _pin(one["pin"])}) for name, one in held["looks"].items()}
    outcomes = {identity: Outcome(**one) for identity, one in held["outcomes"].items()}
    again = {"looks": looks, "outcomes": outcomes, "update": _update(held["update"]), "last": _update(held["last"])}
    return Ledger(**{**held, **again})


def _update(held: Mapping[str, Any] | None) -> Update | None:
    if held is None:
        return None
    pins = {name: Pin(**one) for name, one in held["pins"].items()}
    return Update(**{**held, "pins": pins, "moved": tuple(held["moved"])})


def _pin(held: Mapping[str, Any] | None) -> Pin | None:
    return None if held is None else Pin(**held)
