"""Run a command and report its wall time, its CPU time, and its peak of anonymous memory, children included."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

INTERVAL_S, REST = 0.02, 50
"""Between two samples: so long at least, and so many times what one took, since who watches takes no part."""


@dataclass(frozen=True)
class Run:
    """One finished command: seconds of wall time and of CPU time (user and system), the peak of anonymous memory in
    bytes, and what it printed. family_seconds: CPU time as it was seen of every process that descended from it, also of
    those for which nobody waited, such as a cluster's.
    """

    seconds: float
    cpu_seconds: float
    anonymous_peak: int
    output: str
    family_seconds: float


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run `command` to its end, sampling /proc for RssAnon; `environment` joins this process's own.

    Raises SystemExit with its output when it fails.
    """
    with TemporaryFile() as printed:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        with _Watch(process.pid) as watch:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        output = printed.read().decode(errors="replace")
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, watch.peak, output, sum(watch.computing.values()))


class _Watch:
    """Samples what a process and its children hold, from beside, until the block ends."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self.computing: dict[int, float] = {}
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.is_set():
            began = time.thread_time()
            members = family(self._pid)
            self.peak = max(self.peak, sum(anonymous(pid) for pid in members))
            self.computing.update({pid: spent for pid in members if (spent := computing(pid))})
            self._over.wait(max(INTERVAL_S, REST * (time.thread_time() - began)))


def family(pid: int) -> list[int]:
    """A process and all that descend from it, as far as they live."""
    members = [pid]
    for member in members:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            members += [int(child) for child in _text(task).split()]
    return members


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process holds now; 0 once it is gone."""
    lines = _text(Path(f"/proc/{pid}/status")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def computing(pid: int) -> float:
    """Seconds that a process itself has had a processor; 0 once it is gone."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
