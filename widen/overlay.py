"""Tensors that no input holds as they are needed, computed once into a file of the cache that views of inputs point to.

A merge reads whole tensors many times and in pieces, from mapped files. What a view changes (the rows of an embedding,
a weight with an adapter) is a small part of a model: it is written once, and the rest stays where it lies.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from widen.contents import Contents
from widen.digests import hash_file
from widen.dtypes import BY_SAFETENSORS_NAME
from widen.headers import TensorEntry
from widen.progress import Advance, Progress, silent
from widen.shards import ShardFile, Slot, header_of
from widen.staging import disk_faults, require_space, scratch_folder, write_synced

Pieces = Iterable[NDArray[np.generic]]
"""A tensor's storage bits in order, in contiguous pieces."""
SUFFIX = ".safetensors"


class Overlays:
    """A folder of computed tensors, each file named by a digest of what it is a function of.

    contents: digests of input tensors, for such a key. progress: hears of what is computed.
    """

    def __init__(self, folder: Path, contents: Contents, progress: Progress = silent) -> None:
        self._folder, self.contents, self._progress = folder, contents, progress

    def entries(self, key: str, slots: Sequence[Slot], fill: Callable[[str], Pieces]) -> dict[str, TensorEntry]:
        """Where the tensors of `slots` lie, by name; they are computed by `fill` unless a file of that key is there.

        key: a digest of all that the bytes depend on. fill: the pieces of the tensor of that name. Raises
        EnvironmentFault when they cannot be written; a file is there whole or not at all, a damaged one is made anew.
        """
        path = self._folder.resolve() / f"{key}{SUFFIX}"
        with disk_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # One at a time: a second that replaced the file would pull it from under the first one's merge.
            with FileLock(self._folder / f".{key}.lock"):
                if not _is_whole(path):
                    require_space(self._folder, sum(slot.size for slot in slots))
                    self._write(path, slots, fill)
                os.utime(_witness(path))  # the cache is trimmed by the last use
        return dict(_entries(path, len(header_of(slots)), slots))

    def _write(self, path: Path, slots: Sequence[Slot], fill: Callable[[str], Pieces]) -> None:
        with scratch_folder(path.parent, f".{path.stem}.") as scratch:
            file = ShardFile(scratch / path.name, slots)
            try:
                with self._progress.stage("compute inputs", sum(slot.size for slot in slots)) as advance:
                    for slot in slots:
                        _put(file, slot, fill(slot.name), advance)
                file.sync()
            finally:
                file.close()
            # The key names the bytes that were there before: only what was computed from them may bear it.
            self.contents.require_unchanged()
            write_synced(scratch / _witness(path).name, hash_file(scratch / path.name).sha256.encode())
            (scratch / path.name).replace(path)
            (scratch / _witness(path).name).replace(_witness(path))


@contextmanager
def open_overlays(folder: Path | None, progress: Progress = silent) -> Iterator[Overlays]:
    """Overlays in `folder`, part of a cache, or for the length of the block in a temporary one."""
    if folder is not None:
        contents = Contents(folder.parent / "contents")
        try:
            yield Overlays(folder, contents, progress)
        finally:
            contents.save()
        return
    scratch = Path(tempfile.mkdtemp(prefix="widen-overlays-"))
    try:
        yield Overlays(scratch, Contents(), progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _witness(path: Path) -> Path:
    """The file beside that says what SHA-256 an overlay had when it was written."""
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    try:
        return _witness(path).read_text() == hash_file(path).sha256
    except (OSError, ValueError):
        return False


def _put(file: ShardFile, slot: Slot, pieces: Pieces, advance: Advance) -> None:
    place = 0
    for piece in pieces:
        file.write(slot.name, place, piece)
        place += piece.nbytes
        advance(piece.nbytes)
    assert place == slot.size, f"{slot.name}: {place} bytes for {slot.size}"


def _entries(path: Path, start: int, slots: Sequence[Slot]) -> Iterator[tuple[str, TensorEntry]]:
    for slot in slots:
        kind = BY_SAFETENSORS_NAME[slot.dtype]
        yield slot.name, TensorEntry(slot.name, str(path), start, start + slot.size, kind, slot.shape)
        start += slot.size
