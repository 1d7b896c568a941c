"""The files of a merge: taken over from earlier runs where they are the same, else written by the lanes."""

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Protocol

from widen.checkpoint import INDEX_FILE, Side
from widen.checks import Problem, refuse
from widen.digests import FileDigest, hash_file
from widen.engine import Engine, NotFinite
from widen.manifest import MergedTensor, ReuseRecord
from widen.plan import MergePlan, TensorPlan
from widen.reuse import DAMAGED, Copy, Finished, Reuse, key_of, record_finished
from widen.shards import ShardFile, index_of
from widen.staging import write_synced
from widen.statistics import finiteness_problems

Files = Mapping[str, Sequence[TensorPlan]]
FINISHERS = 2


@dataclass(frozen=True)
class Written:
    """What lies in the folder now: every merged tensor, every file's digest, and where the bytes came from."""

    tensors: Mapping[str, MergedTensor]
    files: Mapping[str, FileDigest]
    reuse: ReuseRecord


def write_output(plan: MergePlan, engine: Engine, reuse: Reuse, folder: Path) -> Written:
    """Fill `folder` with the plan's weight files. Raises InputsRefused for inputs that are not finite."""
    return with_index(plan, folder, write_files(plan, engine, reuse, folder, plan.files))


class Sink(Protocol):
    """Takes each file away as soon as it is whole, and bounds how many lie in the folder at once."""

    def begin(self, name: str) -> None:
        """A file is to be made: wait until it may lie there. Raises what went wrong with an earlier one."""

    def done(self, name: str, path: Path, finished: Finished) -> None:
        """It is whole, and no longer needed there."""

    def abandon(self) -> None:
        """No file begun is sure to be finished any more: nobody is to wait."""


def write_files(
    plan: MergePlan, engine: Engine, reuse: Reuse, folder: Path, files: Files, sink: Sink | None = None
) -> Written:
    """Fill `folder` with some of the plan's weight files, for `sink` to take them away, or to stay there.

    Raises InputsRefused for inputs that are not finite.
    """
    output = _Output(plan, engine, reuse, folder, files, sink)
    output.link_files()
    output.write_files()
    return output.written()


def link_files(plan: MergePlan, engine: Engine, reuse: Reuse, folder: Path) -> Written:
    """Take over the files that `reuse` links, as far as they are intact, and write none."""
    output = _Output(plan, engine, reuse, folder, plan.files)
    output.link_files()
    return output.written()


def with_index(plan: MergePlan, folder: Path, written: Written) -> Written:
    """The same, with the index of a model in several files."""
    if len(plan.files) == 1:
        return written
    slots = {name: [tensor.slot for tensor in part] for name, part in plan.files.items()}
    index = write_synced(folder / INDEX_FILE, index_of(slots))
    return replace(written, files=dict(sorted({**written.files, INDEX_FILE: index}.items())))


@dataclass
class _Open:
    """A file that lanes are writing, and how many of its tensors are still to come."""

    file: ShardFile
    missing: int


@dataclass
class _Output:
    plan: MergePlan
    engine: Engine
    reuse: Reuse
    folder: Path
    wanted: Files
    sink: Sink | None = None
    files: dict[str, FileDigest] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    opened: dict[str, _Open] = field(default_factory=dict)
    finishing: dict[Future[None], int] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    opening: Lock = field(default_factory=Lock)

    def link_files(self) -> None:
        """Take over whole files, each after its digest was verified."""
        links = self.reuse.links
        if not links:
            return
        with (
            self.engine.progress.stage("verify reused files", self.reuse.linked_bytes) as advance,
            ThreadPoolExecutor(self.engine.backend.lanes, thread_name_prefix="widen-verify") as pool,
        ):
            for size in pool.map(self._link, links, links.values()):
                advance(size)

    def _link(self, name: str, finished: Finished) -> int:
        with self.engine.profile.stage("verify reused", finished.digest.size):
            intact = finished.path.is_file() and hash_file(finished.path) == finished.digest
        if intact:
            _link_or_copy(finished.path, self.folder / name)
            self.files[name] = finished.digest
            self.sha256.update(finished.sha256)
        return finished.digest.size

    def write_files(self) -> None:
        """Write the other files, tensor by tensor, and finish each as soon as its last tensor is in it."""
        home = {one.name: name for name, part in self.wanted.items() if name not in self.files for one in part}
        tensors = [one for part in self.wanted.values() for one in part if one.name in home]
        try:
            with ThreadPoolExecutor(FINISHERS, thread_name_prefix="widen-finish") as finishers:
                if tensors:
                    self.engine.over_tensors(
                        "merge", tensors, self._reads, lambda one: self._write(one, home[one.name], finishers),
                        self._abandon,
                    )  # fmt: skip
                refuse(sorted(self.problems, key=lambda problem: (problem.model, str(problem.tensor))))
                self._wait()
        finally:  # once the finishers have ended: a descriptor closed under them may be another file's by then
            for one in self.opened.values():
                one.file.close()

    def _wait(self) -> None:
        """Until the last files are where they belong."""
        rest = sum(size for future, size in self.finishing.items() if not future.done())
        stage = self.engine.progress.stage("send the last files", rest) if self.sink else nullcontext(_ignore)
        with stage as told:
            for future, size in self.finishing.items():
                is_last = not future.done()
                future.result()
                told(size if is_last else 0)

    def _abandon(self) -> None:
        if self.sink is not None:
            self.sink.abandon()

    def _reads(self, tensor: TensorPlan) -> Sequence[Side]:
        return () if tensor.name in self.reuse.copies else tensor.sides

    def _write(self, tensor: TensorPlan, name: str, finishers: ThreadPoolExecutor) -> None:
        if self.problems:
            self._look_for_problems(tensor)
            return
        file = self._open(name)
        copy = self.reuse.copies.get(tensor.name)
        digest = self._copied(tensor, copy, file) if copy else None
        if digest is None:
            digest = self._merged(tensor, file)
        if digest is None:
            return
        with self.lock:
            self.sha256[tensor.name] = digest
            self.opened[name].missing -= 1
            if self.opened[name].missing == 0:
                self.finishing[finishers.submit(self._finish, name)] = file.size

    def _open(self, name: str) -> ShardFile:
        with self.lock:
            if name in self.opened:
                return self.opened[name].file
        with self.opening:  # who waits here for room holds up no lane whose file is open
            if name not in self.opened:
                if self.sink is not None:
                    self.sink.begin(name)
                part = self.wanted[name]
                file = ShardFile(self.folder / name, [tensor.slot for tensor in part])
                with self.lock:
                    self.opened[name] = _Open(file, len(part))
            return self.opened[name].file

    def _merged(self, tensor: TensorPlan, file: ShardFile) -> str | None:
        """Both passes; None, and a problem noted, for what is not finite."""
        self.reasons[tensor.name] = self.reuse.reasons.get(tensor.name, DAMAGED)
        try:
            return self.engine.merge(
                self.plan.settings, tensor, lambda place, block: file.write(tensor.name, place, block)
            )
        except NotFinite as found:
            self.problems.extend(found.problems)
            self._abandon()
            return None

    def _look_for_problems(self, tensor: TensorPlan) -> None:
        """Nothing will be published: go on only to name all that is wrong."""
        measured = self.engine.measure(tensor)
        self.problems.extend(finiteness_problems(tensor, measured))

    def _copied(self, tensor: TensorPlan, copy: Copy, file: ShardFile) -> str | None:
        """A tensor's bytes from an earlier file; None when they are not what was recorded."""
        with self.engine.profile.stage("copy reused", copy.size):
            try:
                file.copy(tensor.name, copy.path, copy.start, copy.size)
            except (FileNotFoundError, EOFError):
                return None
        with self.engine.profile.stage("verify reused", copy.size):
            return copy.sha256 if file.sha256(tensor.slot) == copy.sha256 else None

    def _finish(self, name: str) -> None:
        """Hash a complete file, bring it to the disk, and record that it is whole."""
        file, part, profile = self.opened[name].file, self.wanted[name], self.engine.profile
        with profile.stage("hash files", file.size):
            digest = hash_file(file.path)
        if self.sink is None:
            with profile.stage("write to disk", file.size):
                file.sync()
        file.close()
        self.files[name] = digest
        keys = {one.name: key_of(self.plan, one, self.engine.contents) for one in part}
        sha256 = {one.name: self.sha256[one.name] for one in part}
        if self.sink is None:
            record_finished(self.folder, name, digest, keys, sha256)
        else:
            with profile.stage("send", file.size):
                self.sink.done(name, file.path, Finished(file.path, digest, keys, sha256))

    def written(self) -> Written:
        """What lies in the folder by now."""
        tensors = {
            one.name: MergedTensor(
                one.out_type.name, list(one.shape), one.kind, name, self.sha256[one.name], self._key(one)
            )
            for name, part in self.wanted.items()
            if name in self.files
            for one in part
        }
        return Written(tensors, dict(sorted(self.files.items())), self._record(len(tensors)))

    def _key(self, tensor: TensorPlan) -> str:
        return "" if self.plan.is_direct else key_of(self.plan, tensor, self.engine.contents)

    def _record(self, written: int) -> ReuseRecord:
        """How many tensors were taken over, and why the others were not."""
        computed: dict[str, list[str]] = {}
        for name, reason in sorted(self.reasons.items()):
            computed.setdefault(reason, []).append(name)
        return ReuseRecord(written - len(self.reasons), computed)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _ignore(_: int) -> None:
    """Nobody wants to hear how far it is."""
