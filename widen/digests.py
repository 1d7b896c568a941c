"""SHA-256 of files and of folders, and a cache of file digests keyed by what the file system says about a file."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from widen.errors import InputsRefused

PIECE = 1 << 20
SETTLED_NS = 2_000_000_000
DAY = 86_400


@dataclass(frozen=True)
class FileDigest:
    """A file's SHA-256 (lower-case hexadecimal) and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Fingerprint:
    """What tells cheaply that a file is still the one that was read."""

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "Fingerprint":
        """Follows links, as reading does."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class Elsewhere(Protocol):
    """A file that does not lie on this machine."""

    @property
    def url(self) -> str:
        """Its address, without a secret."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the file as it was when it was opened; another one is never read for it."""

    def hash(self) -> FileDigest:
        """Read it once. Raises InputsRefused when it has changed."""

    def is_unchanged(self) -> bool:
        """Whether it still is the file that was opened."""


File = Path | Elsewhere


def hash_file(path: Path) -> FileDigest:
    """Read a file once, in pieces that stay in cache."""
    digest = hashlib.sha256()
    size = 0
    piece = memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])
            size += count
    return FileDigest(digest.hexdigest(), size)


def canonical_json(content: object) -> str:
    """One text for one value: sorted keys, no spaces."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest_of(content: object) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def root_digest(files: Mapping[str, FileDigest]) -> str:
    """One digest for a set of files: SHA-256 over the canonical JSON of {relative path: SHA-256}."""
    return digest_of({path: digest.sha256 for path, digest in files.items()})


class Remembered:
    """Texts about files, kept in a folder under the file's path and fingerprint; nowhere when `folder` is None.

    A text is kept only for a file that had been at rest for two seconds before it was read: a change within one tick of
    the file system's clock would otherwise go unseen.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, file: File, fingerprint: Fingerprint) -> str | None:
        """What is known about the file as it is now."""
        if self._folder is None:
            return None
        try:
            entry = self._entry(file)
            content = json.loads(entry.read_text())
            _touch_daily(entry)
            return str(content["text"]) if Fingerprint(**content["fingerprint"]) == fingerprint else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, file: File, fingerprint: Fingerprint, text: str) -> None:
        """Keep `text`, unless the file was written too short a time ago."""
        if self._folder is None or time.time_ns() - fingerprint.modified_ns <= SETTLED_NS:
            return
        entry = self._entry(file)
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        partial.write_text(canonical_json({"fingerprint": asdict(fingerprint), "text": text}))
        partial.replace(entry)

    def _entry(self, file: File) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(_place(file).encode()).hexdigest()}.json"


def _place(file: File) -> str:
    return str(file.resolve()) if isinstance(file, Path) else file.url


def fingerprint_of(file: File) -> Fingerprint:
    """Of a file as it is now, or as it was opened where it lies elsewhere."""
    return Fingerprint.of(file) if isinstance(file, Path) else file.fingerprint


def _touch_daily(entry: Path) -> None:
    """An entry's own time says when it was used last, to the day: what nobody uses is removed by it."""
    if time.time() - entry.stat().st_mtime > DAY:
        os.utime(entry)


class DigestCache:
    """SHA-256 of files, kept in a folder, or only for this process when `folder` is None. Threads may share it."""

    def __init__(self, folder: Path | None = None) -> None:
        self._remembered = Remembered(folder)
        self._known: dict[str, tuple[Fingerprint, FileDigest]] = {}

    def get(self, file: File) -> FileDigest | None:
        """The digest of the file as it is now, if it is known."""
        place, fingerprint = _place(file), fingerprint_of(file)
        known = self._known.get(place) or self._load(file, fingerprint)
        if known is None or known[0] != fingerprint:
            return None
        self._known[place] = known
        return known[1]

    def compute(self, file: File) -> FileDigest:
        """The digest, from memory or by reading the file. Raises InputsRefused for one that changes meanwhile."""
        known = self.get(file)
        if known is None:
            fingerprint = fingerprint_of(file)
            known = hash_file(file) if isinstance(file, Path) else file.hash()
            self.put(file, fingerprint, known)
        return known

    def put(self, file: File, fingerprint: Fingerprint, digest: FileDigest) -> None:
        """Remember a digest. `fingerprint` was taken before the reading; a file that changed since is refused."""
        place = _place(file)
        if fingerprint_of(file) != fingerprint or fingerprint.size != digest.size:
            raise InputsRefused(f"{place} changed while it was read; let the writer finish and run again")
        self._known[place] = (fingerprint, digest)
        self._remembered.put(file, fingerprint, canonical_json(asdict(digest)))

    def _load(self, file: File, fingerprint: Fingerprint) -> tuple[Fingerprint, FileDigest] | None:
        kept = self._remembered.get(file, fingerprint)
        return (fingerprint, FileDigest(**json.loads(kept))) if kept else None
