"""What a simulation must know of this machine, from merges of small models: rates, and what starting costs."""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import yaml

from bench.measure import run
from bench.models import WEIGHTS_FILE, generate
from bench.sizes import SIZES
from bench.steady import warm
from widen.outlook import RATES_FILE
from widen.simulation.cluster import Cluster, Node, Rates, Storage, UnitShare
from widen.simulation.demand import processor_seconds
from widen.simulation.run import play
from widen.simulation.work import MergeWork, work_of_shapes

SMALLEST = "tiny"
MANY_UNITS = "64KB"
IN_MEMORY = 1e12
"""Bytes a second of a disk that is not waited for: the inputs lie in the page cache."""


@dataclass(frozen=True)
class Way:
    """How a merge is done here: by a process's own lanes, or by units on a runner. count: of threads, or of workers."""

    runner: str
    count: int

    def __str__(self) -> str:
        return f"{self.count} {'threads' if self.runner == 'local' else 'workers, ' + self.runner}"

    def arguments(self, processors: int) -> list[str]:
        """Of `widen merge`. Workers share the processors among them."""
        if self.runner == "local":
            return ["--threads", str(self.count)]
        return ["--runner", self.runner, "--unit", f"cpus={processors // self.count}"]


@dataclass(frozen=True)
class Merge:
    """A merge that was measured. left: processors that other programs did not use meanwhile. rates: that it left."""

    seconds: float
    cpu_seconds: float
    left: float
    rates: Mapping[str, float]
    output: str


@dataclass(frozen=True)
class Place:
    """Where the models and the outputs lie."""

    folder: Path
    processors: int

    def measure(self, size: str, way: Way, more: Sequence[str] = ()) -> "Merge":
        """A first merge of models of this size, the inputs in the page cache."""
        inputs = generate(self.folder / size / "models", SIZES[size])
        out, cache, recipe = (self.folder / "simulation" / name for name in ("out", "cache", f"{size}.yaml"))
        for path in (out, cache):
            shutil.rmtree(path, ignore_errors=True)
        cache.mkdir(parents=True)
        base, *models = (str(path.resolve()) for path in inputs.values())
        content = {"merge_method": "widen", "base_model": base, "models": [{"model": model} for model in models]}
        recipe.write_text(yaml.safe_dump(content))
        warm([path / WEIGHTS_FILE for path in inputs.values()], self.folder)
        command = [sys.executable, "-m", "flows", "merge", str(recipe), "--out", str(out), "--cache", str(cache)]
        before = _busy_seconds()
        done = run([*command, "--device", "cpu", *way.arguments(self.processors), *more])
        own = max(done.cpu_seconds, done.family_seconds)
        others = max(0.0, _busy_seconds() - before - own) / done.seconds
        rates = cache / RATES_FILE
        told = json.loads(rates.read_bytes()) if rates.exists() else {}
        return Merge(done.seconds, own, self.processors - others, told, done.output)

    def disk(self, size: str) -> float:
        """Bytes a second that a merge brings to the disk, from its profile."""
        picture = self.folder / "simulation" / "profile.svg"
        told = self.measure(size, Way("local", self.processors), ["--profile", str(picture)]).output
        (line,) = re.findall(r"^write to disk +(.*)$", told, re.MULTILINE)
        seconds, *_, gigabytes, _ = line.split()
        return 1e9 * float(gigabytes) / max(float(seconds), 0.01)


@dataclass(frozen=True)
class Round:
    """One round of what is calibrated on: tiny and small merges by one thread and by all, tiny ones by workers."""

    disk: float
    one: Merge
    all: Merge
    tiny: Merge
    workers: Mapping[Way, tuple[Merge, Merge]]


def calibrating_round(place: Place, size: str, ways: Sequence[Way]) -> Round:
    """Measure. ways: of workers alone."""
    alone = Way("local", 1)
    tiny, one = place.measure(SMALLEST, alone), place.measure(size, alone)
    every = place.measure(size, Way("local", place.processors))
    few = {way: place.measure(SMALLEST, way) for way in ways}
    many = {way: place.measure(SMALLEST, way, ["--shard-size", MANY_UNITS]) for way in ways}
    return Round(place.disk(size), one, every, tiny, {way: (few[way], many[way]) for way in ways})


@dataclass(frozen=True)
class Calibration:
    """The machine as the simulation sees it. starts: seconds until the first unit, and of each unit, by way."""

    node: Node
    rates: Rates
    starts: Mapping[Way, tuple[float, float]]

    def cluster(self, way: Way, left: float) -> Cluster:
        """This machine as a cluster of one node, of which other programs leave so many processors."""
        cpus = self.node.cpus
        node = replace(self.node, scaling=self.node.scaling * max(0.05, min(1.0, left / cpus)))
        if way.runner == "local":
            return Cluster((node,), UnitShare(way.count), Storage(), self.rates, "disk", "disk", alone=True)
        start, unit = self.starts[way]
        rates = replace(self.rates, start=start, unit=unit)
        return Cluster((node,), UnitShare(cpus // way.count), Storage(), rates, "disk", "disk")

    def seconds(self, size: str, way: Way, left: float) -> float:
        """What a merge of models of this size should take where others leave so many processors."""
        return play(bench_work(size), self.cluster(way, left)).seconds


def bench_work(size: str, shard_bytes: int | None = None) -> MergeWork:
    """Of the generated models: a base and two others."""
    return work_of_shapes(SIZES[size].shapes(), 2, 2, shard_bytes)


def calibrated(rounds: Sequence[Round], size: str, processors: int) -> Calibration:
    """Medians over the rounds. A tensor's share is what processors did beside the stages that tell their rates; scaling
    is how much less processor time one thread alone takes for the same bytes.
    """
    stages = {name: median(one.one.rates[name] for one in rounds) for name in rounds[0].one.rates}
    work, start = bench_work(size), median(one.tiny.seconds for one in rounds)
    spent = [(one.one.cpu_seconds - one.tiny.cpu_seconds, one.all.cpu_seconds - one.tiny.cpu_seconds) for one in rounds]
    alone, together = median(one for one, _ in spent), median(every for _, every in spent)
    bare = Cluster((Node(cpus=processors),), UnitShare(1), rates=Rates(stages, tensor=0.0), alone=True)
    told = sum(processor_seconds(one, bare) + one.read / stages["read"] for one in work.files)
    told += work.write / stages["hash files"]
    tensor = max(0.0, alone - told) / sum(len(one.tensors) for one in work.files)
    disk = median(one.disk for one in rounds)
    node = Node(cpus=processors, read=IN_MEMORY, write=disk, scaling=min(1.0, max(0.4, alone / together)))
    starts = {way: _starts([one.workers[way] for one in rounds], way) for way in rounds[0].workers}
    return Calibration(node, Rates(stages, tensor, start), starts)


def _starts(pairs: Sequence[tuple[Merge, Merge]], way: Way) -> tuple[float, float]:
    """From tiny models in one unit and in many: what is there once, and what comes with each unit."""
    few, many = len(bench_work(SMALLEST).files), len(bench_work(SMALLEST, 64_000).files)
    more = median(many_units.seconds - few_units.seconds for few_units, many_units in pairs)
    unit = max(0.0, more) * way.count / (many - few)
    return max(0.0, median(few_units.seconds for few_units, _ in pairs) - unit), unit


def _busy_seconds() -> float:
    """Processor seconds that this machine has spent on anything, and those that its host gave to others."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle, waiting = fields[3:5]
    return (sum(fields) - idle - waiting) / os.sysconf("SC_CLK_TCK")
