"""A unit of a merge's work, small enough to send: done by any process that sees the inputs and the output's staging.

A unit is one output file: the input ranges and settings that it is a function of, where it goes, and in return a
fragment of the manifest. A unit done twice is done once: the file appears under its name whole, by a rename, and a
second time with the same bytes.
"""

import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from time import monotonic
from typing import Any, Literal

from widen.checkpoint import Checkpoint
from widen.digests import FileDigest, digest_of, hash_file
from widen.engine import Engine
from widen.errors import EnvironmentFault
from widen.output import Written, write_files
from widen.plan import MergePlan, TensorPlan
from widen.profile import Profile
from widen.progress import silent
from widen.remote.address import is_url
from widen.reuse import Reuse
from widen.settings import Settings
from widen.staging import FINISHED_FOLDER, UNITS_FOLDER, disk_faults
from widen.workbench import Resources, open_engine, planned

Work = Literal["name", "merge", "hash"]


@dataclass(frozen=True)
class Job:
    """What the units of one merge share. sources: name and place of every input, the base first.

    plan: `plan_digest` of what was planned, which every node must see as well.
    """

    sources: tuple[tuple[str, str], ...]
    settings: Settings
    plan: str
    resources: Resources


@dataclass(frozen=True)
class Unit:
    """One file's work. name: read and name the inputs of the output file `file`; merge: write it into `folder` as well;
    hash: the SHA-256 of the input file `file`.

    size: bytes that it reads. reuse: what of it an earlier output holds.
    """

    work: Work
    job: Job
    file: str
    size: int
    folder: str = ""
    reuse: Reuse = field(default_factory=Reuse)

    def __str__(self) -> str:
        return f"{self.work} {Path(self.file).name}"


@dataclass(frozen=True)
class Fragment:
    """What came of a unit. digests: of the sides of each merged tensor, as read, by its name. written: its part of the
    output. files: of a unit that hashes. seconds: of work on `node`.
    """

    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written: Written | None = None
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    seconds: float = 0.0
    node: str = ""


def do_unit(unit: Unit) -> Fragment:
    """Do it, here. Raises InputsRefused for inputs that are not finite or change meanwhile, and EnvironmentFault where
    this node does not see what the coordinator sees.
    """
    began = monotonic()
    if unit.work == "hash":
        done = Fragment(files={unit.file: hash_file(Path(unit.file))})
    else:
        with _opened(unit.job) as (plan, engine):
            done = _worked(unit, plan, engine)
    return replace(done, seconds=monotonic() - began, node=socket.gethostname())


def plan_digest(plan: MergePlan) -> str:
    """Of all that a plan says: the settings, every output file's tensors, and what each is merged from."""
    files = {name: [_described(tensor) for tensor in part] for name, part in plan.files.items()}
    return digest_of({"settings": plan.settings.digest, "files": files})


def _described(tensor: TensorPlan) -> list[Any]:
    sides = [[side.checkpoint.name, side.name, _entry(side.checkpoint, side.name)] for side in tensor.sides]
    return [tensor.name, tensor.kind, list(tensor.shape), tensor.out_type.name, repr(tensor.arguments), sides]


def _entry(checkpoint: Checkpoint, name: str) -> list[Any]:
    entry = checkpoint.tensors[name]
    return [list(entry.shape), entry.kind.name, entry.size]


@contextmanager
def _opened(job: Job) -> Iterator[tuple[MergePlan, Engine]]:
    resources = _resources(job.resources)
    inputs = [Checkpoint.open(place, name, resources.remote if is_url(place) else None) for name, place in job.sources]
    with planned(inputs, job.settings, (), resources) as (plan, _):
        if plan_digest(plan) != job.plan:
            places = ", ".join(folder for _, folder in job.sources)
            raise EnvironmentFault(
                f"{socket.gethostname()} sees other checkpoints than the coordinator under {places}; every node needs "
                "the same files there: a shared file system, or a storage"
            )
        with open_engine(resources, silent, Profile()) as engine:
            yield plan, engine


def _resources(asked: Resources) -> Resources:
    """As asked; without a cache where this node cannot have one at that place."""
    try:
        asked.kept("contents")
    except EnvironmentFault:
        return replace(asked, cache=None)
    return asked


def _worked(unit: Unit, plan: MergePlan, engine: Engine) -> Fragment:
    part = plan.files[unit.file]
    own = replace(plan, tensors=part)
    engine.contents.watch({side.checkpoint.name: side.checkpoint for one in part for side in one.sides}.values())
    if unit.work == "name":
        engine.name_inputs(own)
        written = None
    else:
        written = _written(unit, plan, engine)
    engine.contents.require_unchanged()
    return Fragment({one.name: tuple(engine.contents.of(*side) for side in one.sides) for one in part}, written)


def _written(unit: Unit, plan: MergePlan, engine: Engine) -> Written:
    """Write the file into a folder of its own inside the staging, and move it to its place."""
    staging = Path(unit.folder)
    if not staging.is_dir():
        raise EnvironmentFault(
            f"{socket.gethostname()} does not see {staging.parent}, where the output is made; every node needs it: a "
            "shared file system"
        )
    with disk_faults(staging):
        (staging / UNITS_FOLDER).mkdir(exist_ok=True)
        scratch = Path(mkdtemp(dir=staging / UNITS_FOLDER))
        try:
            written = write_files(plan, engine, unit.reuse, scratch, {unit.file: plan.files[unit.file]})
            _take(scratch, staging, unit.file)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return written


def _take(scratch: Path, staging: Path, file: str) -> None:
    """Give the file its place, then the record that it is whole."""
    record = Path(FINISHED_FOLDER) / f"{file}.json"
    (staging / FINISHED_FOLDER).mkdir(exist_ok=True)
    (scratch / file).replace(staging / file)
    (scratch / record).replace(staging / record)
