"""What a registry holds weights of, with all that the rules of retention ask; reads only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from registry.decision import NO_CHAMPION
from registry.errors import NotRegistered, PromotionRefused, RegistryError
from registry.history import History, all_versions, read_history
from registry.lineage import MANIFEST, Lineage, ancestors
from registry.promotion import former_champion
from registry.retention import Holding, Keep, Key, Track, reasons
from registry.store import Registry
from registry.versions import (
    FREED,
    HISTORY,
    MERGED,
    RESTORED,
    Version,
    lineage_of,
    read_artifact,
    read_decision,
    to_version,
)
from registry.weights import StoredFile, freed_by, stored, weights

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_PAGE = 100


@dataclass(frozen=True)
class Held:
    """A version that has weights: where, how many bytes, why it keeps them (empty: nothing keeps it).

    `files` are those that freeing it removes. `gained` is what the disk gains when this version alone is freed. `begun`
    is the mark of a collection that was killed or is at it, and `missing` what that removed. `note` says what making it
    again would need that the record cannot give.
    """

    name: str
    version: int
    place: str
    files: tuple[StoredFile, ...]
    size: int
    reasons: tuple[str, ...]
    begun: str | None = None
    missing: tuple[str, ...] = ()
    note: str | None = None

    @property
    def key(self) -> Key:
        """Its name and number."""
        return self.name, self.version

    @property
    def gained(self) -> int:
        """Bytes that the disk gains when this version alone is freed."""
        return freed_by(self.files)


@dataclass(frozen=True)
class Survey:
    """The versions of the models asked for that have weights, and those that were freed before."""

    kept: tuple[Held, ...]
    going: tuple[Held, ...]
    freed: tuple[Version, ...]

    @property
    def gained(self) -> int:
        """Bytes that the disk gains when everything that goes is gone."""
        return freed_by(file for one in self.going for file in one.files)


@dataclass(frozen=True)
class _Read:
    holding: Holding
    version: Version
    note: str | None


def survey(client: "MlflowClient", registry: Registry, names: Sequence[str], keep: Keep, now: datetime) -> Survey:
    """What of the models `names`, all if none are named, has weights, and what of it nothing keeps.

    What keeps a version is looked for in all models. Raises NotRegistered for a name that the registry does not have.
    """
    models = _models(client)
    unknown = sorted(set(names) - set(models))
    if unknown:
        raise NotRegistered(f"registry {registry.uri}: no model is registered as {unknown[0]!r}")
    histories = {name: read_history(registry, name) for name in models}
    read, freed = [], []
    for name in models:
        for held in all_versions(client, name):
            version = to_version(held)
            if version.freed is not None and not _is_begun(version):
                freed.append(version)
            else:
                read.append(_read(client, registry, version, int(held.creation_timestamp), models[name]))
    why = reasons([one.holding for one in read], {name: _track(one) for name, one in histories.items()}, keep, now)
    asked = set(names or models)
    found = [_held(registry, one, why.get(one.holding.key, ())) for one in read if one.version.name in asked]
    found.sort(key=lambda one: one.key)
    kept, going = [one for one in found if one.reasons], [one for one in found if not one.reasons]
    before = sorted((one for one in freed if one.name in asked), key=lambda one: (one.name, one.version))
    return Survey(tuple(kept), tuple(going), tuple(before))


def _models(client: "MlflowClient") -> dict[str, dict[int, list[str]]]:
    """The registered models but for histories, each with its aliases by version."""
    found: dict[str, dict[int, list[str]]] = {}
    token = None
    while True:
        page = client.search_registered_models(max_results=_PAGE, page_token=token, order_by=["name ASC"])
        for model in page:
            if not model.name.endswith(HISTORY):
                aliases = found.setdefault(model.name, {})
                for alias, number in _aliases(client, model.name).items():
                    aliases.setdefault(int(number), []).append(alias)
        token = page.token
        if not token:
            return found


def _aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    return dict(sorted(client.get_registered_model(name).aliases.items()))


def _is_begun(version: Version) -> bool:
    """Whether a version is marked and was not freed yet; one that is being restored has no weights yet."""
    return (version.tag(FREED) or "").startswith("being freed")


def _track(history: History) -> Track:
    told = f"the history of {history.name} has faults: see widen history {history.name}"
    last_first = [entry.to_version for entry in reversed(history.entries)]
    try:
        target = former_champion(history)
    except PromotionRefused:
        target = None
    return Track(tuple(dict.fromkeys(last_first)), target, told if history.faults else None)


def _read(
    client: "MlflowClient", registry: Registry, version: Version, made_ms: int, aliases: Mapping[int, Sequence[str]]
) -> _Read:
    since = datetime.fromtimestamp(made_ms / 1000, UTC)
    restored = version.tag(RESTORED)
    if restored is not None:
        since = max(since, datetime.fromisoformat(restored))
    place = str(client.get_model_version_download_uri(version.name, str(version.version)))
    known: dict[str, Any] = {"digest": version.tag(MERGED)}
    note = None
    try:
        against, lineage = read_decision(registry, version).against, lineage_of(registry, version)
        known |= {"against": None if against == NO_CHAMPION else against, "inputs": tuple(ancestors(lineage))}
        note = _note(lineage)
    except RegistryError as error:
        told = f"its record cannot be read: {error}" if known["digest"] else "it was not registered by widen"
        known["unsure"] = " ".join(told.split())
    mine = tuple(aliases.get(version.version, ()))
    return _Read(Holding(version.name, version.version, since, mine, place, **known), version, note)


def _note(lineage: Lineage) -> str | None:
    local = [entry.name for entry in lineage.inputs if entry.source.repo is None]
    return f"made again only from local folders: {', '.join(local)}" if local else None


def _held(registry: Registry, read: _Read, why: tuple[str, ...]) -> Held:
    version, place = read.version, read.holding.place
    files = weights(stored(registry, place))
    size, missing = sum(file.size for file in files), tuple[str, ...]()
    if _is_begun(version):
        listed = json.loads(read_artifact(registry, version, MANIFEST))["files"]
        recorded = weights(StoredFile(name, int(entry["size"])) for name, entry in sorted(listed.items()))
        there = {file.name for file in files}
        size = sum(file.size for file in recorded)
        missing = tuple(file.name for file in recorded if file.name not in there)
    begun = version.tag(FREED)
    return Held(version.name, version.version, place, files, size, why, begun, missing, read.note)
