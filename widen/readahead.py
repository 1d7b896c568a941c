"""Bring bytes into memory before a lane needs them, so that a disk works while the processors do."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread

from widen.checkpoint import Checkpoint
from widen.profile import Profile

WINDOW = 256 << 20
READERS = 2
_POPULATE_READ = 22
"""madvise(MADV_POPULATE_READ), Linux 5.14: map pages now, in one call, without the interpreter lock."""
Range = tuple[Checkpoint, str]


class Readahead:
    """Threads that read what the lanes will need, in the order of work, at most WINDOW bytes ahead of what was begun.

    groups: for each piece of work, the tensors that it reads. Nothing is copied: pages are mapped, and stay in the page
    cache for as long as there is room.
    """

    def __init__(self, groups: Sequence[Sequence[Range]], profile: Profile, window: int = WINDOW) -> None:
        self._ranges = [(number, one) for number, group in enumerate(groups) for one in group]
        self._missing = [len(group) for group in groups]
        self._sizes = [sum(checkpoint.tensors[name].size for checkpoint, name in group) for group in groups]
        self._profile = profile
        self._room = window
        self._next = 0
        self._stopped = False
        self._changed = Condition()
        self._threads = [Thread(target=self._run, name=f"widen-read_{k}", daemon=True) for k in range(READERS)]

    def __enter__(self) -> "Readahead":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def begin(self, number: int) -> None:
        """A lane begins on this piece of work: wait until its bytes are there, and let the readers go further."""
        with self._changed:
            self._room += self._sizes[number]
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped or self._missing[number] == 0)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            number, (checkpoint, name) = taken
            try:
                # Whatever fails here fails again in the lane, which can say so; a reader that died would leave lanes
                # waiting for ever.
                with suppress(Exception), self._profile.stage("read", checkpoint.tensors[name].size):
                    _fetch(checkpoint, name)
            finally:
                with self._changed:
                    self._missing[number] -= 1
                    self._changed.notify_all()

    def _take(self) -> tuple[int, Range] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._next == len(self._ranges) or self._room > 0)
            if self._stopped or self._next == len(self._ranges):
                return None
            number, (checkpoint, name) = self._ranges[self._next]
            self._next += 1
            self._room -= checkpoint.tensors[name].size
            return number, (checkpoint, name)


def _fetch(checkpoint: Checkpoint, name: str) -> None:
    entry = checkpoint.tensors[name]
    _advise(checkpoint.path_of(name), entry.start, entry.size)
    span = checkpoint.span(name)
    if not span.size:
        return
    page = os.sysconf("SC_PAGE_SIZE")
    first = span.ctypes.data // page * page
    length = span.ctypes.data + span.size - first
    # Where the kernel does not know the call, the lanes touch the pages themselves: slower, and no other result.
    ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _POPULATE_READ)


def _advise(path: Path, start: int, size: int) -> None:
    """Queue the whole range at the disk at once; faulting page by page would wait for each."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
