"""The merge in three lines of Python:

import widen
manifest = widen.merge("base", ["chat", "sailor"], out="merged", settings=widen.Settings(t=1.0, s=1.0))
print(manifest.digest)
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from widen.arrangement import Folder, arranged
from widen.backend import open_backend
from widen.checkpoint import Checkpoint
from widen.checks import Problem, refuse
from widen.companions import write_companions
from widen.contents import Contents
from widen.digests import DigestCache, canonical_json, digest_of
from widen.engine import Engine
from widen.errors import EnvironmentFault, OutputExists
from widen.inputs import describe_inputs
from widen.manifest import MANIFEST_FILE, Input, Manifest, Recipe, ReuseRecord, merge_key
from widen.memory import MemoryBudget, default_budget
from widen.outlook import Outlook, foresee, remember_rates
from widen.output import write_output
from widen.plan import MergePlan, TensorPlan
from widen.profile import Profile
from widen.progress import Progress, silent
from widen.reuse import FIRST_RUN, find
from widen.settings import Settings
from widen.staging import discard_interrupted, require_space, staged_folder, write_synced
from widen.statistics import StatisticsStore, finiteness_problems
from widen.summary import ModelSummary, TensorSummary
from widen.version import ENGINE

DEFAULT_SETTINGS = Settings()
HEADROOM_BYTES = 64_000_000
"""Room for tokenizer, index and manifest beside the tensors."""


@dataclass(frozen=True)
class Resources:
    """What a merge may use; none of it changes a byte of the result.

    device: auto, cpu or cuda. threads: of the CPU, all by default. memory: budget in bytes, a quarter of what is
    available by default. cache: a folder for digests, statistics and descriptions of architectures; without it nothing
    is kept between calls.
    """

    device: str = "auto"
    threads: int | None = None
    memory: int | None = None
    cache: Folder | None = None

    def kept(self, name: str) -> Path | None:
        """A part of the cache. Raises EnvironmentFault when the cache cannot be written."""
        if not self.cache:
            return None
        try:
            Path(self.cache).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"cache {self.cache}: cannot be made ({error.strerror}); choose another") from error
        if not os.access(self.cache, os.W_OK | os.X_OK):
            raise EnvironmentFault(f"cache {self.cache}: cannot be written; choose another")
        return Path(self.cache) / name


DEFAULT_RESOURCES = Resources()


@dataclass(frozen=True)
class Inspection:
    """What pass 1 and the structural checks found: inputs with digests, a summary a model, and what must be refused."""

    inputs: tuple[Input, ...]
    summaries: tuple[ModelSummary, ...]
    problems: tuple[Problem, ...]


def inspect(
    base: Folder | Checkpoint,
    models: Sequence[Folder | Checkpoint],
    *,
    settings: Settings = DEFAULT_SETTINGS,
    allow_config: Sequence[str] = (),
    file_digests: bool = False,
    resources: Resources = DEFAULT_RESOURCES,
    progress: Progress = silent,
) -> Inspection:
    """Measure `models` against `base` and report, instead of refusing, what differs in structure or is not finite.

    Where `settings` stack layers anew, against what they are merged with; models that nothing is compared with have no
    summary then.

    Tensors that a model lacks, or has in another shape, are reported and not measured. Raises InputsRefused only for a
    checkpoint that cannot be read safely.
    """
    files = DigestCache(resources.kept("digests")) if file_digests else None
    with (
        planned((base, *models), settings, allow_config, resources, progress) as (plan, problems),
        open_engine(resources, progress, Profile()) as engine,
    ):
        engine.contents.watch((*plan.inputs, *plan.checkpoints))
        looks = engine.over_tensors("measure", plan.tensors, lambda one: one.sides, partial(_look, engine))
        inputs = describe_inputs(plan, engine.contents, files, progress)
        engine.contents.require_unchanged()
    problems += [problem for look in looks for problem in look.problems]
    names = [model.name for model in plan.models]
    by_model = {name: [look.models[name] for look in looks if name in look.models] for name in names}
    summaries = (_summary_of(name, rows) for name, rows in by_model.items() if rows or not plan.stacked)
    return Inspection(tuple(inputs), tuple(summaries), tuple(problems))


def merge(
    base: Folder | Checkpoint,
    models: Sequence[Folder | Checkpoint],
    out: Folder,
    settings: Settings = DEFAULT_SETTINGS,
    *,
    recipe: Recipe | None = None,
    any_settings: bool = False,
    allow_config: Sequence[str] = (),
    file_digests: bool = False,
    resources: Resources = DEFAULT_RESOURCES,
    progress: Progress = silent,
    profile: Profile | None = None,
) -> Manifest:
    """Merge `models` into `base` and publish the result as the folder `out`, whole or not at all.

    recipe: what `out` belongs to; a folder made by another recipe is refused (OutputExists), one made by this recipe
    is replaced, and left as it is when nothing changed. any_settings: a recipe of the same name counts as this one.
    file_digests: record the SHA-256 of the inputs' weight files too. profile: collects what the time went into.
    Raises InputsRefused, and publishes nothing, when structure or finiteness is wrong, RecipeError for wrong settings,
    EnvironmentFault for device and disk.
    """
    out = Path(out)
    recipe = recipe or _recipe_of((base, *models), settings)
    previous = require_own_output(out, recipe, any_settings)
    files = DigestCache(resources.kept("digests")) if file_digests else None
    with planned((base, *models), settings, allow_config, resources, progress) as (plan, problems):
        refuse(problems)
        with open_engine(resources, progress, profile or Profile()) as engine:
            return _merge_plan(plan, engine, out, recipe, files, previous)


def outlook(
    base: Folder | Checkpoint,
    models: Sequence[Folder | Checkpoint],
    out: Folder | None = None,
    settings: Settings = DEFAULT_SETTINGS,
    recipe: Recipe | None = None,
    allow_config: Sequence[str] = (),
    resources: Resources = DEFAULT_RESOURCES,
) -> tuple[Outlook, list[Problem]]:
    """What `merge` would do with the same arguments, and why it would refuse, from headers and the cache alone."""
    recipe = recipe or _recipe_of((base, *models), settings)
    previous = require_own_output(Path(out), recipe) if out else None
    contents, store = Contents(resources.kept("contents")), StatisticsStore(resources.kept("statistics"))
    lanes = resources.threads or len(os.sched_getaffinity(0))
    cache = Path(resources.cache) if resources.cache else None
    try:
        with planned((base, *models), settings, allow_config, resources) as (plan, problems):
            return foresee(plan, contents, store, previous, lanes, Path(out or "."), cache), problems
    finally:
        store.close()


def require_own_output(out: Path, recipe: Recipe, any_settings: bool = False) -> Manifest | None:
    """The manifest of an earlier run of this recipe in `out`; None when `out` does not exist.

    Raises OutputExists for anything else that is there, and leaves it untouched.
    """
    if not out.exists() and not out.is_symlink():
        return None
    remedy = "choose another folder, or remove it first"
    try:
        manifest = Manifest.load(out)
    except (OSError, ValueError) as error:
        raise OutputExists(f"{out} exists and was not made by this recipe ({recipe.name}); {remedy}") from error
    same_name = any_settings and manifest.recipe.name == recipe.name
    if manifest.recipe.digest != recipe.digest and not same_name:
        raise OutputExists(
            f"{out} exists and was made by another recipe: {manifest.recipe.name} {manifest.recipe.digest[:12]}, not "
            f"{recipe.name} {recipe.digest[:12]}; {remedy}"
        )
    return manifest


def _merge_plan(
    plan: MergePlan, engine: Engine, out: Path, recipe: Recipe, files: DigestCache | None, previous: Manifest | None
) -> Manifest:
    engine.contents.watch((*plan.inputs, *plan.checkpoints))
    if previous is not None:
        engine.name_inputs(plan)
        inputs = describe_inputs(plan, engine.contents, files, engine.progress)
        if previous.key == merge_key(ENGINE, plan.settings.content, inputs) and _is_intact(previous, out, engine):
            engine.progress.note(f"merge: {out} is unchanged, verified by digest")
            discard_interrupted(out)
            return previous
    with staged_folder(out) as staging:
        if staging.interrupted:
            engine.name_inputs(plan)
        reuse = find(plan, engine.contents, previous, out, staging.interrupted)
        require_space(out.parent, plan.out_bytes - reuse.linked_bytes + HEADROOM_BYTES)
        companions, notes = write_companions(plan, staging.folder)
        written = write_output(plan, engine, reuse, staging.folder)
        inputs = describe_inputs(plan, engine.contents, files, engine.progress)
        engine.contents.require_unchanged()
        notes += [f"tied: {name} repeats another tensor and was not merged" for name in sorted(plan.tied)]
        manifest = Manifest(
            ENGINE, recipe, plan.settings.method, plan.settings.content, inputs, written.tensors,
            companions | written.files, notes, written.reuse,
        )  # fmt: skip
        write_synced(staging.folder / MANIFEST_FILE, (canonical_json(manifest.to_json()) + "\n").encode())
    _tell(manifest.reuse, engine.progress)
    return manifest


def _tell(reuse: ReuseRecord, progress: Progress) -> None:
    """How much was taken over, where anything could have been."""
    if set(reuse.computed) == {FIRST_RUN}:
        return
    progress.note(f"reuse: {reuse.reused} tensors taken from an earlier run, verified by digest")
    for reason, names in sorted(reuse.computed.items()):
        progress.note(f"computed: {len(names)} tensors, {reason}")


@contextmanager
def open_engine(resources: Resources, progress: Progress, profile: Profile) -> Iterator[Engine]:
    """An engine on the device, with what the cache knows; it keeps what it learnt, however the block ends."""
    contents, store = Contents(resources.kept("contents")), StatisticsStore(resources.kept("statistics"))
    memory = resources.memory or default_budget()
    backend = open_backend(resources.device, resources.threads, memory // 2, progress)
    # A GPU's pinned buffers take half of the budget; the CPU backend holds nothing of its own.
    budget = MemoryBudget(memory if backend.name == "cpu" else memory // 2)
    try:
        yield Engine(backend, budget, contents, store, progress, profile)
    finally:
        contents.save()
        store.close()
        backend.close()
    for line in store.origins():
        progress.note(line)
    if backend.name == "cpu" and resources.cache:
        remember_rates(profile, Path(resources.cache))


@dataclass(frozen=True)
class _Look:
    """What an inspection keeps of one tensor: a row and the digest of the sums by model, and what is wrong."""

    models: dict[str, tuple[TensorSummary, str]]
    problems: list[Problem]


def _look(engine: Engine, tensor: TensorPlan) -> _Look:
    measured = engine.measure(tensor)
    found = zip(tensor.models, measured, strict=True)
    rows = {side.checkpoint.name: (one.summary, one.digest) for side, one in found}
    return _Look(rows, finiteness_problems(tensor, measured))


def _summary_of(model: str, looks: Sequence[tuple[TensorSummary, str]]) -> ModelSummary:
    rows = sorted((summary for summary, _ in looks), key=lambda row: row.tensor)
    return ModelSummary(model, tuple(rows), digest_of({summary.tensor: digest for summary, digest in looks}))


def _is_intact(previous: Manifest, out: Path, engine: Engine) -> bool:
    with engine.progress.stage("verify", previous.size) as advance:
        return not previous.damage(out, advance)


def planned(
    sources: Sequence[Folder | Checkpoint],
    settings: Settings,
    allow_config: Sequence[str],
    resources: Resources,
    progress: Progress = silent,
) -> AbstractContextManager[tuple[MergePlan, list[Problem]]]:
    """`arranged`, with what it computes kept where `resources` say."""
    overlays, architectures = resources.kept("overlays"), resources.kept("architectures")
    return arranged(sources, settings, allow_config, overlays, architectures, progress)


def _recipe_of(sources: Sequence[Folder | Checkpoint], settings: Settings) -> Recipe:
    paths = (source.folder if isinstance(source, Checkpoint) else Path(source) for source in sources)
    folders = [str(path.absolute()) for path in paths]
    return Recipe("merge", digest_of({"folders": folders, "settings": settings.digest}))
