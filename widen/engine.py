"""The stream over a plan: tensors in flight on the backend's lanes, bytes read ahead of them, memory kept in budget.

A lane takes one tensor through both passes on one read: name its inputs, measure what is not known, weigh, combine,
hash, write. Lanes run side by side, so one reads or writes while another computes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from widen.backend import Backend, Resident
from widen.checkpoint import Side
from widen.checks import Problem
from widen.contents import Contents
from widen.geometry import ColumnSums
from widen.memory import MemoryBudget
from widen.operands import TensorOperands
from widen.plan import MergePlan, TensorPlan
from widen.profile import Profile
from widen.progress import Progress
from widen.readahead import Readahead
from widen.settings import Settings
from widen.statistics import Measured, StatisticsStore, finiteness_problems

T = TypeVar("T")
Block = NDArray[np.unsignedinteger]
Write = Callable[[int, Block], None]
COLUMN_BYTES, LANE_BYTES = 176, 4 << 20
"""Memory of one tensor in a lane: bytes for each column of each model (sums, ranks, weights), and for blocks."""


def memory_of(tensor: TensorPlan) -> int:
    """Bytes of memory that a lane needs for one tensor; its weights stay in the page cache."""
    return len(tensor.models) * tensor.geometry.batch * tensor.geometry.columns * COLUMN_BYTES + LANE_BYTES


class NotFinite(Exception):
    """A tensor that holds a NaN or an infinity; `problems` says where. Stays inside the library."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__()
        self.problems = problems


@dataclass(frozen=True)
class Engine:
    """What the lanes share: the device, the budget, what is known of the inputs, and who wants to hear about it."""

    backend: Backend
    budget: MemoryBudget
    contents: Contents
    store: StatisticsStore
    progress: Progress
    profile: Profile = field(default_factory=Profile)

    def over_tensors(
        self,
        label: str,
        tensors: Sequence[TensorPlan],
        reads: Callable[[TensorPlan], Sequence[Side]],
        work: Callable[[TensorPlan], T],
        on_failure: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """Run `work` on every tensor, as many at a time as there are lanes; the results in order.

        reads: what the work on a tensor needs the bytes of; they are read ahead. on_failure: called as soon as one
        failed, so that none of the others waits for it.
        """
        groups = [reads(tensor) for tensor in tensors]
        sizes = [sum(side.size for side in group) for group in groups]
        with (
            self.progress.stage(label, sum(sizes)) as advance,
            Readahead(groups, self.profile) as ahead,
            ThreadPoolExecutor(self.backend.lanes, thread_name_prefix="widen-lane") as lanes,
        ):

            def run(number: int) -> T:
                ahead.begin(number)
                try:
                    return work(tensors[number])
                finally:
                    ahead.end(number)

            futures = {lanes.submit(run, number): number for number in range(len(tensors))}
            try:
                for future in as_completed(futures):
                    future.result()
                    advance(sizes[futures[future]])
            except BaseException:
                on_failure()
                lanes.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def name_inputs(self, plan: MergePlan) -> None:
        """Know every input tensor's digest."""
        unknown = [tensor for tensor in plan.tensors if self._unnamed(tensor)]
        if unknown:
            self.over_tensors("read inputs", unknown, self._unnamed, self._name)

    def measure(self, tensor: TensorPlan) -> list[Measured]:
        """Pass 1 of one tensor, every model against the base, from the store where it is known."""
        with self._resident(tensor) as resident:
            return self._measure(tensor, resident)

    def recall(self, tensor: TensorPlan) -> list[Measured] | None:
        """What `measure` would return, if all of it is known without reading a weight."""
        if self._unnamed(tensor):
            return None
        keys = [self.store.key(tensor, self.contents, model) for model in tensor.models]
        found = [self.store.known(tensor, key) for key in keys]
        return None if None in found else [one for one in found if one is not None]

    def merge(self, settings: Settings, tensor: TensorPlan, write: Write) -> str:
        """Both passes of one tensor; `write` takes the merged bits with their place in bytes. Returns their SHA-256.

        Raises NotFinite instead of combining what holds a NaN or an infinity.
        """
        with self._resident(tensor) as resident:
            measured = self._measure(tensor, resident)
            if problems := finiteness_problems(tensor, measured):
                raise NotFinite(problems)
            return self._combine(settings, tensor, resident, measured, write)

    @contextmanager
    def _resident(self, tensor: TensorPlan) -> Iterator[Resident]:
        with self.budget.hold(memory_of(tensor)):
            self._name(tensor)
            base, *models = (side.tensor() for side in tensor.sides)
            with self.backend.resident(base, models, tensor.geometry) as resident:
                yield resident

    def _unnamed(self, tensor: TensorPlan) -> list[Side]:
        return [side for side in tensor.sides if self.contents.known(*side) is None]

    def _name(self, tensor: TensorPlan) -> None:
        unknown = self._unnamed(tensor)
        with self.profile.stage("hash inputs", sum(side.size for side in unknown)):
            for side in unknown:
                self.contents.of(*side)

    def _measure(self, tensor: TensorPlan, resident: Resident) -> list[Measured]:
        found = []
        for number, model in enumerate(tensor.models):
            key = self.store.key(tensor, self.contents, model)
            size = tensor.base.size + model.size
            found.append(self.store.take(tensor, key, model, partial(self._sums, resident, number, size)))
        return found

    def _sums(self, resident: Resident, number: int, size: int) -> ColumnSums:
        with self.profile.stage("measure", size):
            return resident.measure(number)

    def _combine(
        self, settings: Settings, tensor: TensorPlan, resident: Resident, measured: Sequence[Measured], write: Write
    ) -> str:
        digest, done, profile = hashlib.sha256(), 0, self.profile
        if tensor.geometry.elements == 0:
            return digest.hexdigest()
        with profile.stage("weigh"):
            operands = TensorOperands(settings, tensor, resident, [one.sums for one in measured])
            combination = settings.definition.call(operands, tensor.arguments)
        blocks = iter(resident.combine(combination, tensor.out_type))
        while (block := self._next(blocks)) is not None:
            with profile.stage("hash outputs", block.nbytes):
                digest.update(block.data)
            with profile.stage("write", block.nbytes):
                write(done, block)
            done += block.nbytes
        return digest.hexdigest()

    def _next(self, blocks: Iterator[Block]) -> Block | None:
        with self.profile.stage("combine") as moved:
            block = next(blocks, None)
            moved(0 if block is None else block.nbytes)
            return block
