"""Where the time of a merge goes: what every thread did when, how many bytes it moved, and what bounds the run."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BUSY = 0.85


@dataclass(frozen=True)
class Span:
    """One piece of work: stage, thread, seconds since the start of the profile, seconds on a processor, bytes."""

    stage: str
    thread: str
    start: float
    stop: float
    computing: float
    size: int


@dataclass(frozen=True)
class StageTotal:
    """A stage over all threads: seconds that passed in it, seconds of those on a processor, bytes."""

    stage: str
    seconds: float
    computing: float
    size: int

    @property
    def waiting(self) -> float:
        """Seconds without a processor: waiting for a disk, a device, or for a processor that another thread had."""
        return self.seconds - self.computing


class Profile:
    """Collects spans. Threads may share it; a span costs a few microseconds."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._started = time.perf_counter()

    @contextmanager
    def stage(self, stage: str, size: int = 0) -> Iterator[Callable[[int], None]]:
        """Time the block; it may call what it is given with bytes that it only knows once they moved."""
        sizes = [size]
        start, computing = time.perf_counter(), time.thread_time()
        try:
            yield sizes.append
        finally:
            spent, stop = time.thread_time() - computing, time.perf_counter()
            thread = threading.current_thread().name
            self.spans.append(Span(stage, thread, start - self._started, stop - self._started, spent, sum(sizes)))

    @property
    def wall(self) -> float:
        """Seconds from the first span's start to the last one's end."""
        return max(span.stop for span in self.spans) - min(span.start for span in self.spans) if self.spans else 0.0

    def totals(self) -> list[StageTotal]:
        """Every stage, the longest first."""
        stages = sorted({span.stage for span in self.spans})
        rows = (self._total(stage, [span for span in self.spans if span.stage == stage]) for stage in stages)
        return sorted(rows, key=lambda row: -row.seconds)

    def _total(self, stage: str, spans: list[Span]) -> StageTotal:
        seconds = sum(span.stop - span.start for span in spans)
        return StageTotal(stage, seconds, sum(span.computing for span in spans), sum(span.size for span in spans))

    def verdict(self) -> str:
        """What bounds the run: the processors and the stage that takes most of them, or the stage most waited for."""
        rows = self.totals()
        if not rows:
            return "nothing was done"
        cores = len(os.sched_getaffinity(0))
        busy = sum(row.computing for row in rows) / (cores * self.wall)
        if busy >= BUSY:
            most = max(rows, key=lambda row: row.computing)
            return f"the processors bound this run: {cores} of them {busy:.0%} busy, most with `{most.stage}`"
        most = max(rows, key=lambda row: row.waiting)
        return f"waiting in `{most.stage}` bounds this run: {cores} processors were {busy:.0%} busy"

    def table(self) -> str:
        """The stages as lines of text, then the verdict."""
        lines = [f"{'stage':<16}{'seconds':>9}{'computing':>11}{'share':>7}{'GB':>8}{'GB/s':>7}"]
        rows = self.totals()
        whole = sum(row.seconds for row in rows) or 1.0
        for row in rows:
            moved = f"{row.size / 1e9:>8.2f}{row.size / 1e9 / (row.seconds or 1.0):>7.2f}" if row.size else ""
            share = f"{row.seconds:>9.2f}{row.computing:>11.2f}{row.seconds / whole:>7.0%}"
            lines.append(f"{row.stage:<16}{share}{moved}")
        return "\n".join([*lines, f"{self.wall:.2f} s in all; {self.verdict()}"])
