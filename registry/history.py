"""The history of a model's champion, kept in the registry itself: the log of a second registered model, NAME.history.

Its version numbers, which the registry assigns one after the other, order the log on any store. An entry is appended
without a lock by naming the entry before it: of two that name the same, the first in the log stands (compare and swap).
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from registry.chain import History, Model, Record, Void, check
from registry.entry import FIRST, Entry, short
from registry.errors import NotRegistered, RegistryError
from registry.store import Registry, asking
from registry.versions import CHAMPION, ENTRY, HISTORY, OVERRIDE, OVERRIDE_BY, Version, to_version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = [
    "FIRST",
    "Entry",
    "History",
    "Void",
    "all_versions",
    "append",
    "finish_history",
    "read_history",
    "settle",
    "short",
]

# Tags of an entry in the log, and of the model: the digest of the last entry that was carried out.
_TEXT, _DIGEST, HEAD = "entry", "digest", "history_head"

_PAGE = 1000
_ATTEMPTS = 12
_PAUSE = 0.05
_SETTLING = 0.5


def read_history(registry: Registry, name: str) -> History:
    """The history of `name`, checked; reads only. What was altered is told in its `faults`, not raised.

    Raises NotRegistered when no model has that name.
    """
    with asking(registry) as client:
        return _at_rest(client, registry, name)


def finish_history(registry: Registry, name: str) -> History:
    """As `read_history`, but carries out first what a killed promotion left undone."""
    history = read_history(registry, name)
    if not history.unfinished or history.faults:
        return history
    with registry.lock(), asking(registry) as client:
        return settle(client, registry, name)


def _at_rest(client: "MlflowClient", registry: Registry, name: str) -> History:
    history = _read(client, registry, name)
    if history.drift is not None and registry.database is None:
        time.sleep(_SETTLING)  # a slow writer on another machine may be about to set right what it set late
        history = _read(client, registry, name)
    return history


def _read(client: "MlflowClient", registry: Registry, name: str) -> History:
    # The log comes last: every entry that the model or a version speaks of is then in it.
    return check(_model(client, registry, name), _records(client, name))


def _model(client: "MlflowClient", registry: Registry, name: str) -> Model:
    from mlflow.exceptions import MlflowException

    try:
        held = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotRegistered(f"registry {registry.uri}: no model is registered as {name!r}") from error
        raise
    alias = held.aliases.get(CHAMPION)
    versions = {version.version: version for version in _versions(client, name)}
    return Model(name, None if alias is None else int(alias), held.tags.get(HEAD), versions)


def _versions(client: "MlflowClient", name: str) -> list[Version]:
    return [to_version(held) for held in all_versions(client, name)]


def _records(client: "MlflowClient", name: str) -> list[Record]:
    held = all_versions(client, name + HISTORY)
    return [Record(int(v.version), v.tags.get(_TEXT), v.tags.get(_DIGEST), v.description) for v in held]


def all_versions(client: "MlflowClient", name: str) -> list[Any]:
    """MLflow's versions of a model, page after page; a search does not tell their aliases."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def append(client: "MlflowClient", registry: Registry, entry: Entry) -> History:
    """Append `entry`, which names the head that its writer believes in, and carry it out if it stands.

    Returns the history afterwards: `entry` stands if its digest is among the history's. One that came second stays in
    the log as void, so that a missing number always means a deletion, and is marked so.
    """
    if entry.previous == FIRST:
        _require_log(client, entry.name)
    refused: Exception | None = None
    for attempt in range(_ATTEMPTS):
        refused = _write(client, entry)
        # Refused, and yet the head moved: another came first, or what was refused got through.
        if refused is None or _read(client, registry, entry.name).head != entry.previous:
            break
        time.sleep(_PAUSE * (attempt + 1) * (1 + os.getpid() % 7 / 7))
    else:
        raise RegistryError(
            f"registry {registry.uri}: the history of {entry.name} took no entry in {_ATTEMPTS} tries ({refused}); "
            "nothing was moved, try again"
        ) from refused
    return _outcome(client, registry, entry)


def _require_log(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name + HISTORY,
            description=f"Which version of `{name}` was the champion, when, by whom and why: one version an entry, "
            "each with the digest of the one before. Written by `widen promote` and `widen rollback`, read by "
            f"`widen history {name}`, which notices any change made here by hand.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _write(client: "MlflowClient", entry: Entry) -> Exception | None:
    """Write the entry in one call, or return why not, where another try may do: others took the number, say."""
    from mlflow.exceptions import MlflowException

    tags = {_TEXT: entry.to_json(), _DIGEST: entry.digest()}
    source = f"models:/{entry.name}/{entry.to_version}"
    try:
        client.create_model_version(entry.name + HISTORY, source, tags=tags, description=entry.line())
    except MlflowException as error:
        if error.error_code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
            raise
        return error
    return None


def _outcome(client: "MlflowClient", registry: Registry, entry: Entry) -> History:
    history = _read(client, registry, entry.name)
    if entry.digest() in history.digests():
        _apply(client, history)
        return settle(client, registry, entry.name, applied=history.head)
    for void in history.void:
        if void.entry.digest() == entry.digest():
            client.update_model_version(entry.name + HISTORY, str(void.entry.number), void.line())
    return history


def settle(client: "MlflowClient", registry: Registry, name: str, applied: str | None = None) -> History:
    """Carry out what stands in the history and was not carried out in full; returns the history as it then is.

    A writer that was killed after its entry is finished so by the next one: the history is the truth. `applied` is the
    head that the caller carried out just now; should another writer have gone on meanwhile, its alias is set again,
    since the caller's may have come after it. Without it nothing is done about a history with faults.
    """
    for _ in range(_ATTEMPTS):
        history = _read(client, registry, name) if applied else _at_rest(client, registry, name)
        if applied is None and (history.faults or not history.unfinished):
            return history
        if applied == history.head and not history.unfinished:
            return history
        _apply(client, history)
        applied = history.head
    raise RegistryError(
        f"registry {registry.uri}: the history of {name} did not come to rest; run widen history {name}"
    )


def _apply(client: "MlflowClient", history: History) -> None:
    """What the last entry means for the registry; doing it again changes nothing."""
    entry = history.entries[-1]
    version = str(entry.to_version)
    _insist(client.set_model_version_tag, entry.name, version, ENTRY, entry.digest())
    if entry.kind == "override":
        _insist(client.set_model_version_tag, entry.name, version, OVERRIDE, entry.reason)
        _insist(client.set_model_version_tag, entry.name, version, OVERRIDE_BY, entry.by)
        _describe_override(client, entry)
    _insist(client.set_registered_model_alias, entry.name, CHAMPION, version)
    # Last: as long as it is not there, the entry counts as not carried out.
    _insist(client.set_registered_model_tag, entry.name, HEAD, history.head)


def _describe_override(client: "MlflowClient", entry: Entry) -> None:
    held = client.get_model_version(entry.name, str(entry.to_version)).description or ""
    line = (
        f"**Override**: the champion although its gate said {entry.verdict}. "
        f"{entry.by}, {entry.at}: {entry.reason} (entry {short(entry.digest())})"
    )
    if line not in held:
        text = line if not held else f"{line}\n\n{held}"
        _insist(client.update_model_version, entry.name, str(entry.to_version), text)


def _insist(call: Callable[..., object], *arguments: str) -> None:
    """Write what two writers may be writing at once: the one that comes second fails once, then finds it there."""
    from mlflow.exceptions import MlflowException

    for attempt in range(3):
        try:
            call(*arguments)
        except MlflowException as error:
            if attempt == 2 or error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            time.sleep(_PAUSE)
        else:
            return
