"""The measuring: floor and entrants in turn, round after round, on the same warm files."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.entrants import Entrant, Workplace
from bench.floor import measure_floor, read_through
from bench.measure import run

START = Path(__file__).with_name("start.py")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "PYTHONDONTWRITEBYTECODE": "",
}  # fmt: skip
"""Nobody asks the network; and compiled Python is kept, as is the default, also where the bench's caller does not."""
Sample = dict[str, float]
Round = dict[str, Sample]


def choose(entrants: Sequence[Entrant], only: Sequence[str]) -> list[Entrant]:
    """The entrants whose names begin with one of the words, and those that they need; all without a word.

    Raises SystemExit for a word with which no name begins.
    """
    names = [one.name for one in entrants]
    for word in only:
        if not any(name.startswith(word) for name in names):
            sys.exit(f"--only {word}: expected the beginning of {', '.join(names)}; found none")
    wanted = {one.name for one in entrants if not only or any(one.name.startswith(word) for word in only)}
    wanted |= {name for one in entrants if one.name in wanted for name in one.needs}
    return [one for one in entrants if one.name in wanted]


def record_starts(place: Workplace, entrants: Sequence[Entrant], lists: Path) -> None:
    """Run one entrant of each start, on models of no size, and keep the list of what it imported.

    It also brings every program into the page cache, and compiles what is compiled once.
    """
    lists.mkdir(parents=True, exist_ok=True)
    place.remove(place.folder / "out")
    first_of = {one.start: one for one in reversed(entrants)}
    for one in entrants:
        if one is first_of[one.start]:
            _prepare(one)
            target = str(lists / one.start)
            run([one.python, "-P", str(START), "record", target, one.module, *one.arguments], ENVIRONMENT)
    place.remove(place.folder / "out")


def measure_round(place: Workplace, entrants: Sequence[Entrant], lists: Path) -> Round:
    """One of each: the floor, every entrant, and every start."""
    place.remove(place.folder / "out")
    place.put_tuned()
    found = {"floor": _floor(place)}
    _say("floor", found["floor"])
    starts: dict[str, float] = {}
    for one in entrants:
        if one.start not in starts:
            starts[one.start] = _start(one, lists / one.start)
        found[one.name] = _entrant(place, one) | {"start": starts[one.start]}
        _say(one.name, found[one.name])
    place.remove(place.folder / "out")
    return found


def _floor(place: Workplace) -> Sample:
    weights = place.weights()
    read_through(weights)
    os.sync()
    floor = measure_floor(weights, place.folder / "floor.bin", weights[0].stat().st_size)
    return asdict(floor) | {"seconds": floor.seconds}


def _start(one: Entrant, modules: Path) -> float:
    os.sync()
    return run([one.python, "-P", str(START), "load", str(modules)], ENVIRONMENT).seconds


def _entrant(place: Workplace, one: Entrant) -> Sample:
    """Inputs are read beforehand, and what others left to be written is written, so that nobody pays for another."""
    _prepare(one)
    read_through(place.weights())
    os.sync()
    done = run(one.command, ENVIRONMENT)
    written = bfloat16_bytes(one.out)
    expected = bfloat16_bytes(place.inputs["base"])
    if written != expected:
        sys.exit(f"{one.name}: expected {expected} bytes of bfloat16 in {one.out}, found {written}")
    if not one.keeps:
        place.remove(one.out)
    return {"seconds": done.seconds, "cpu": done.cpu_seconds, "peak": float(done.anonymous_peak)}


def _prepare(one: Entrant) -> None:
    one.out.parent.mkdir(parents=True, exist_ok=True)
    one.prepare()


def _say(name: str, sample: Sample) -> None:
    print(f"  {name}: {sample['seconds']:.2f} s", file=sys.stderr)


def bfloat16_bytes(folder: Path) -> int:
    """Bytes of all bfloat16 tensors in a folder's safetensors files."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        entries = [entry for entry in header.values() if entry.get("dtype") == "BF16"]
        total += sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in entries)
    return total
