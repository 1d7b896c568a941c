"""An output in a storage: whose it is, how it becomes the one that counts, and what of earlier ones is removed.

OUT/widen-current.json          names the folder that counts
OUT/widen-merge-DIGEST/         a merge: weights, companions, index, widen-manifest.json
OUT/widen-merge-DIGEST/widen-finished/    a record for each weight file that is whole
OUT/widen-merge-DIGEST/widen-claim.json   somebody is at work there
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from widen.digests import canonical_json
from widen.errors import EnvironmentFault, InputsRefused, OutputExists
from widen.manifest import MANIFEST_FILE, Manifest, Recipe
from widen.progress import Progress
from widen.remote.current import CURRENT_FILE, PREFIX, Current, read_current, write_current
from widen.remote.outbox import read_records
from widen.remote.store import Store

CLAIM_FILE = "widen-claim.json"
CLAIMED_S = 86_400
"""A claim that is older is of a run that was killed."""


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


@contextmanager
def claimed(folder: Store) -> Iterator[None]:
    """Say, for the length of the block, that a folder of an output is worked in, so that nobody removes it.

    The claim stays when the block ends well, until the folder is published, and after a kill or a fault of the
    storage, for another run to go on; not after inputs that are refused.
    """
    ended = Event()
    _claim(folder)
    keeper = Thread(target=_keep, args=(folder, ended), name="widen-claim", daemon=True)
    keeper.start()
    try:
        yield
    except InputsRefused:
        folder.remove(CLAIM_FILE)
        raise
    finally:
        ended.set()
        keeper.join()


def _keep(folder: Store, ended: Event) -> None:
    while not ended.wait(CLAIMED_S / 24):
        with suppress(EnvironmentFault):  # whoever works there will meet it as well
            _claim(folder)


def _claim(folder: Store) -> None:
    folder.write(CLAIM_FILE, canonical_json({"at": int(time.time())}).encode())


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
    inside.remove(CLAIM_FILE)
    inside.give_up_uploads()
    _remove_others(store, {folder, last})


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of widen-manifest.json, as a local merge writes it."""
    return (canonical_json(manifest.to_json()) + "\n").encode()


def _require_whole(inside: Store, manifest: Manifest) -> None:
    listing = inside.listing()
    for name, expected in manifest.files.items():
        found = listing.get(name)
        if found is None or found.size != expected.size:
            told = "nothing" if found is None else f"{found.size} bytes"
            raise EnvironmentFault(
                f"{inside}/{name}: expected {expected.size} bytes, found {told}: somebody removed or replaced it "
                "meanwhile; nothing was published. Run again"
            )


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
        if one is None and name.startswith(PREFIX) and name not in kept and not _is_claimed(store, name):
            inside = store.within(name)
            inside.give_up_uploads()
            store.remove(name)


def _is_claimed(store: Store, name: str) -> bool:
    data = store.read_all(f"{name}/{CLAIM_FILE}")
    with suppress(ValueError, KeyError, TypeError):
        return data is not None and time.time() - float(json.loads(data)["at"]) < CLAIMED_S
    return False
