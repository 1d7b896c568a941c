"""The byte floor: what moving a merge's bytes costs. Reads all inputs, writes one output, brings it to the disk, one
after the other, and computes nothing.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20
BLOCK = 8 << 20
"""Random bytes to write: zeros a file system or a disk could leave out."""


@dataclass(frozen=True)
class Floor:
    """Seconds of each part."""

    read: float
    write: float
    fsync: float

    @property
    def seconds(self) -> float:
        """The sum."""
        return self.read + self.write + self.fsync


def measure_floor(inputs: Iterable[Path], target: Path, size: int) -> Floor:
    """Read `inputs` to their ends, then write `size` bytes to `target`, and remove it again."""
    block = memoryview(os.urandom(BLOCK))
    started = time.perf_counter()
    read_through(inputs)
    read = time.perf_counter()
    with target.open("wb", buffering=0) as file:
        for start in range(0, size, BLOCK):
            rest = block[: size - start]
            while rest:
                rest = rest[file.write(rest) :]
        written = time.perf_counter()
        os.fsync(file.fileno())
    synced = time.perf_counter()
    target.unlink()
    return Floor(read - started, written - read, synced - written)


def read_through(inputs: Iterable[Path]) -> None:
    """Read files to their ends into one small buffer; also how inputs are made warm before each measurement."""
    buffer = bytearray(PIECE)
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
