"""SHA-256 of files and of folders, and a cache of file digests keyed by what the file system says about a file."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

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

    def get(self, path: Path, fingerprint: Fingerprint) -> str | None:
        """What is known about the file as it is now."""
        if self._folder is None:
            return None
        try:
            entry = self._entry(path)
            content = json.loads(entry.read_text())
            _touch_daily(entry)
            return str(content["text"]) if Fingerprint(**content["fingerprint"]) == fingerprint else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, path: Path, fingerprint: Fingerprint, text: str) -> None:
        """Keep `text`, unless the file was written too short a time ago."""
        if self._folder is None or time.time_ns() - fingerprint.modified_ns <= SETTLED_NS:
            return
        entry = self._entry(path)
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        partial.write_text(canonical_json({"fingerprint": asdict(fingerprint), "text": text}))
        partial.replace(entry)

    def _entry(self, path: Path) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.json"


def _touch_daily(entry: Path) -> None:
    """An entry's own time says when it was used last, to the day: what nobody uses is removed by it."""
    if time.time() - entry.stat().st_mtime > DAY:
        os.utime(entry)


class DigestCache:
    """SHA-256 of files, kept in a folder, or only for this process when `folder` is None. Threads may share it."""

    def __init__(self, folder: Path | None = None) -> None:
        self._remembered = Remembered(folder)
        self._known: dict[Path, tuple[Fingerprint, FileDigest]] = {}

    def get(self, path: Path) -> FileDigest | None:
        """The digest of the file as it is now, if it is known."""
        path = path.resolve()
        fingerprint = Fingerprint.of(path)
        known = self._known.get(path) or self._load(path, fingerprint)
        if known is None or known[0] != fingerprint:
            return None
        self._known[path] = known
        return known[1]

    def compute(self, path: Path) -> FileDigest:
        """The digest, from memory or by reading the file. Raises InputsRefused for one that changes meanwhile."""
        known = self.get(path)
        if known is None:
            fingerprint = Fingerprint.of(path)
            known = hash_file(path)
            self.put(path, fingerprint, known)
        return known

    def put(self, path: Path, fingerprint: Fingerprint, digest: FileDigest) -> None:
        """Remember a digest. `fingerprint` was taken before the reading; a file that changed since is refused."""
        path = path.resolve()
        if Fingerprint.of(path) != fingerprint or fingerprint.size != digest.size:
            raise InputsRefused(f"{path} changed while it was read; let the writer finish and run again")
        self._known[path] = (fingerprint, digest)
        self._remembered.put(path, fingerprint, canonical_json(asdict(digest)))

    def _load(self, path: Path, fingerprint: Fingerprint) -> tuple[Fingerprint, FileDigest] | None:
        kept = self._remembered.get(path, fingerprint)
        return (fingerprint, FileDigest(**json.loads(kept))) if kept else None
