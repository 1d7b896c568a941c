"""An output in a storage: whose it is, how it becomes the one that counts, and what of earlier ones is removed.

OUT/widen-current.json          names the folder that counts
OUT/widen-merge-DIGEST/         a merge: weights, companions, index, widen-manifest.json
OUT/widen-merge-DIGEST/widen-finished/    a record for each weight file that is whole
OUT/widen-merge-DIGEST/widen-claim.json   somebody is at work there
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from widen.digests import FileDigest, canonical_json
from widen.errors import EnvironmentFault, InputsRefused, OutputExists
from widen.manifest import MANIFEST_FILE, Manifest, Recipe
from widen.progress import Progress
from widen.remote.claim import is_claimed, release
from widen.remote.current import CURRENT_FILE, PREFIX, Current, read_current, write_current
from widen.remote.outbox import Sent, read_records
from widen.remote.store import Identity, Store


@dataclass(frozen=True)
class Published:
    """The merge that counts in an output, and its manifest."""

    current: Current
    manifest: Manifest


def own_output(store: Store, recipe: Recipe, any_settings: bool = False) -> Published | None:
    """What this recipe published at `store` before; None where nothing is.

    Raises OutputExists for anything else that is there, and leaves it untouched.
    """
    listing = store.listing()
    current = read_current(store, listing)
    if current is None:
        if foreign := [name for name in listing if not name.startswith(PREFIX)]:
            raise OutputExists(
                f"{store} holds {foreign[0]} and was not made by this recipe ({recipe.name}); choose another place"
            )
        return None
    manifest = _manifest(store, current)
    same_name = any_settings and manifest.recipe.name == recipe.name
    if manifest.recipe.digest != recipe.digest and not same_name:
        raise OutputExists(
            f"{store} was made by another recipe: {manifest.recipe.name} {manifest.recipe.digest[:12]}, not "
            f"{recipe.name} {recipe.digest[:12]}; choose another place, or remove it first"
        )
    return Published(current, manifest)


def is_intact(store: Store, published: Published) -> bool:
    """Whether every file of the merge is the one that was sent: weights by the storage's tag, the rest by digest."""
    folder = store.within(published.current.folder)
    records = read_records(folder)
    for name, expected in published.manifest.files.items():
        if name in records:
            if records[name].digest != expected:
                return False
        elif name.endswith(".safetensors"):
            return False
        else:
            data = folder.read_all(name)
            if data is None or hashlib.sha256(data).hexdigest() != expected.sha256:
                return False
    return True


def publish(store: Store, folder: str, manifest: Manifest, seen: Current | None, progress: Progress) -> None:
    """Let the merge in `folder` count, once all its files are there; then remove what nobody is to read any more.

    seen: what counted when this merge began. Raises EnvironmentFault when a file is missing, OutputExists when another
    recipe has published there meanwhile; what counted before counts then.
    """
    inside = store.within(folder)
    _require_whole(inside, manifest)
    data = manifest_bytes(manifest)
    inside.write(MANIFEST_FILE, data)
    before = own_output(store, manifest.recipe, any_settings=True)
    found = before.current if before else None
    if found != seen:
        progress.note(f"{store}: another merge was published meanwhile; this one takes its place")
    last = found.before if found is not None and found.folder == folder else found.folder if found else None
    write_current(store, Current(folder, hashlib.sha256(data).hexdigest(), last))
    release(inside)
    inside.give_up_uploads()
    _remove_others(store, {folder, last})


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of widen-manifest.json, as a local merge writes it."""
    return (canonical_json(manifest.to_json()) + "\n").encode()


def _require_whole(inside: Store, manifest: Manifest) -> None:
    listing, records = inside.listing(), read_records(inside)
    for name, expected in manifest.files.items():
        told = _wrong(name, expected, listing.get(name), records.get(name))
        if told is not None:
            raise EnvironmentFault(
                f"{inside}/{name}: expected {expected.size} bytes, found {told}: somebody removed or replaced it "
                "meanwhile; nothing was published. Run again"
            )


def _wrong(name: str, expected: FileDigest, found: Identity | None, record: Sent | None) -> str | None:
    """What is there instead of a file; None where it is the one. What weights are is told by their record."""
    if found is None:
        return "nothing"
    if found.size != expected.size:
        return f"{found.size} bytes"
    if name.endswith(".safetensors") and (record is None or record.digest != expected):
        return "as many, and no record that they are these"
    return None


def _manifest(store: Store, current: Current) -> Manifest:
    data = store.read_all(f"{current.folder}/{MANIFEST_FILE}")
    if data is None or hashlib.sha256(data).hexdigest() != current.manifest:
        raise InputsRefused(
            f"{store}/{current.folder}/{MANIFEST_FILE} is not the one that {CURRENT_FILE} names; remove {store}, or "
            "merge to another place"
        )
    with TemporaryDirectory(prefix="widen-manifest-") as folder:
        (Path(folder) / MANIFEST_FILE).write_bytes(data)
        try:
            return Manifest.load(Path(folder))
        except ValueError as error:
            raise InputsRefused(f"{store}/{current.folder}: {MANIFEST_FILE} cannot be read; remove {store}") from error


def _remove_others(store: Store, kept: set[str | None]) -> None:
    """The folders of merges that count no longer, but for those that somebody is at work in."""
    for name, one in store.listing().items():
        inside = store.within(name)
        if one is None and name.startswith(PREFIX) and name not in kept and not is_claimed(inside):
            inside.give_up_uploads()
            store.remove(name)
