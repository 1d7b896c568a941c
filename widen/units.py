"""A unit of a merge's work, small enough to send: done by any process that sees the inputs and where the output goes.

A unit is one output file: the input ranges and settings that it is a function of, where it goes, and in return a
fragment of the manifest. A unit done twice is done once: the file appears under its name whole, by a rename or as one
object of a storage, and a second time with the same bytes. Access to storages is the environment's of each process;
nothing of it is in a unit.
"""

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import gettempdir, mkdtemp
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
from widen.remote.outbox import send_files
from widen.remote.store import Store
from widen.reuse import Reuse
from widen.settings import Settings
from widen.staging import FINISHED_FOLDER, UNITS_FOLDER, disk_faults, scratch_folder
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

    folder: a staging folder that every node sees, or the URL of a merge's folder in a storage. size: bytes that it
    reads. reuse: what of it an earlier output holds.
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
    output. files: of a unit that hashes. seconds: of work on `node`. warning: what is wrong with that node and stops
    nothing.
    """

    digests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written: Written | None = None
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    seconds: float = 0.0
    node: str = ""
    warning: str = ""


def do_unit(unit: Unit) -> Fragment:
    """Do it, here. Raises InputsRefused for inputs that are not finite or change meanwhile, and EnvironmentFault, with
    this node's name, where it does not see what the coordinator sees or cannot do its part.
    """
    began, node = monotonic(), socket.gethostname()
    try:
        done = Fragment(files={unit.file: hash_file(Path(unit.file))}) if unit.work == "hash" else _planned(unit)
    except EnvironmentFault as error:
        raise EnvironmentFault(f"{node}: {error}") from error
    warning = f"{node}: {done.warning}" if done.warning else ""
    return replace(done, seconds=monotonic() - began, node=node, warning=warning)


def _planned(unit: Unit) -> Fragment:
    with _resources(unit) as (resources, warning), _opened(unit.job, resources) as (plan, engine):
        return replace(_worked(unit, plan, engine, resources), warning=warning)


@contextmanager
def _resources(unit: Unit) -> Iterator[tuple[Resources, str]]:
    """As asked; without the cache where this node cannot have it at that place, and a word on that.

    What a unit without a cache fetches and sends lies in a temporary folder that goes with the unit: workers are killed
    too often to leave it to the end of the process.
    """
    asked, warning = unit.job.resources, ""
    try:
        asked.kept("contents")
    except EnvironmentFault as fault:
        asked, warning = replace(asked, cache=None), f"{fault}; units there keep nothing between them"
    if asked.cache or not any(map(is_url, [unit.folder, *(place for _, place in unit.job.sources)])):
        yield asked, warning
        return
    with scratch_folder(_temporary_files(), f"widen-unit-{os.getuid()}-") as folder:
        yield replace(asked, cache=folder), warning


def _temporary_files() -> Path:
    try:
        return Path(gettempdir())
    except FileNotFoundError as error:
        raise EnvironmentFault(
            "expected a cache, or a folder for temporary files, that can be written, found neither; name another "
            "cache, or set TMPDIR"
        ) from error


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
def _opened(job: Job, resources: Resources) -> Iterator[tuple[MergePlan, Engine]]:
    inputs = [Checkpoint.open(place, name, resources.remote if is_url(place) else None) for name, place in job.sources]
    with planned(inputs, job.settings, (), resources) as (plan, _):
        if plan_digest(plan) != job.plan:
            places = ", ".join(folder for _, folder in job.sources)
            raise EnvironmentFault(
                f"sees other checkpoints than the coordinator under {places}; every node needs the same files there: a "
                "shared file system, or a storage"
            )
        with open_engine(resources, silent, Profile()) as engine:
            yield plan, engine


def _worked(unit: Unit, plan: MergePlan, engine: Engine, resources: Resources) -> Fragment:
    part = plan.files[unit.file]
    own = replace(plan, tensors=part)
    engine.contents.watch({side.checkpoint.name: side.checkpoint for one in part for side in one.sides}.values())
    if unit.work == "name":
        engine.name_inputs(own)
        written = None
    elif is_url(unit.folder):
        written = send_files(plan, engine, unit.reuse, {unit.file: part}, Store(unit.folder), resources.remote)
    else:
        written = _staged(unit, plan, engine)
    engine.contents.require_unchanged()
    return Fragment({one.name: tuple(engine.contents.of(*side) for side in one.sides) for one in part}, written)


def _staged(unit: Unit, plan: MergePlan, engine: Engine) -> Written:
    """Write the file into a folder of its own inside the staging, and move it to its place."""
    staging = Path(unit.folder)
    if not staging.is_dir():
        raise EnvironmentFault(
            f"does not see {staging.parent}, where the output is made; every node needs it: a shared file system, or "
            "an output in a storage"
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
