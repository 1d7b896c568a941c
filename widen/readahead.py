"""Bring bytes into memory before a lane needs them, so that a disk works while the processors do."""

import ctypes
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread

import numpy as np
from numpy.typing import NDArray

from widen.checkpoint import Checkpoint
from widen.profile import Profile

WINDOW = 256 << 20
READERS, REMOTE_READERS = 2, 8
"""A disk is quick to answer; a storage is asked for several tensors at a time."""
MOST_RANGES = 256
"""Remote tensors that may be on this machine for the lanes at once: each holds a descriptor."""
_POPULATE_READ = 22
"""madvise(MADV_POPULATE_READ), Linux 5.14: map pages now, in one call, without the interpreter lock."""
POLL_S = 1.0
Range = tuple[Checkpoint, str]


class Readahead:
    """Threads that read what the lanes will need, in the order of work, at most WINDOW bytes ahead of what was begun.

    groups: for each piece of work, the tensors that it reads. Nothing is copied: pages are mapped, and stay in the page
    cache for as long as there is room. Remote tensors are brought to this machine's disk, and stay there until their
    piece of work ended; where the share of the disk is less than the pieces under way need, the next ones wait.
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
        self._disk = _Disk(groups)
        readers = REMOTE_READERS if self._disk.is_used else READERS
        self._threads = [Thread(target=self._run, name=f"widen-read_{k}", daemon=True) for k in range(readers)]

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

    def end(self, number: int) -> None:
        """The work ended, well or not: its remote tensors may go."""
        with self._changed:
            self._disk.release(number)
            self._changed.notify_all()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            number, (checkpoint, name) = taken
            span = None
            try:
                # Whatever fails here fails again in the lane, which can say so; a reader that died would leave lanes
                # waiting for ever.
                with suppress(Exception), self._profile.stage("read", checkpoint.tensors[name].size):
                    span = _fetch(checkpoint, name)
            finally:
                with self._changed:
                    self._disk.hold(number, span)
                    self._missing[number] -= 1
                    self._changed.notify_all()

    def _take(self) -> tuple[int, Range] | None:
        with self._changed:
            while not self._changed.wait_for(self._may_go_on, POLL_S):
                pass  # other processes that leave make room, and do not say so
            if self._stopped or self._next == len(self._ranges):
                return None
            number, (checkpoint, name) = self._ranges[self._next]
            self._next += 1
            self._room -= checkpoint.tensors[name].size
            self._disk.reserve(number)
            return number, (checkpoint, name)

    def _may_go_on(self) -> bool:
        if self._stopped or self._next == len(self._ranges):
            return True
        return self._room > 0 and self._disk.has_room(self._ranges[self._next][0])


class _Disk:
    """What the pieces of work under way keep of remote tensors on this machine's disk. Reserved in the order of work,
    so that the first one that has not ended always has what it needs.
    """

    def __init__(self, groups: Sequence[Sequence[Range]]) -> None:
        remote = [[checkpoint.tensors[name] for checkpoint, name in group] for group in groups]
        self._needs = [[one for one in entries if one.remote is not None] for entries in remote]
        self._blobs = next((one.remote.blobs for group in self._needs for one in group if one.remote), None)
        self._reserved = -1
        self._bytes = self._count = 0
        self._held: dict[int, list[NDArray[np.uint8]]] = {}

    @property
    def is_used(self) -> bool:
        return self._blobs is not None

    def has_room(self, number: int) -> bool:
        if self._blobs is None or number <= self._reserved or self._count == 0:
            return True
        count = self._count + len(self._needs[number])
        return count <= MOST_RANGES and self._bytes + self._size(number) <= self._blobs.share

    def reserve(self, number: int) -> None:
        if number > self._reserved:
            self._reserved = number
            self._bytes += self._size(number)
            self._count += len(self._needs[number])
            self._held[number] = []

    def hold(self, number: int, span: NDArray[np.uint8] | None) -> None:
        if span is not None and number in self._held:
            self._held[number].append(span)

    def release(self, number: int) -> None:
        if self._held.pop(number, None) is not None:
            self._bytes -= self._size(number)
            self._count -= len(self._needs[number])

    def _size(self, number: int) -> int:
        return sum(one.size for one in self._needs[number])


def _fetch(checkpoint: Checkpoint, name: str) -> NDArray[np.uint8] | None:
    """Bring a tensor's bytes here; those of a remote one stay while the array lives."""
    entry = checkpoint.tensors[name]
    path = checkpoint.path_of(name)
    if not isinstance(path, Path):
        return checkpoint.span(name)
    _advise(path, entry.start, entry.size)
    span = checkpoint.span(name)
    if span.size:
        page = os.sysconf("SC_PAGE_SIZE")
        first = span.ctypes.data // page * page
        length = span.ctypes.data + span.size - first
        # Where the kernel does not know the call, the lanes touch the pages themselves: slower, and no other result.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _POPULATE_READ)
    return None


def _advise(path: Path, start: int, size: int) -> None:
    """Queue the whole range at the disk at once; faulting page by page would wait for each."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
