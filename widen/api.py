"""The merge in three lines of Python:

import widen
manifest = widen.merge("base", ["chat", "sailor"], out="merged", settings=widen.Settings(t=1.0, s=1.0))
print(manifest.digest)
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from widen.arrangement import Folder
from widen.checkpoint import Checkpoint
from widen.checks import Problem, refuse
from widen.companions import write_companions
from widen.contents import Contents
from widen.digests import DigestCache, canonical_json, digest_of
from widen.dispatched import Dispatch, Workers, here, workers
from widen.engine import Engine
from widen.errors import OutputExists
from widen.inputs import describe_inputs
from widen.manifest import MANIFEST_FILE, Input, Manifest, Recipe, ReuseRecord, merge_key
from widen.outlook import Outlook, foresee
from widen.plan import MergePlan, TensorPlan
from widen.profile import Profile
from widen.progress import Progress, silent
from widen.remote.address import is_url
from widen.reuse import FIRST_RUN, find
from widen.settings import Settings
from widen.staging import HEADROOM_BYTES, discard_interrupted, require_space, staged_folder, write_synced
from widen.statistics import StatisticsStore, finiteness_problems
from widen.summary import ModelSummary, TensorSummary
from widen.version import ENGINE
from widen.workbench import DEFAULT_RESOURCES, Resources, open_engine, planned

if TYPE_CHECKING:
    from widen.remote.merge import Target

DEFAULT_SETTINGS = Settings()


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
    dispatch: Dispatch | None = None,
) -> Manifest:
    """Merge `models` into `base` and publish the result as the folder `out`, whole or not at all.

    A source and `out` may be the URL of a folder in a storage, as in s3://BUCKET/FOLDER (`widen.remote`).

    recipe: what `out` belongs to; a folder made by another recipe is refused (OutputExists), one made by this recipe
    is replaced, and left as it is when nothing changed. any_settings: a recipe of the same name counts as this one.
    file_digests: record the SHA-256 of the inputs' weight files too. profile: collects what the time went into.
    dispatch: has the work done elsewhere, unit by unit (`widen.units`), with `resources` for each; the bytes are the
    same. Raises InputsRefused, and publishes nothing, when structure or finiteness is wrong, RecipeError for wrong
    settings, EnvironmentFault for device, disk and storage.
    """
    recipe = recipe or _recipe_of((base, *models), settings)
    target = _target(out, recipe, any_settings, resources)
    previous = None if target else require_own_output(Path(out), recipe, any_settings)
    files = DigestCache(resources.kept("digests")) if file_digests else None
    with planned((base, *models), settings, allow_config, resources, progress) as (plan, problems):
        refuse(problems)
        with open_engine(here(resources, dispatch), progress, profile or Profile()) as engine:
            by = workers(engine, dispatch, resources)
            if target is not None:
                return _merge_into(plan, engine, by, target, recipe, files)
            return _merge_plan(plan, engine, by, Path(out), recipe, files, previous)


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
    target = _target(out, recipe, False, resources) if out else None
    previous = require_own_output(Path(out), recipe) if out and target is None else None
    if target is not None:
        out, previous = target.cache.folder, target.published.manifest if target.published else None
    contents, store = Contents(resources.kept("contents")), StatisticsStore(resources.kept("statistics"))
    lanes = resources.threads or len(os.sched_getaffinity(0))
    cache = Path(resources.cache) if resources.cache else None
    try:
        with planned((base, *models), settings, allow_config, resources) as (plan, problems):
            return foresee(
                plan, contents, store, previous, lanes, Path(out or "."), cache,
                is_sent=target is not None, remote_cache=resources.remote_cache,
            ), problems  # fmt: skip
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
    plan: MergePlan,
    engine: Engine,
    by: Workers,
    out: Path,
    recipe: Recipe,
    files: DigestCache | None,
    previous: Manifest | None,
) -> Manifest:
    engine.contents.watch((*plan.inputs, *plan.checkpoints))
    if files is not None:
        by.hash_files(plan, files)
    if previous is not None:
        by.name_inputs(plan)
        inputs = describe_inputs(plan, engine.contents, files, engine.progress)
        if previous.key == merge_key(ENGINE, plan.settings.content, inputs) and _is_intact(previous, out, engine):
            engine.progress.note(f"merge: {out} is unchanged, verified by digest")
            discard_interrupted(out)
            return previous
    with staged_folder(out) as staging:
        if staging.interrupted:
            by.name_inputs(plan)
        reuse = find(plan, engine.contents, previous, out, staging.interrupted)
        require_space(out.parent, plan.out_bytes - reuse.linked_bytes + HEADROOM_BYTES)
        companions, notes = write_companions(plan, staging.folder)
        written = by.write(plan, reuse, staging.folder)
        inputs = describe_inputs(plan, engine.contents, files, engine.progress)
        engine.contents.require_unchanged()
        notes += [f"tied: {name} repeats another tensor and was not merged" for name in sorted(plan.tied)]
        manifest = Manifest(
            ENGINE, recipe, plan.settings.method, plan.settings.content, inputs, written.tensors,
            {**companions, **written.files}, notes, written.reuse,
        )  # fmt: skip
        write_synced(staging.folder / MANIFEST_FILE, (canonical_json(manifest.to_json()) + "\n").encode())
    _tell(manifest.reuse, engine.progress)
    return manifest


def _target(out: Folder, recipe: Recipe, any_settings: bool, resources: Resources) -> "Target | None":
    """An output in a storage; None for a folder. Raises OutputExists for what this recipe did not publish there."""
    if not is_url(out):
        return None
    from widen.remote.merge import Target
    from widen.remote.publish import own_output
    from widen.remote.store import Store

    store = Store(str(out))
    return Target(store, own_output(store, recipe, any_settings), resources.remote)


def _merge_into(
    plan: MergePlan, engine: Engine, by: Workers, target: "Target", recipe: Recipe, files: DigestCache | None
) -> Manifest:
    from widen.remote.merge import merge_into

    manifest = merge_into(plan, engine, by, target, recipe, files)
    if target.published is None or manifest is not target.published.manifest:
        _tell(manifest.reuse, engine.progress)
    return manifest


def _tell(reuse: ReuseRecord, progress: Progress) -> None:
    """How much was taken over, where anything could have been."""
    if set(reuse.computed) == {FIRST_RUN}:
        return
    progress.note(f"reuse: {reuse.reused} tensors taken from an earlier run, verified by digest")
    for reason, names in sorted(reuse.computed.items()):
        progress.note(f"computed: {len(names)} tensors, {reason}")


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


def _recipe_of(sources: Sequence[Folder | Checkpoint], settings: Settings) -> Recipe:
    folders = [_place(source) for source in sources]
    return Recipe("merge", digest_of({"folders": folders, "settings": settings.digest}))


def _place(source: Folder | Checkpoint) -> str:
    if isinstance(source, Checkpoint):
        return source.place
    return str(source) if is_url(source) else str(Path(source).absolute())
