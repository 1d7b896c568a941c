"""Writing: safetensors files tensor by tensor, staged beside their destination and published in one rename.

On-disk format: https://github.com/huggingface/safetensors#format. The library writes whole dictionaries; a merge that
must not hold a model in memory writes the header first, from the plan, and then the bytes as they come.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray

from widen.digests import FileDigest
from widen.errors import EnvironmentFault

LOCK_FILE = ".lock"
ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@dataclass(frozen=True)
class Slot:
    """A tensor to be written: its name, safetensors type name and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * ITEM_SIZES[self.dtype]


class TensorFile:
    """One safetensors file, written from front to back. Tensors come in the order of `slots`, in pieces."""

    def __init__(self, path: Path, slots: Sequence[Slot], metadata: Mapping[str, str]) -> None:
        self._file = path.open("xb", buffering=0)
        self._whole = hashlib.sha256()
        self._size = 0
        self._put(_header(slots, metadata))

    def write(self, pieces: Iterator[NDArray[np.generic]]) -> str:
        """Append one tensor; returns the SHA-256 of its bytes."""
        digest = hashlib.sha256()
        for piece in pieces:
            view = np.ascontiguousarray(piece).data.cast("B")
            digest.update(view)
            self._put(view)
        return digest.hexdigest()

    def close(self) -> FileDigest:
        """Bring the bytes to the disk; returns the file's digest."""
        os.fsync(self._file.fileno())
        self._file.close()
        return FileDigest(self._whole.hexdigest(), self._size)

    def abandon(self) -> None:
        """Close without any promise about the content."""
        self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self._whole.update(data)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)


def _header(slots: Sequence[Slot], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for slot in slots:
        entries[slot.name] = {
            "dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [offset, offset + slot.size],
        }  # fmt: skip
        offset += slot.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that becomes `out` in one rename when the block ends well, and is removed if not.

    The old `out` stays whole until that rename. Raises EnvironmentFault as `scratch_folder` does.
    """
    out = out.absolute()
    with scratch_folder(out.parent, f".{out.name}.staging-") as staging:
        yield staging
        publish(staging, out)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent` that is gone when the block ends, unless the block moved it.

    It is locked while in use, so that the next process can tell and remove what a killed one left behind. Raises
    EnvironmentFault when the disk fills or cannot be written.
    """
    with _disk_faults(parent):
        parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(parent, prefix)
        folder = Path(mkdtemp(prefix=prefix, dir=parent))
        folder.chmod(0o755)
        lock = os.open(folder / LOCK_FILE, os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)


def publish(scratch: Path, final: Path) -> None:
    """Give a scratch folder its final name, in place of what is there, in one step; then make that durable."""
    (scratch / LOCK_FILE).unlink()
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


def require_space(folder: Path, needed: int) -> None:
    """Raise EnvironmentFault unless the disk that holds `folder` has `needed` bytes free."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise EnvironmentFault(
            f"{folder}: the merged checkpoint needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; "
            "free some space or choose another folder"
        )


@contextmanager
def _disk_faults(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fault = f"{out}: the disk is full; nothing was published. Free some space and run again"
            raise EnvironmentFault(fault) from error
        if error.errno in (errno.EACCES, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENOTDIR, errno.EPERM, errno.EROFS):
            raise EnvironmentFault(f"{out}: cannot write ({error.strerror}); nothing was published") from error
        raise


def _remove_stale(parent: Path, prefix: str) -> None:
    for folder in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(folder / LOCK_FILE, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


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
