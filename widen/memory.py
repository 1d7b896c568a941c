"""How much anonymous memory a merge may hold, and the back-pressure that keeps it there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

FRACTION = 4
LEAST = 64 << 20
_CGROUP = Path("/sys/fs/cgroup")


class MemoryBudget:
    """Bytes that the lanes share. A tensor that needs more than there is waits; one alone may always go on."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.peak = 0
        self._held = 0
        self._changed = Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Keep `size` bytes of the budget for the length of the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + size <= self.size)
            self._held += size
            self.peak = max(self.peak, self._held)
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


def default_budget() -> int:
    """A quarter of the memory that is available now, on the machine or in this container."""
    return max(LEAST, min(_available(), _container_room()) // FRACTION)


def _available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def _container_room() -> int:
    """What a control group (version 2) still allows; without a limit, no bound."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if limit == "max" else max(0, int(limit) - used)
