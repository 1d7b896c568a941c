"""Ranges of remote objects in a folder of this machine: whole or not at all, mapped, and together within a bound.

A blob is in use for as long as somebody has it mapped: the mapping holds a shared lock on the file, and what is locked
is not removed, by whatever process. Processes share the folder; each may keep an equal part of the bound in use.
"""

import fcntl
import mmap
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

import numpy as np
from numpy.typing import NDArray

from widen.digests import digest_of
from widen.staging import disk_faults

SUFFIX, PARTIAL = ".blob", ".part"
_SLACK = 8
"""What is freed at once is this fraction of the bound, so that not every fetch looks through the folder."""
POLL_S = 0.01
Bytes = NDArray[np.uint8]
Fill = Callable[[int], None]
"""Writes a blob's bytes to a descriptor."""


class Blobs:
    """A folder of blobs of at most `limit` bytes together, unless those in use are more."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._unlooked = 0
        self._user: tuple[int, int] | None = None

    def take(self, key: str, size: int, fill: Fill) -> Bytes:
        """The blob's bytes, mapped read-only; written by `fill` where they are not here. In use while the array lives.

        key: names the bytes. Raises EnvironmentFault when the disk cannot hold it, and what `fill` raises.
        """
        if not size:
            return np.empty(0, np.uint8)
        with disk_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{_of_this_boot(key)}{SUFFIX}"
            while (mapped := self._mapped(path, size)) is None:
                mapped = self._fetched(path, size, fill)
                if mapped is not None:
                    break
            return mapped

    @property
    def share(self) -> int:
        """The bytes that this process may keep in use: an equal part for each process that uses the folder now."""
        return self.limit // len(self._users())

    def _mapped(self, path: Path, size: int) -> Bytes | None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not _is(descriptor, path) or os.fstat(descriptor).st_size != size:
                return None
            os.utime(descriptor)  # those used last stay longest
            return _map(descriptor, size)
        finally:
            os.close(descriptor)

    def _fetched(self, path: Path, size: int, fill: Fill) -> Bytes | None:
        """Fetch it, one process and thread at a time; None where another one did meanwhile."""
        partial = path.with_suffix(PARTIAL)
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _lock_now(descriptor):
                # Waiting for this lock could wait for ever: once it is whole, whoever fetched it holds it mapped.
                time.sleep(POLL_S)
                return None
            if not _is(descriptor, partial):
                return None
            if path.exists() and path.stat().st_size == size:
                partial.unlink()
                return None
            with self._alone():
                self._make_room(size)
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
            try:
                fill(descriptor)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            with self._alone():  # nobody removes it between the two locks
                partial.replace(path)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            return _map(descriptor, size)
        finally:
            os.close(descriptor)

    def _make_room(self, size: int) -> None:
        """Remove what is used least and not in use, until `size` bytes fit or nothing is left to remove."""
        self._unlooked -= size
        if self._unlooked >= 0:
            return
        found = sorted(self._held())
        total = sum(held for _, held, _ in found)
        wanted = self.limit - size - (self.limit // _SLACK if total + size > self.limit else 0)
        for _, held, path in found:
            if total <= max(0, wanted):
                break
            total -= held if _remove_unused(path) else 0
        self._unlooked = max(0, self.limit - size - total) // len(self._users())

    def _held(self) -> Iterator[tuple[int, int, Path]]:
        """Last use, bytes and path of each blob and each part of one."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((SUFFIX, PARTIAL)):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with _locked(self.folder / ".lock"):
            yield

    def _users(self) -> list[Path]:
        """A file for each process that lives and uses the folder, this one's among them."""
        folder = self.folder / "users"
        folder.mkdir(parents=True, exist_ok=True)
        if self._user is None or self._user[0] != os.getpid():
            descriptor, _ = mkstemp(dir=folder)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            weakref.finalize(self, os.close, descriptor)
            self._user = os.getpid(), descriptor
        own = os.fstat(self._user[1]).st_ino
        return [path for path in sorted(folder.iterdir()) if _inode(path) == own or not _remove_unused(path)]


def _of_this_boot(key: str) -> str:
    """Nothing brings a blob to the disk. After a crash of the machine its bytes may be gone, so no name finds it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return digest_of([key, boot])


def _map(descriptor: int, size: int) -> Bytes:
    """The mapping keeps the file's lock: it holds a duplicate of the descriptor until the last array on it is gone."""
    return np.frombuffer(mmap.mmap(descriptor, size, prot=mmap.PROT_READ), np.uint8)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unused(path: Path) -> bool:
    """Remove a file that nobody has locked; False where somebody has."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        if not _lock_now(descriptor):
            return False
        if _is(descriptor, path):
            path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    return os.fstat(descriptor).st_ino == _inode(path)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
