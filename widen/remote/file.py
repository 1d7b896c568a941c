"""One weight file in a storage, as it was when its folder was opened."""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from widen.digests import FileDigest, Fingerprint, digest_of
from widen.headers import LONGEST_HEADER
from widen.remote.address import join
from widen.remote.blobs import Blobs, Bytes
from widen.remote.ranges import fetch_parts, parts_of
from widen.remote.store import Identity, Store

STRETCH = 256 << 20
FIRST_BYTES = 256 << 10
"""Read at once of a file: most headers are shorter."""


@dataclass(frozen=True)
class RemoteFile:
    """The object `name` of `store`; all that is read of it is of the content `identity`, or refused."""

    store: Store = field(repr=False, compare=False)
    name: str
    identity: Identity
    blobs: Blobs = field(repr=False, compare=False)

    @cached_property
    def url(self) -> str:
        """Its address."""
        return join(self.store.url, self.name)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.identity.size

    @property
    def fingerprint(self) -> Fingerprint:
        """The identity, as what is remembered of files is kept by."""
        tag = int.from_bytes(hashlib.sha256(self.identity.tag.encode()).digest()[:7], "big")
        return Fingerprint(self.identity.size, self.identity.modified_ns, tag)

    def span(self, start: int, stop: int) -> Bytes:
        """Bytes `start` to `stop`, mapped; fetched where they are not on this machine. They stay while the array lives.

        Raises InputsRefused when the object has changed, EnvironmentFault when the storage or the disk fails.
        """
        key = digest_of([self.url, self.identity.size, self.identity.tag, start, stop])

        def fill(descriptor: int) -> None:
            def fetch(first: int, last: int) -> None:
                def put(done: int, piece: bytes) -> None:
                    _write(descriptor, piece, first - start + done)

                self.store.read(self.name, first, last, self.identity, put)

            fetch_parts(start, stop, fetch)

        return self.blobs.take(key, stop - start, fill)

    def hash(self) -> FileDigest:
        """Its SHA-256, read once from end to end and kept nowhere."""
        digest = hashlib.sha256()
        for start, stop in parts_of(0, self.size, STRETCH):  # each is tried again on its own
            self.store.read(self.name, start, stop, self.identity, lambda _, piece: digest.update(piece))
        return FileDigest(digest.hexdigest(), self.size)

    def is_unchanged(self) -> bool:
        """Whether the storage still has this very object."""
        return self.store.look(self.name) == self.identity

    def header(self, path: Path) -> None:
        """Write a file of this one's size that holds its header, and nothing of its tensors, brought to the disk."""
        first = self._piece(0, min(self.size, FIRST_BYTES))
        length = 8 + int.from_bytes(first[:8], "little")
        if len(first) < length <= min(self.size, 8 + LONGEST_HEADER):
            first += self._piece(len(first), length)
        with path.open("wb") as file:
            file.write(first[: min(length, len(first))])
            file.truncate(self.size)
            file.flush()
            os.fsync(file.fileno())

    def _piece(self, start: int, stop: int) -> bytes:
        pieces: list[bytes] = []
        self.store.read(self.name, start, stop, self.identity, lambda _, piece: pieces.append(piece))
        return b"".join(pieces)

    def __str__(self) -> str:
        return self.url


def _write(descriptor: int, piece: bytes, place: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
