"""What handing a merge out costs on one machine beyond the start: Ray's or Dask's workers beside one process.

    python -m bench.runner_overhead [--folder bench-data] [--size 1.78b] [--runner ray] [--rounds 3]

A round is a merge of next to no bytes and one of SIZE, each by one process with all processors and by as many workers
of one processor each; in every other round the workers come first. The small merge has three units, so that two workers
have begun in it: what the other takes beyond it is held against the same of the process. Prints a table of the rounds.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.calibration import SMALLEST, Place, Way
from bench.machine import machine
from bench.sizes import SIZES

FEW_UNITS = "150KB"
HEAD = (
    "| round | one process, s | beyond its start | workers, s | beyond their start | overhead | processors left |\n"
    "|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Pair:
    """Seconds of a small and a large merge, by one way. left: processors that other programs did not use."""

    small: float
    large: float
    left: float

    @property
    def net(self) -> float:
        """Beyond the start."""
        return self.large - self.small


def main() -> None:
    """Measure, print."""
    asked = _asked()
    place = Place(asked.folder.resolve(), len(os.sched_getaffinity(0)))
    ways = [Way("local", place.processors), Way(asked.runner, place.processors)]
    print(f"{machine(place.folder)}\n{asked.size}: {', '.join(map(str, ways))}\n{HEAD}", flush=True)
    overheads = []
    for number in range(1, asked.rounds + 1):
        order = ways if number % 2 else ways[::-1]
        found = {way.runner: _pair(place, asked.size, way) for way in order}
        own, workers = found["local"], found[asked.runner]
        overheads.append(workers.net / own.net - 1)
        times = f"{own.large:.2f} | {own.net:.2f} | {workers.large:.2f} | {workers.net:.2f}"
        left = min(own.left, workers.left)
        print(f"| {number} | {times} | {overheads[-1]:+.1%} | {left:.2f} |", flush=True)
    print(f"median {median(overheads):+.1%}, from {min(overheads):+.1%} to {max(overheads):+.1%}")


def _pair(place: Place, size: str, way: Way) -> Pair:
    small = place.measure(SMALLEST, way, ["--shard-size", FEW_UNITS])
    large = place.measure(size, way)
    return Pair(small.seconds, large.seconds, min(small.left, large.left))


def _asked() -> argparse.Namespace:
    told = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.runner_overhead", description=told)
    parser.add_argument("--folder", type=Path, default=Path("bench-data"))
    parser.add_argument("--size", choices=SIZES, default="1.78b")
    parser.add_argument("--runner", choices=("ray", "dask"), default="ray")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
