"""Memory in the same state before each measurement, on virtual machines that hand free memory back to their host.

There a page that lay free for some seconds costs far more to use again than one that was freed just now, so that the
later of two merges, or the one that starts more slowly, would pay for the pause before it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from bench.floor import read_through
from bench.machine import memory_bytes

LEFT = 2 << 30
PIECE = 64 << 20
REPORTING = Path("/sys/module/page_reporting")
"""Of a kernel that tells its host which pages are free."""


def warm(inputs: Sequence[Path], folder: Path) -> None:
    """Have files in the page cache. Where free memory does not stay, the rest of it is filled with a file in `folder`,
    whose pages the kernel gives up for whatever else is asked for; it takes as much of the disk.
    """
    if REPORTING.exists():
        room = memory_bytes() - LEFT - sum(path.stat().st_size for path in inputs)
        _fill(folder / "filler", max(0, room))
    read_through(inputs)


def _fill(filler: Path, size: int) -> None:
    with filler.open("a+b", buffering=0) as file:
        file.truncate(min(size, filler.stat().st_size))
        read_through([filler])
        for _ in range(filler.stat().st_size, size, PIECE):
            file.write(bytes(PIECE))
        os.fsync(file.fileno())
