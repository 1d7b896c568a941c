"""Writing safetensors files: the header first, from the plan, then tensors in any order and in pieces, then the digest.

On-disk format: https://github.com/huggingface/safetensors#format. The library writes whole dictionaries; a merge must
not hold a model in memory.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.digests import PIECE

ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}


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


class ShardFile:
    """One safetensors file. Threads may write tensors side by side; `places` says where each one lies."""

    def __init__(self, path: Path, slots: Sequence[Slot]) -> None:
        header = header_of(slots)
        self.path = path
        self.size = len(header) + sum(slot.size for slot in slots)
        self.places: dict[str, int] = {}
        end = len(header)
        for slot in slots:
            self.places[slot.name] = end
            end += slot.size
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.ftruncate(self._descriptor, self.size)
        self._put(memoryview(header), 0)

    def write(self, name: str, start: int, piece: NDArray[np.generic]) -> None:
        """Put a contiguous piece of a tensor at byte `start` of that tensor."""
        self._put(piece.data.cast("B"), self.places[name] + start)

    def copy(self, name: str, source: Path, start: int, size: int) -> None:
        """Take a tensor's bytes from another file; the kernel shares or copies them where it can."""
        target = self.places[name]
        with source.open("rb", buffering=0) as file:
            while size:
                moved = self._move(file.fileno(), start, target, size)
                if moved == 0:
                    raise EOFError(f"{source} ends before byte {start + size}")
                start, target, size = start + moved, target + moved, size - moved

    def _move(self, source: int, start: int, target: int, size: int) -> int:
        try:
            return os.copy_file_range(source, self._descriptor, size, start, target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        piece = os.pread(source, min(size, PIECE), start)
        self._put(memoryview(piece), target)
        return len(piece)

    def sha256(self, slot: Slot) -> str:
        """Of a tensor's bytes as they lie in the file now."""
        digest, piece = hashlib.sha256(), memoryview(bytearray(PIECE))
        place, stop = self.places[slot.name], self.places[slot.name] + slot.size
        while place < stop:
            count = os.preadv(self._descriptor, [piece[: stop - place]], place)
            digest.update(piece[:count])
            place += count
        return digest.hexdigest()

    def sync(self) -> None:
        """Bring the file to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Let go of the file, whatever it holds."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _put(self, view: memoryview, place: int) -> None:
        while view:
            written = os.pwrite(self._descriptor, view, place)
            view, place = view[written:], place + written


def header_of(slots: Sequence[Slot]) -> bytes:
    """The file's first bytes: the header's length, then the header, padded so that tensors start aligned."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for slot in slots:
        entries[slot.name] = {
            "dtype": slot.dtype, "shape": list(slot.shape), "data_offsets": [offset, offset + slot.size],
        }  # fmt: skip
        offset += slot.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def index_of(files: Mapping[str, Sequence[Slot]]) -> bytes:
    """model.safetensors.index.json of a model in several files."""
    weight_map = {slot.name: name for name, slots in files.items() for slot in slots}
    size = sum(slot.size for slots in files.values() for slot in slots)
    content = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
