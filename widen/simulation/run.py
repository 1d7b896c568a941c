"""A merge's units on a cluster, played through: each goes to the first worker that is free, in order."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from widen.errors import RecipeError
from widen.output import FINISHERS
from widen.simulation.cluster import Cluster
from widen.simulation.demand import OF_A_NODE, OF_ALL, START, TAIL, Stage, capacity, stages_of, starting
from widen.simulation.fluid import Floats, Integers, shares
from widen.simulation.work import MergeWork, Work

WIDTH = len(OF_A_NODE) + len(OF_ALL)
DONE = 1e-9


@dataclass(frozen=True)
class Outcome:
    """How a merge would go. read, written: bytes, also of units that were done twice; again: of those, what was read
    for nothing. waits: seconds that workers spent, summed over them, by what held them back.
    """

    seconds: float
    read: int
    written: int
    again: int
    workers: int
    waits: Mapping[str, float]

    @property
    def bound(self) -> str:
        """What held the workers back for most of the time."""
        return max(self.waits, key=lambda name: self.waits[name], default="nothing")


def play(merge: MergeWork, cluster: Cluster) -> Outcome:
    """Play it through. Raises RecipeError where every node is lost before the end."""
    return _Play(merge, cluster).outcome()


@dataclass
class _Job:
    """What a worker does now: the first of its stages, of which a share is left."""

    worker: int
    node: int
    work: Work | None
    stages: deque[Stage]
    left: float = 1.0
    read: float = 0.0
    written: float = 0.0
    rate: float = 0.0
    name: str = ""
    places: Integers = field(default_factory=lambda: np.zeros(WIDTH, np.int64))
    uses: Floats = field(default_factory=lambda: np.zeros(WIDTH))


class _Play:
    def __init__(self, merge: MergeWork, cluster: Cluster) -> None:
        self._cluster, self._nodes = cluster, cluster.ordered
        self._phases = deque(deque(phase) for phase in (merge.hashes, merge.files) if phase)
        self._workers = cluster.workers
        self._free: list[int] = []
        self._behind: deque[_Job] = deque()
        self._now, self._read, self._written, self._again = cluster.rates.start, 0.0, 0.0, 0.0
        self._waits: dict[str, float] = {START: self._now * len(self._workers)}
        self._jobs = [_Job(worker, node, None, deque(starting(cluster))) for worker, node in enumerate(self._workers)]
        self._gone: set[int] = set()
        table = [[capacity(name, node, cluster.storage) for name in OF_A_NODE] for node in self._nodes]
        shared = [cluster.storage.read, cluster.storage.write]
        self._capacities = np.array([value for row in table for value in row] + shared)

    def outcome(self) -> Outcome:
        """The end of it."""
        for job in list(self._jobs):
            self._begin(job)
        while self._step():
            pass
        read, written, again = round(self._read), round(self._written), round(self._again)
        return Outcome(self._now, read, written, again, len(self._workers), self._waits)

    def _step(self) -> bool:
        """To the next moment at which anything begins, ends or is lost; whether there is one."""
        self._lose()
        self._assign()
        if not self._jobs:
            if self._phases and self._phases[0]:
                raise RecipeError("every node is lost before the merge is done; keep one longer")
            return False
        share, held = shares(
            np.stack([job.places for job in self._jobs]), np.stack([job.uses for job in self._jobs]), self._capacities
        )
        rates = share * np.array([job.rate for job in self._jobs])
        left = np.array([job.left for job in self._jobs])
        step = min(float((left / rates).min()), self._next_loss() - self._now)
        self._wait(step, held)
        self._advance(step, rates)
        return True

    def _assign(self) -> None:
        """Units to free workers, in order; the next phase begins when all of the last one is done."""
        while len(self._phases) > 1 and not self._phases[0] and all(job.work is None for job in self._jobs):
            self._phases.popleft()
        queue = self._phases[0] if self._phases else deque[Work]()
        for worker in sorted(self._free):
            if not queue:
                return
            self._free.remove(worker)
            work = queue.popleft()
            job = _Job(worker, self._workers[worker], work, deque(stages_of(work, self._cluster)))
            self._jobs.append(job)
            self._begin(job)

    def _begin(self, job: _Job) -> None:
        """The next of its stages that takes any time; without one the job is done."""
        node, storage = self._nodes[job.node], self._cluster.storage
        while job.stages:
            stage = job.stages[0]
            seconds, job.name = stage.seconds(node, storage)
            if seconds > 0:
                job.left, job.rate = 1.0, 1.0 / seconds
                self._place(job, stage)
                return
            job.stages.popleft()
        self._jobs.remove(job)
        if job.worker >= 0:
            self._free.append(job.worker)
        self._follow()

    def _place(self, job: _Job, stage: Stage) -> None:
        shared = len(OF_A_NODE) * len(self._nodes)
        job.places, job.uses = np.zeros(WIDTH, np.int64), np.zeros(WIDTH)
        for number, (name, value) in enumerate(stage.uses.items()):
            own = name in OF_A_NODE
            place = job.node * len(OF_A_NODE) + OF_A_NODE.index(name) if own else shared + OF_ALL.index(name)
            job.places[number], job.uses[number] = place, value * job.rate

    def _wait(self, step: float, held: Integers) -> None:
        for job, place in zip(self._jobs, held, strict=True):
            name = job.name if place < 0 else self._name(int(place))
            self._waits[name] = self._waits.get(name, 0.0) + step
        if self._free:
            self._waits[TAIL] = self._waits.get(TAIL, 0.0) + step * len(self._free)

    def _name(self, place: int) -> str:
        shared = len(OF_A_NODE) * len(self._nodes)
        return OF_A_NODE[place % len(OF_A_NODE)] if place < shared else OF_ALL[place - shared]

    def _advance(self, step: float, rates: Floats) -> None:
        self._now += step
        for job, rate in list(zip(self._jobs, rates, strict=True)):
            moved, stage = min(job.left, float(rate) * step), job.stages[0]
            if job.left - moved <= DONE:
                moved = job.left
            job.left -= moved
            job.read, job.written = job.read + moved * stage.read, job.written + moved * stage.written
            self._read, self._written = self._read + moved * stage.read, self._written + moved * stage.written
            if job.left == 0.0:
                job.stages.popleft()
                self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        """With its next stage; a process alone finishes a file behind its lanes, which take the next one."""
        if self._cluster.alone and job.work is not None and job.worker >= 0 and not job.work.hashed:
            self._jobs.remove(job)
            self._free.append(job.worker)
            job.worker = -1
            self._behind.append(job)
            self._follow()
        else:
            self._begin(job)

    def _follow(self) -> None:
        while self._behind and sum(job.worker < 0 for job in self._jobs) < FINISHERS:
            job = self._behind.popleft()
            self._jobs.append(job)
            self._begin(job)

    def _next_loss(self) -> float:
        return min((one.lost for number, one in enumerate(self._nodes) if number not in self._gone), default=inf)

    def _lose(self) -> None:
        """Nodes whose time has come: what they were at is done again by others, last of all."""
        for number, node in enumerate(self._nodes):
            if number in self._gone or node.lost > self._now + DONE:
                continue
            self._gone.add(number)
            self._free = [worker for worker in self._free if self._workers[worker] != number]
            for job in [job for job in self._jobs if job.node == number]:
                self._jobs.remove(job)
                self._again += job.read
                if job.work is not None and self._phases:
                    self._phases[0].append(job.work)


def bounds(merge: MergeWork, cluster: Cluster) -> float:
    """Seconds that no order of units could beat: all that is used of the storage and of all nodes together, and the
    longest unit on the node that suits it best.
    """
    units: Sequence[Sequence[Stage]] = [stages_of(work, cluster) for work in (*merge.hashes, *merge.files)]
    stages = [stage for unit in units for stage in unit]
    least = 0.0
    for name in (*OF_A_NODE, *OF_ALL):
        used = sum(stage.uses.get(name, 0.0) for stage in stages)
        each = [capacity(name, node, cluster.storage) for node in cluster.nodes]
        whole = sum(each) if name in OF_A_NODE else each[0]
        least = max(least, used / whole if used else 0.0)
    kinds = set(cluster.nodes)
    longest = (min(sum(stage.seconds(node, cluster.storage)[0] for stage in unit) for node in kinds) for unit in units)
    return max(least, *longest)
