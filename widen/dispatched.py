"""Who does the work of a merge: this process's lanes, or units handed out to others, whose fragments are gathered."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from widen.checkpoint import Checkpoint
from widen.digests import DigestCache, Fingerprint
from widen.engine import Engine
from widen.errors import EnvironmentFault
from widen.manifest import MergedTensor, ReuseRecord
from widen.output import Files, Written, link_files, with_index, write_output
from widen.plan import MergePlan, TensorPlan
from widen.remote.outbox import read_record, send_files
from widen.remote.store import Store
from widen.reuse import DAMAGED, Reuse
from widen.units import Fragment, Job, Unit, plan_digest
from widen.workbench import Resources

Done = Callable[[Unit, Fragment], None]
Require = Callable[[Unit, Fragment, Written], None]
"""Raises EnvironmentFault where a unit's file is not what it says, as far as this process sees."""
Dispatch = Callable[[Sequence[Unit], Done], None]
"""Has every unit done somewhere, and tells each with its fragment as it is done, in any order."""


class Workers(Protocol):
    """Who reads the inputs and writes the output's files."""

    def name_inputs(self, plan: MergePlan) -> None:
        """Know every input tensor's digest."""

    def hash_files(self, plan: MergePlan, files: DigestCache) -> None:
        """Know the SHA-256 of every input's weight files, if that is worth while before they are asked for."""

    def write(self, plan: MergePlan, reuse: Reuse, folder: Path) -> Written:
        """Fill `folder` with the plan's weight files."""

    def send(self, plan: MergePlan, reuse: Reuse, files: Files, store: Store) -> list[Written]:
        """Put some of the plan's weight files into a folder in a storage, which this process has claimed."""


@dataclass(frozen=True)
class Lanes:
    """The engine of this process."""

    engine: Engine
    resources: Resources

    def name_inputs(self, plan: MergePlan) -> None:
        """Read what is not known."""
        self.engine.name_inputs(plan)

    def hash_files(self, plan: MergePlan, files: DigestCache) -> None:
        """They are hashed when they are described."""

    def write(self, plan: MergePlan, reuse: Reuse, folder: Path) -> Written:
        """Raises InputsRefused for inputs that are not finite."""
        return write_output(plan, self.engine, reuse, folder)

    def send(self, plan: MergePlan, reuse: Reuse, files: Files, store: Store) -> list[Written]:
        """Raises as `send_files` does."""
        return [send_files(plan, self.engine, reuse, files, store, self.resources.remote)]


@dataclass(frozen=True)
class Units:
    """Processes elsewhere, by `dispatch`. `engine` is this process's, for what is too small to send.

    resources: of each unit. A failed unit fails the merge with what it raised. warned: what was told of nodes.
    """

    engine: Engine
    dispatch: Dispatch
    resources: Resources
    warned: set[str] = field(default_factory=set)

    def name_inputs(self, plan: MergePlan) -> None:
        """By units of the output files for which anything is unknown."""
        known = self.engine.contents.known
        unknown = [name for name, part in plan.files.items() if any(known(*side) is None for side in _sides(part))]
        if not unknown:
            return
        job = self._job(plan)
        units = [Unit("name", job, name, _size(plan, name)) for name in unknown]
        self._hand_out("read inputs", units, partial(self._learn, plan))

    def hash_files(self, plan: MergePlan, files: DigestCache) -> None:
        """By a unit a file; those in a storage when they are described."""
        weights = [checkpoint.file(shard) for checkpoint in plan.inputs for shard in checkpoint.shards]
        paths = [file for file in weights if isinstance(file, Path) and files.get(file) is None]
        unknown = {str(path): Fingerprint.of(path) for path in paths}
        if not unknown:
            return
        job = self._job(plan)
        units = [Unit("hash", job, path, fingerprint.size) for path, fingerprint in unknown.items()]

        def done(unit: Unit, fragment: Fragment) -> None:
            files.put(Path(unit.file), unknown[unit.file], fragment.files[unit.file])

        self._hand_out("hash input files", units, done)

    def write(self, plan: MergePlan, reuse: Reuse, folder: Path) -> Written:
        """What is taken over whole is linked here; every other file is a unit."""
        linked = link_files(plan, self.engine, reuse, folder)
        rest = {name: part for name, part in plan.files.items() if name not in linked.files}
        made = self._made(plan, reuse, rest, str(folder), _require_here)
        return with_index(plan, folder, together(plan, [linked, *made]))

    def send(self, plan: MergePlan, reuse: Reuse, files: Files, store: Store) -> list[Written]:
        """Every file is a unit, which sends it from its own node."""
        return self._made(plan, reuse, files, store.url, partial(_require_sent, store))

    def _made(self, plan: MergePlan, reuse: Reuse, files: Files, folder: str, require: Require) -> list[Written]:
        job, parts = self._job(plan), list[Written]()
        units = [
            Unit("merge", job, name, _size(plan, name), folder, _reuse_of(part, reuse)) for name, part in files.items()
        ]

        def done(unit: Unit, fragment: Fragment) -> None:
            self._learn(plan, unit, fragment)
            assert fragment.written is not None
            require(unit, fragment, fragment.written)
            parts.append(fragment.written)

        self._hand_out("merge", units, done)
        return parts

    def _job(self, plan: MergePlan) -> Job:
        sources = tuple((one.name, one.place) for one in plan.inputs)
        return Job(sources, plan.settings, plan_digest(plan), self.resources)

    def _hand_out(self, label: str, units: Sequence[Unit], done: Done) -> None:
        if not units:
            return
        progress, where = self.engine.progress, Counter[str]()
        work: dict[str, float] = defaultdict(float)
        with progress.stage(label, sum(unit.size for unit in units)) as advance:

            def ended(unit: Unit, fragment: Fragment) -> None:
                self._warn(fragment)
                done(unit, fragment)
                where[fragment.node] += 1
                work[fragment.node] += fragment.seconds
                advance(unit.size)

            self.dispatch(units, ended)
        told = (f"{node} {count} units, {work[node]:.1f} s of work" for node, count in sorted(where.items()))
        progress.note(f"{label}: {'; '.join(told)}")

    def _warn(self, fragment: Fragment) -> None:
        """Once a node and trouble, however many of its units have it."""
        if fragment.warning and fragment.warning not in self.warned:
            self.warned.add(fragment.warning)
            self.engine.progress.note(f"warning: {fragment.warning}")

    def _learn(self, plan: MergePlan, unit: Unit, fragment: Fragment) -> None:
        for tensor in plan.files[unit.file]:
            for side, digest in zip(tensor.sides, fragment.digests[tensor.name], strict=True):
                self.engine.contents.learn(*side, digest)


def _sides(part: Sequence[TensorPlan]) -> Iterator[tuple[Checkpoint, str]]:
    return (side for tensor in part for side in tensor.sides)


def _size(plan: MergePlan, name: str) -> int:
    return sum(tensor.read_bytes for tensor in plan.files[name])


def _reuse_of(part: Sequence[TensorPlan], reuse: Reuse) -> Reuse:
    """What of it concerns these tensors; those of a file that was found damaged are computed for that reason."""
    names = [tensor.name for tensor in part]
    copies = {name: reuse.copies[name] for name in names if name in reuse.copies}
    return Reuse({}, copies, {name: reuse.reasons.get(name, DAMAGED) for name in names})


def _require_here(unit: Unit, fragment: Fragment, written: Written) -> None:
    path, expected = Path(unit.folder) / unit.file, written.files[unit.file].size
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        told = "no file" if found is None else f"{found} bytes"
        raise EnvironmentFault(
            f"{fragment.node} wrote {unit.file}, {expected} bytes, and here is {told}; the output's folder "
            f"{Path(unit.folder).parent} must be one that all nodes share"
        )


def _require_sent(store: Store, unit: Unit, fragment: Fragment, written: Written) -> None:
    expected, found = written.files[unit.file], read_record(store, unit.file)
    if found is None or found.digest != expected:
        told = "has no whole file of that name" if found is None else "has another file of that name"
        raise EnvironmentFault(
            f"{fragment.node} sent {unit.file}, {expected.size} bytes, and {store} {told} for this machine; every node "
            "needs the same storage: compare AWS_ENDPOINT_URL and AWS_PROFILE there and here, then run again"
        )


def together(plan: MergePlan, parts: Sequence[Written]) -> Written:
    """What several wrote, as one."""
    tensors: dict[str, MergedTensor] = {name: one for part in parts for name, one in part.tensors.items()}
    files = {name: one for part in parts for name, one in part.files.items()}
    computed: dict[str, list[str]] = {}
    for part in parts:
        for reason, names in part.reuse.computed.items():
            computed.setdefault(reason, []).extend(names)
    ordered = {one.name: tensors[one.name] for part in plan.files.values() for one in part}
    reused = sum(part.reuse.reused for part in parts)
    reasons: Mapping[str, list[str]] = {reason: sorted(names) for reason, names in sorted(computed.items())}
    return Written(ordered, dict(sorted(files.items())), ReuseRecord(reused, reasons))


def workers(engine: Engine, dispatch: Dispatch | None, resources: Resources) -> Workers:
    """This process's lanes, unless there is somebody to dispatch units to."""
    return Lanes(engine, resources) if dispatch is None else Units(engine, dispatch, resources)


def here(resources: Resources, dispatch: Dispatch | None) -> Resources:
    """What this process itself may use: a coordinator needs no GPU."""
    return resources if dispatch is None else replace(resources, device="cpu")
