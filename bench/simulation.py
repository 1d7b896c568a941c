"""`widen simulate` held against merges here: calibrated on small models, then predicted and measured beside each other.

    python -m bench.simulation [--folder bench-data] [--calibrate 0.13b] [--sizes 0.43b 0.88b] [--threads 1 2]
    [--workers 1 2 --runner ray] [--rounds 3]

Each round measures everything once. Each prediction is made for the processors that other programs left while that
merge ran, so a shared machine may be used; a calm one tells more. Prints a table of medians, and leaves all figures in
FOLDER/simulation/result.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench.calibration import Calibration, Merge, Place, Way, calibrated, calibrating_round
from bench.machine import machine, versions
from bench.sizes import SIZES

HEAD = "| merge | predicted, s | measured, s (least to most) | error | processors left |\n|---|---|---|---|---|"
Found = Mapping[tuple[str, Way], Sequence[Merge]]


def main() -> None:
    """Calibrate, measure, predict, tell."""
    asked = _asked()
    place = Place(asked.folder.resolve(), len(os.sched_getaffinity(0)))
    workers = [Way(asked.runner, count) for count in asked.workers]
    ways = [Way("local", count) for count in asked.threads] + workers
    rounds, found = [], {(size, way): list[Merge]() for size in asked.sizes for way in ways}
    for number in range(1, asked.rounds + 1):
        print(f"round {number} of {asked.rounds}", file=sys.stderr)
        rounds.append(calibrating_round(place, asked.calibrate, workers))
        for (size, way), merges in found.items():
            merges.append(place.measure(size, way))
            print(f"  {size}, {way}: {merges[-1].seconds:.2f} s, {merges[-1].left:.2f} left", file=sys.stderr)
    calibration = calibrated(rounds, asked.calibrate, place.processors)
    print(_told(calibration), file=sys.stderr)
    print("\n".join([HEAD, *_lines(calibration, found)]))
    _keep(place.folder / "simulation" / "result.json", calibration, found)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.simulation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("bench-data"))
    parser.add_argument("--calibrate", choices=SIZES, default="0.13b", help="what the simulation may know")
    parser.add_argument("--sizes", choices=SIZES, nargs="+", default=["0.43b", "0.88b"], help="what it predicts")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="of one process")
    parser.add_argument("--workers", type=int, nargs="*", default=[], help="of a runner on this machine")
    parser.add_argument("--runner", choices=("ray", "dask"), default="ray")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _lines(calibration: Calibration, found: Found) -> Iterator[str]:
    for (size, way), merges in found.items():
        predicted = [calibration.seconds(size, way, one.left) for one in merges]
        seconds = [one.seconds for one in merges]
        error = median(told / measured - 1 for told, measured in zip(predicted, seconds, strict=True))
        spread = f"{median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        left = median(one.left for one in merges)
        yield f"| {size}, {way} | {median(predicted):.2f} | {spread} | {error:+.0%} | {left:.2f} |"


def _told(calibration: Calibration) -> str:
    node, rates = calibration.node, calibration.rates
    stages = ", ".join(f"{name} {rate / 1e9:.2f}" for name, rate in rates.stages.items())
    each = calibration.starts.items()
    starts = "".join(f"; {way}: start {start:.1f} s, unit {unit:.2f} s" for way, (start, unit) in each)
    return (
        f"calibrated: GB a second {stages}; disk {node.write / 1e9:.2f}; a tensor {1000 * rates.tensor:.1f} ms; start "
        f"{rates.start:.2f} s; {node.cpus} processors as {node.processors:.2f}{starts}"
    )


def _keep(path: Path, calibration: Calibration, found: Found) -> None:
    merges = [
        {
            "size": size,
            "way": str(way),
            "predicted": calibration.seconds(size, way, one.left),
            "measured": one.seconds,
            "left": one.left,
        }
        for (size, way), merges in found.items()
        for one in merges
    ]
    known = {"node": asdict(calibration.node) | {"lost": None}, "rates": asdict(calibration.rates)}
    starts = {str(way): each for way, each in calibration.starts.items()}
    result = {"machine": machine(path.parent), "versions": versions(), "calibration": known | {"starts": starts}}
    path.write_text(json.dumps(result | {"merges": merges}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
