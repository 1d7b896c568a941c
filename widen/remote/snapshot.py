"""A checkpoint's folder in a storage, on this machine: what is small whole, and of each weight file the header alone.

A header lies in a file of the weight file's size that holds nothing else, so that the proof of a checkpoint's structure
works on it. These stand in a folder of their own: whoever looks for weights beside the configuration finds none, not
zeros.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from widen.checkpoint import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PICKLE_SUFFIXES,
    SINGLE_FILE,
    leaves_folder,
)
from widen.digests import digest_of
from widen.errors import EnvironmentFault, InputsRefused
from widen.manifest import MANIFEST_FILE
from widen.remote.address import last_part, require_address
from widen.remote.cache import RemoteCache, remote_cache
from widen.remote.current import read_current
from widen.remote.file import RemoteFile
from widen.remote.store import Identity, Store
from widen.staging import disk_faults, scratch_folder, write_synced

HEADERS = "headers"
SMALL_SUFFIXES = (".json", ".jinja", ".txt", ".model")
SMALL_BYTES = 200_000_000
ASKERS = 8
ATTEMPTS = 3
KEPT_S = 30 * 86_400
"""A snapshot that nobody opened for so long is removed when another one is made."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in a storage as it was when it was opened.

    url: the folder that holds the files. name: what it is called. folder, headers: on this machine. files: its weight
    files, by name.
    """

    url: str
    name: str
    folder: Path
    files: Mapping[str, RemoteFile]

    @property
    def headers(self) -> Path:
        """Where the weight files' headers lie."""
        return self.folder / HEADERS

    def told(self, text: str) -> str:
        """A message about files of this machine as one about what they stand for."""
        return text.replace(str(self.headers), self.url).replace(str(self.folder), self.url)


def open_folder(url: str, cache: RemoteCache | None = None) -> RemoteFolder:
    """The checkpoint folder at `url`, or the one that was published there last. Without a cache, in a temporary one.

    Raises RecipeError for an address that is none, EnvironmentFault for a storage that does not answer or has nothing
    there, InputsRefused for a folder that changes meanwhile, or a publication whose files are not those it names.
    """
    store, cache = Store(require_address(url)), cache or remote_cache(None, None)
    for _ in range(ATTEMPTS):
        listing = store.listing()
        current = read_current(store, listing)
        if current is None:
            if not any(listing.values()):
                raise EnvironmentFault(f"{store}: there are no files; check the address")
            return _snapshot(store, listing, url, cache)
        inside = store.within(current.folder)
        found = _snapshot(inside, inside.listing(), url, cache)
        if _sha256(found.folder / MANIFEST_FILE) == current.manifest:
            return found
    raise InputsRefused(f"{store}: the manifest is not the one that was published; have it merged again")


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _snapshot(store: Store, listing: Mapping[str, Identity | None], url: str, cache: RemoteCache) -> RemoteFolder:
    objects = {name: one for name, one in listing.items() if one is not None}
    small = {name: one for name, one in objects.items() if name.endswith(SMALL_SUFFIXES) and one.size <= SMALL_BYTES}
    pickles = [name for name in objects if name.endswith(PICKLE_SUFFIXES)]
    # Named by all that it is made of: a name says what is in it, and nothing in it changes.
    place = cache.snapshots / digest_of([store.url, _content(small), _content(_weights_of(objects)), pickles])
    with disk_faults(cache.snapshots):
        if not place.is_dir():
            _make(place, store, small, pickles, objects, cache)
        os.utime(place)
    weights = json.loads((place / HEADERS / ".files").read_bytes())
    files = {name: RemoteFile(store, name, Identity(**one), cache.blobs) for name, one in weights.items()}
    return RemoteFolder(store.url, last_part(url), place, files)


def _content(objects: Mapping[str, Identity]) -> dict[str, list[object]]:
    return {name: [one.size, one.tag] for name, one in objects.items()}


def _weights_of(objects: Mapping[str, Identity]) -> dict[str, Identity]:
    return {name: one for name, one in objects.items() if name.endswith(".safetensors")}


def _make(
    place: Path,
    store: Store,
    small: Mapping[str, Identity],
    pickles: Iterable[str],
    objects: Mapping[str, Identity],
    cache: RemoteCache,
) -> None:
    _remove_old(cache.snapshots)
    with scratch_folder(cache.snapshots, ".making-") as scratch, ThreadPoolExecutor(ASKERS) as pool:
        made = scratch / "made"
        (made / HEADERS).mkdir(parents=True)
        _each(pool, lambda name: write_synced(made / name, _whole(store, name, small[name])), small)
        for name in pickles:
            (made / HEADERS / name).touch()
        files = {
            name: RemoteFile(store, name, one, cache.blobs) for name, one in _weights(made, store, objects).items()
        }
        for name in files:
            (made / HEADERS / name).parent.mkdir(parents=True, exist_ok=True)
        _each(pool, lambda name: files[name].header(made / HEADERS / name), files)
        told = {name: vars(one.identity) for name, one in files.items()}
        write_synced(made / HEADERS / ".files", json.dumps(told).encode())
        with suppress(OSError):  # another process made the same
            made.rename(place)
    if not place.is_dir():
        raise EnvironmentFault(f"cache {cache.folder}: {place} cannot be made; choose another cache")


def _each(pool: ThreadPoolExecutor, work: Callable[[str], object], names: Iterable[str]) -> None:
    for _ in pool.map(work, names):
        pass


def _whole(store: Store, name: str, identity: Identity) -> bytes:
    pieces: list[bytes] = []
    store.read(name, 0, identity.size, identity, lambda _, piece: pieces.append(piece))
    return b"".join(pieces)


def _weights(folder: Path, store: Store, objects: Mapping[str, Identity]) -> dict[str, Identity]:
    """The weight files that the folder's own files name, as far as they are there; opening tells what is wrong."""
    if ADAPTER_CONFIG_FILE in objects and CONFIG_FILE not in objects:
        names: Iterable[str] = (ADAPTER_FILE,)
    elif SINGLE_FILE in objects:
        names = (SINGLE_FILE,)
    else:
        names = _indexed(folder / INDEX_FILE)
    found = {name: objects.get(name) or store.look(name) for name in names}
    return {name: one for name, one in found.items() if one is not None}


def _indexed(index: Path) -> list[str]:
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        named = json.loads(index.read_bytes()).get("weight_map").values()
        return sorted({name for name in named if isinstance(name, str) and not leaves_folder(name)})
    return []


def _remove_old(snapshots: Path) -> None:
    snapshots.mkdir(parents=True, exist_ok=True)
    for path in snapshots.iterdir():
        with suppress(FileNotFoundError):
            if path.is_dir() and time.time() - path.stat().st_mtime > KEPT_S:
                shutil.rmtree(path, ignore_errors=True)
