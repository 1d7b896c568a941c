"""A merge's files on their way to a storage: few on this machine at once, each sent as soon as it is whole, then
removed.

Beside each sent file a small record says that it is whole and what of: another run of the same merge goes on from
there.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Condition

from widen.digests import FileDigest, canonical_json
from widen.engine import Engine
from widen.errors import EnvironmentFault
from widen.output import Files, Written, write_files
from widen.plan import MergePlan
from widen.remote.address import join
from widen.remote.cache import FILES, RemoteCache
from widen.remote.claim import require_claimed
from widen.remote.room import room
from widen.remote.store import Identity, Store
from widen.reuse import Finished, Reuse
from widen.staging import HEADROOM_BYTES

RECORDS = "widen-finished"
"""The folder of records, beside the files."""
ASKERS = 8


@dataclass(frozen=True)
class Sent:
    """A whole output file in a storage, as the storage tells it from others. tensors: name, what it is a function of,
    and SHA-256 of each, in the file's order.
    """

    identity: Identity
    digest: FileDigest
    tensors: tuple[tuple[str, str, str], ...]

    @property
    def keys(self) -> dict[str, str]:
        """What each tensor is a function of, by name, in the file's order."""
        return {name: key for name, key, _ in self.tensors}

    @property
    def sha256(self) -> dict[str, str]:
        """Of each tensor, by name."""
        return {name: digest for name, _, digest in self.tensors}


def send_files(
    plan: MergePlan, engine: Engine, reuse: Reuse, files: Files, store: Store, cache: RemoteCache
) -> Written:
    """Make some of the plan's weight files in the cache's scratch, and send each to `store` as it is whole.

    `store` is the folder of a merge that somebody has claimed. Raises InputsRefused for inputs that are not finite, and
    EnvironmentFault as `send_file` and `room` do.
    """
    require_claimed(store)
    largest = sorted(sum(one.slot.size for one in part) for part in files.values())[-FILES:]
    with room(cache.scratch, sum(largest) + HEADROOM_BYTES, engine.progress) as scratch:
        return write_files(plan, engine, reuse, scratch, files, Outbox(store))


def send_file(store: Store, path: Path, name: str, finished: Finished) -> Sent:
    """Put the file at `path` into `store` as `name`, then the record that it is whole. Done twice it is done once: who
    finds it there already leaves it as it is.

    Raises EnvironmentFault when the storage fails, when nobody is at work in that folder any more, and when another
    process made other bytes of the same inputs.
    """
    there = _same(store, name, finished)
    if there is not None:
        return there
    require_claimed(store)
    try:
        identity = store.upload(path, name)
    except EnvironmentFault:
        there = _same(store, name, finished)  # somebody else has sent it meanwhile
        if there is None:
            raise
        return there
    return _recorded(store, name, identity, finished.digest, finished.keys, finished.sha256)


def copy_file(store: Store, source: Store, name: str, sent: Sent) -> Sent | None:
    """The same file of another folder, copied within the storage; None where it is no longer that one."""
    if source.look(name) != sent.identity:
        return None
    identity = store.copy(source, name, name, sent.identity.size)
    if source.look(name) != sent.identity:
        return None
    return _recorded(store, name, identity, sent.digest, sent.keys, sent.sha256)


def read_record(store: Store, name: str) -> Sent | None:
    """What is recorded of the file `name`, if it still is the one that was sent; None where it is not, or not whole."""
    record = _read(store, name)
    return record if record is not None and store.look(name) == record.identity else None


def read_records(store: Store) -> dict[str, Sent]:
    """`read_record` of every file in the folder, by name."""
    listing, recorded = store.listing(), store.within(RECORDS).listing()
    names = [name for name in sorted(one.removesuffix(".json") for one in recorded) if listing.get(name) is not None]
    with ThreadPoolExecutor(ASKERS, thread_name_prefix="widen-ask") as pool:
        found = dict(zip(names, pool.map(lambda name: _read(store, name), names), strict=True))
    return {name: one for name, one in found.items() if one is not None and one.identity == listing[name]}


def _same(store: Store, name: str, finished: Finished) -> Sent | None:
    """What is recorded of the file there if it is a function of the same things."""
    there = read_record(store, name)
    if there is None or there.keys != finished.keys:
        return None
    if there.digest != finished.digest:
        raise EnvironmentFault(
            f"{store}/{name}: expected SHA-256 {there.digest.sha256[:12]}, as another process made of the same inputs, "
            f"found {finished.digest.sha256[:12]}; nothing was sent. Memory, processor or GPU of one of the two "
            f"machines fails: test them, remove {store}, then run again"
        )
    return there


def _recorded(
    store: Store,
    name: str,
    identity: Identity,
    digest: FileDigest,
    keys: Mapping[str, str],
    sha256: Mapping[str, str],
) -> Sent:
    sent = Sent(identity, digest, tuple((tensor, key, sha256[tensor]) for tensor, key in keys.items()))
    store.write(join(RECORDS, f"{name}.json"), canonical_json(asdict(sent)).encode())
    return sent


def _read(store: Store, name: str) -> Sent | None:
    data = store.read_all(join(RECORDS, f"{name}.json"))
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        if data is not None:
            content = json.loads(data)
            tensors = tuple((str(tensor), str(key), str(digest)) for tensor, key, digest in content["tensors"])
            return Sent(Identity(**content["identity"]), FileDigest(**content["digest"]), tensors)
    return None


class Outbox:
    """Where `widen.output` puts its files. `sent` are those that arrived, by name."""

    def __init__(self, store: Store, most: int = FILES) -> None:
        self.sent: dict[str, Sent] = {}
        self._store, self._room = store, most
        self._abandoned = False
        self._failure: Exception | None = None
        self._changed = Condition()

    def begin(self, name: str) -> None:
        """Wait until there is room for the file. Raises what sending an earlier one raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._room > 0 or self._abandoned or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            self._room -= 1

    def done(self, name: str, path: Path, finished: Finished) -> None:
        """Send it, and remove it here."""
        try:
            self.sent[name] = send_file(self._store, path, name, finished)
        except Exception as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise
        path.unlink()
        with self._changed:
            self._room += 1
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
