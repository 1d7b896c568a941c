"""The one small object that says which folder of an output counts: readers see the merge before or the one after."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from widen.digests import canonical_json
from widen.errors import InputsRefused
from widen.remote.store import Store

CURRENT_FILE = "widen-current.json"
SCHEMA = "widen-current/1"
PREFIX = "widen-merge-"
"""How the folders of merges in an output begin."""


@dataclass(frozen=True)
class Current:
    """folder: of the merge that counts, inside the output. manifest: SHA-256 of its manifest. before: the folder that
    counted before, which readers may still be at.
    """

    folder: str
    manifest: str
    before: str | None = None


def read_current(store: Store, listing: Mapping[str, Any]) -> Current | None:
    """What was published in the folder; None where nothing was. Raises InputsRefused for what is none of ours."""
    data = store.read_all(CURRENT_FILE) if CURRENT_FILE in listing else None
    if data is None:
        return None
    try:
        content = json.loads(data)
        found = Current(content["folder"], content["manifest"], content["before"])
        names = [found.folder, *([found.before] if found.before is not None else [])]
        if content["schema"] != SCHEMA or not all(_is_ours(name) for name in names):
            raise ValueError(content["schema"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputsRefused(
            f"{store}/{CURRENT_FILE} is not what a merge publishes ({SCHEMA}); remove it, or merge to another place"
        ) from error
    return found


def write_current(store: Store, current: Current) -> None:
    """From now on readers of the folder see this merge."""
    store.write(CURRENT_FILE, (canonical_json({"schema": SCHEMA, **asdict(current)}) + "\n").encode())


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name.startswith(PREFIX) and name.removeprefix(PREFIX).isalnum()
