"""Freeing the weights of versions that nothing keeps: surveyed, marked, asked for again, removed; the record stays.

A version is marked by its tag `freed` before anything of it is removed, and the mark is what a promotion, a rollback
and a restore look at. A collection that was killed leaves its mark, by which the next one goes on.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from registry.holdings import Held, Survey, survey
from registry.retention import Keep
from registry.store import Registry, asking
from registry.versions import FREED, Version, to_version
from registry.weights import StoredFile, freed_by, remove, stored, weights

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SETTLING = 5.0
"""Seconds between mark and removal on a server, which has no lock: a promotion that did not see the mark is through."""


@dataclass(frozen=True)
class Collected:
    """What came of one version: the bytes of the files removed, those that the disk gained, and why it was left."""

    name: str
    version: int
    removed: int = 0
    gained: int = 0
    left: str | None = None


def look(registry: Registry, names: Sequence[str], keep: Keep, now: datetime) -> Survey:
    """What `collect` would do with the models `names`, all if none are named; reads only.

    Raises NotRegistered for a name that the registry does not have.
    """
    with asking(registry) as client:
        return survey(client, registry, names, keep, now)


def collect(registry: Registry, names: Sequence[str], keep: Keep, now: datetime) -> tuple[Collected, ...]:
    """Free what nothing keeps when asked under the registry's lock, and finish what a killed collection began.

    Raises NotRegistered for a name that the registry does not have, RegistryError when its storage fails.
    """
    with registry.lock(), asking(registry) as client:
        found = survey(client, registry, names, keep, now)
        back = [_step_back(client, one) for one in found.kept if one.begun is not None]
        mark = f"being freed since {now:%Y-%m-%dT%H:%M:%SZ}"
        for one in found.going:
            client.set_model_version_tag(one.name, str(one.version), FREED, mark)
        done = [_free(client, registry, one, mark) for one in _asked_again(client, registry, found, keep, now, back)]
    return tuple(sorted([*back, *done], key=lambda one: (one.name, one.version)))


def _asked_again(
    client: "MlflowClient", registry: Registry, found: Survey, keep: Keep, now: datetime, back: list[Collected]
) -> Sequence[Held]:
    """What still goes once the marks have settled; on a local registry nobody came in between."""
    if not found.going or registry.database is not None:
        return found.going
    time.sleep(SETTLING)
    again = survey(client, registry, [], keep, now)
    kept = {one.key: one for one in again.kept}
    back += [_step_back(client, kept[one.key]) for one in found.going if one.key in kept]
    going = {one.key for one in again.going}
    return [one for one in found.going if one.key in going]


def _step_back(client: "MlflowClient", held: Held) -> Collected:
    """Take the mark from a version that is kept after all, if nothing of it is gone."""
    why = ", ".join(held.reasons)
    if held.missing:
        gone = f"{held.missing[0]} and {len(held.missing) - 1} more" if len(held.missing) > 1 else held.missing[0]
        return Collected(held.name, held.version, left=f"{why}; {gone} went before: {_RESTORE.format(held)}")
    client.delete_model_version_tag(held.name, str(held.version), FREED)
    return Collected(held.name, held.version, left=why)


_RESTORE = "widen restore {0.name}/{0.version} puts it back"


def _free(client: "MlflowClient", registry: Registry, held: Held, mark: str) -> Collected:
    """Remove the files of a marked version, asking before each whether it still goes."""
    gone: list[StoredFile] = []
    for file in weights(stored(registry, held.place)):
        why = _claimed(client, held, mark)
        if why is not None:
            return _left(client, held, mark, why, gone)
        remove(registry, held.place, file.name)
        gone.append(file)
    why = _claimed(client, held, mark)
    if why is not None:
        return _left(client, held, mark, why, gone)
    # Earlier attempts may have removed some: what the tag says is the whole.
    size, gained = max(held.size, sum(file.size for file in gone)), freed_by(_last_names(gone))
    text = f"{mark.rpartition(' ')[2]}, {size} bytes"
    client.set_model_version_tag(held.name, str(held.version), FREED, text)
    late = _now(client, held).aliases
    left = f"alias {', '.join(late)} was set meanwhile: {_RESTORE.format(held)}" if late else None
    return Collected(held.name, held.version, sum(file.size for file in gone), gained, left)


def _last_names(gone: Sequence[StoredFile]) -> list[StoredFile]:
    """Each file as it was when its turn came: bytes with one name left went with it."""
    return [file for file in gone if file.inode is None or file.inode[2] == 1]


def _now(client: "MlflowClient", held: Held) -> Version:
    return to_version(client.get_model_version(held.name, str(held.version)))


def _claimed(client: "MlflowClient", held: Held, mark: str) -> str | None:
    """Why a version that was to go must not: asked right before each removal."""
    version = _now(client, held)
    if version.aliases:
        return f"alias {', '.join(version.aliases)} was set meanwhile"
    found = version.tag(FREED)
    return None if found == mark else f"its mark is now {found or 'gone'}: somebody else is at it"


def _left(client: "MlflowClient", held: Held, mark: str, why: str, gone: Sequence[StoredFile]) -> Collected:
    removed = sum(file.size for file in gone)
    if gone:
        return Collected(
            held.name, held.version, removed, freed_by(_last_names(gone)), f"{why}: {_RESTORE.format(held)}"
        )
    if _now(client, held).tag(FREED) == mark and not held.missing:
        client.delete_model_version_tag(held.name, str(held.version), FREED)
    return Collected(held.name, held.version, left=why)


def now() -> datetime:
    """The time that ages are counted to."""
    return datetime.now(UTC)
