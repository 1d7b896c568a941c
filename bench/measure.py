"""Run a command and report its wall time, its children's CPU time, and its peak of anonymous memory."""

import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.01


@dataclass(frozen=True)
class Run:
    """One finished command: seconds of wall time, bytes of anonymous memory at its peak, its output."""

    seconds: float
    anonymous_peak: int
    output: str


def run(command: list[str]) -> Run:
    """Run `command` to its end, sampling /proc for RssAnon. Raises SystemExit with its output when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return Run(seconds, peak[0], output)


def _watch(process: "subprocess.Popen[str]", peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], anonymous(process.pid))
        time.sleep(INTERVAL_S)


def anonymous(pid: int) -> int:
    """Bytes of anonymous memory that a process holds now; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)
