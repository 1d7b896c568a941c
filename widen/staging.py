"""Staging: what is written appears under its final name in one rename or not at all; what a kill left is found."""

import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from widen.digests import FileDigest
from widen.errors import EnvironmentFault

LOCK_SUFFIX = ".lock"
"""Of the file beside a scratch folder that is there, and held, before the folder is and until it is gone: a kill at any
moment leaves it for the next process to find. Inside it would be missing just after the folder's making and just before
its publication."""
FINISHED_FOLDER = ".finished"
"""Where a staging folder says which of its files are whole; it is not published."""
UNITS_FOLDER = ".units"
"""Where other processes write files that go into a staging folder when they are whole; it is not published."""
HEADROOM_BYTES = 64_000_000
"""Room for tokenizer, index and manifest beside the tensors."""
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Staging:
    """`folder` is to be filled; `interrupted` are the staging folders of runs that were killed, locked and readable."""

    folder: Path
    interrupted: tuple[Path, ...]


@contextmanager
def staged_folder(out: Path) -> Iterator[Staging]:
    """A hidden folder beside `out` that becomes `out` in one rename when the block ends well, and is removed if not.

    The old `out` stays whole until that rename. A kill or Ctrl-C leaves the folder for the next run to take over.
    Raises EnvironmentFault as `scratch_folder` does.
    """
    out = out.absolute()
    prefix = f".{out.name}.staging-"
    with disk_faults(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
    with _taken_over(out.parent, prefix) as interrupted, scratch_folder(out.parent, prefix, resumable=True) as staging:
        yield Staging(staging, interrupted)
        publish(staging, out)


@contextmanager
def scratch_folder(parent: Path, prefix: str, resumable: bool = False) -> Iterator[Path]:
    """A new folder in `parent` that is gone when the block ends, unless the block moved it.

    It is locked while in use, so that the next process can tell what a killed one left behind: it is removed, or, when
    `resumable`, kept also on Ctrl-C. Raises EnvironmentFault when the disk fills or cannot be written.
    """
    with disk_faults(parent):
        parent.mkdir(parents=True, exist_ok=True)
        if not resumable:
            with _taken_over(parent, prefix):
                pass
        folder, lock = _claimed(parent, prefix)
        try:
            folder.mkdir()
            yield folder
        except BaseException as error:
            if resumable and isinstance(error, KeyboardInterrupt):
                os.close(lock)
            else:
                _discard(folder, lock)
            raise
        _discard(folder, lock)


def discard_interrupted(out: Path) -> None:
    """Remove what killed runs left beside `out`."""
    with _taken_over(out.absolute().parent, f".{out.name}.staging-"):
        pass


def is_dead(folder: Path) -> bool:
    """Whether nobody holds the staging or scratch folder `folder`; also where it has no lock. Changes nothing."""
    lock = _lock_of_dead(folder)
    if lock is not None:
        os.close(lock)
    return lock is not None or not lock_of(folder).exists()


def remove_dead(folder: Path) -> bool:
    """Remove what a killed run left at `folder`; False, and nothing done, where a living one holds it."""
    lock = _lock_of_dead(folder)
    if lock is not None:
        _discard(folder, lock)
    elif lock_of(folder).exists():
        return False
    elif folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)
    return True


def lock_of(folder: Path) -> Path:
    """Where the lock of a staging or scratch folder is."""
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _claimed(parent: Path, prefix: str) -> tuple[Path, int]:
    """The name of a folder that is yet to be made, and its lock, held."""
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        lock = os.open(lock_of(folder), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if _is_ours(lock, lock_of(folder)):
            return folder, lock
        os.close(lock)


def _is_ours(lock: int, path: Path) -> bool:
    """Whether the open file `lock` could be locked, and is still what lies at `path`, where its holder removes it."""
    with suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), path.stat())
    return False


@contextmanager
def _taken_over(parent: Path, prefix: str) -> Iterator[tuple[Path, ...]]:
    """Lock what dead processes left under `prefix`, and remove it when the block ends; Ctrl-C leaves it once more."""
    locks = sorted(parent.glob(f"{glob.escape(prefix)}*{LOCK_SUFFIX}"))
    folders = [path.with_name(path.name.removesuffix(LOCK_SUFFIX)) for path in locks]
    found = {folder: lock for folder in folders if (lock := _lock_of_dead(folder)) is not None}
    try:
        yield tuple(folder for folder in found if folder.is_dir())
    except KeyboardInterrupt:
        for lock in found.values():
            os.close(lock)
        raise
    except BaseException:
        _discard_all(found)
        raise
    _discard_all(found)


def _lock_of_dead(folder: Path) -> int | None:
    try:
        lock = os.open(lock_of(folder), os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if _is_ours(lock, lock_of(folder)):
        return lock
    os.close(lock)
    return None


def _discard_all(folders: dict[Path, int]) -> None:
    for folder, lock in folders.items():
        _discard(folder, lock)


def _discard(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock_of(folder).unlink(missing_ok=True)
    os.close(lock)


def publish(scratch: Path, final: Path) -> None:
    """Give a scratch folder its final name, in place of what is there, in one step; then make that durable."""
    for own in (FINISHED_FOLDER, UNITS_FOLDER):
        shutil.rmtree(scratch / own, ignore_errors=True)
    _sync_folder(scratch)
    if not final.exists():
        scratch.rename(final)
    elif not _exchange(scratch, final):
        # A file system without the exchange: the old folder steps aside for the blink between two renames.
        aside = scratch.with_name(scratch.name + "-old")
        final.rename(aside)
        scratch.rename(final)
        shutil.rmtree(aside, ignore_errors=True)
    _sync_folder(final.parent)


def write_synced(path: Path, data: bytes) -> FileDigest:
    """Write a small file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return FileDigest(hashlib.sha256(data).hexdigest(), len(data))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file such that `path` holds either what it held before or all of `data`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, f".{path.name}.") as scratch:
        write_synced(scratch / path.name, data)
        (scratch / path.name).replace(path)


def free_space(folder: Path) -> int:
    """Bytes free on the disk that holds `folder`, or will."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free


def require_space(folder: Path, needed: int) -> None:
    """Raise EnvironmentFault unless the disk that holds `folder` has `needed` bytes free."""
    free = free_space(folder)
    if free < needed:
        raise EnvironmentFault(
            f"{folder}: what is written there needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
            "free some space or choose another folder"
        )


@contextmanager
def disk_faults(out: Path) -> Iterator[None]:
    """EnvironmentFault, in one line, for what a disk can refuse while `out` is written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fault = f"{out}: the disk is full; nothing was published. Free some space and run again"
            raise EnvironmentFault(fault) from error
        if error.errno in (errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.EPERM, errno.EROFS):
            fault = f"{out}: cannot write ({error.strerror}); nothing was published. Make it writable or choose another"
            raise EnvironmentFault(fault) from error
        raise


def _exchange(first: Path, second: Path) -> bool:
    """Swap two paths in one step (Linux renameat2); False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(second))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
