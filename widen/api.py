"""The merge in three lines of Python:

import widen
manifest = widen.merge("base", ["chat", "sailor"], out="merged", settings=widen.Settings(t=1.0, s=1.0))
print(manifest.digest)
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from widen.backend import Backend, open_backend
from widen.checkpoint import Checkpoint
from widen.checks import Problem, refuse, structure_problems
from widen.digests import DigestCache, digest_of
from widen.engine import HEADROOM_BYTES, combine, describe_inputs
from widen.errors import OutputExists
from widen.manifest import Input, Manifest, Recipe, merge_key
from widen.plan import MergePlan, Settings, make_plan
from widen.progress import Progress, silent
from widen.shards import require_space
from widen.statistics import finiteness_problems, measure
from widen.summary import ModelSummary
from widen.version import ENGINE

Folder = str | Path
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
    allow_config: Sequence[str] = (),
    device: str = "auto",
    threads: int | None = None,
    cache: Folder | None = None,
    progress: Progress = silent,
) -> Inspection:
    """Measure `models` against `base` and report, instead of refusing, what differs in structure or is not finite.

    Tensors that a model lacks, or has in another shape, are reported and not measured. Raises InputsRefused only for a
    checkpoint that cannot be read safely.
    """
    checkpoints = [_opened(source) for source in (base, *models)]
    plan = make_plan(checkpoints[0], checkpoints[1:], DEFAULT_SETTINGS)
    problems = structure_problems(plan.base, plan.models, plan.tied, allow_config)
    digests = _digest_cache(cache)
    with open_backend(device, threads, progress) as backend, TemporaryDirectory() as scratch:
        statistics = measure(plan, backend, digests, Path(cache or scratch) / "statistics", progress)
        problems += finiteness_problems(plan, statistics)
        inputs = describe_inputs(plan, digests)
    return Inspection(tuple(inputs), tuple(measured.summary for measured in statistics), tuple(problems))


def merge(
    base: Folder | Checkpoint,
    models: Sequence[Folder | Checkpoint],
    out: Folder,
    settings: Settings = DEFAULT_SETTINGS,
    *,
    recipe: Recipe | None = None,
    any_settings: bool = False,
    allow_config: Sequence[str] = (),
    device: str = "auto",
    threads: int | None = None,
    cache: Folder | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Merge `models` into `base` and publish the result as the folder `out`, whole or not at all.

    recipe: what `out` belongs to; a folder made by another recipe is refused (OutputExists), one made by this recipe
    is replaced, and left as it is when nothing changed. any_settings: a recipe of the same name counts as this one.
    cache: where statistics and digests are kept between calls.
    Raises InputsRefused before anything is written when structure or finiteness is wrong, RecipeError for wrong
    settings, EnvironmentFault for device and disk.
    """
    out = Path(out)
    checkpoints = [_opened(source) for source in (base, *models)]
    recipe = recipe or _recipe_of(checkpoints, settings)
    previous = require_own_output(out, recipe, any_settings)
    plan = make_plan(checkpoints[0], checkpoints[1:], settings)
    refuse(structure_problems(plan.base, plan.models, plan.tied, allow_config))
    require_space(out.parent, plan.out_bytes + HEADROOM_BYTES)
    digests = _digest_cache(cache)
    with open_backend(device, threads, progress) as backend, TemporaryDirectory() as scratch:
        statistics_folder = Path(cache or scratch) / "statistics"
        return _merge_plan(plan, backend, out, recipe, digests, statistics_folder, previous, progress)


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
    backend: Backend,
    out: Path,
    recipe: Recipe,
    digests: DigestCache,
    statistics_folder: Path,
    previous: Manifest | None,
    progress: Progress,
) -> Manifest:
    statistics = measure(plan, backend, digests, statistics_folder, progress)
    refuse(finiteness_problems(plan, statistics))
    if previous is not None and previous.key == _key(plan, digests) and not previous.damage(out):
        progress.note(f"merge: {out} is unchanged, verified by digest")
        return previous
    return combine(plan, statistics, backend, out, recipe, digests, progress)


def _key(plan: MergePlan, digests: DigestCache) -> str:
    inputs = {entry.name: entry.digest for entry in describe_inputs(plan, digests)}
    return merge_key(ENGINE, asdict(plan.settings), inputs)


def _digest_cache(cache: Folder | None) -> DigestCache:
    return DigestCache(Path(cache) / "digests" if cache else None)


def _opened(source: Folder | Checkpoint) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else Checkpoint.open(source)


def _recipe_of(checkpoints: Sequence[Checkpoint], settings: Settings) -> Recipe:
    folders = [str(checkpoint.folder.absolute()) for checkpoint in checkpoints]
    return Recipe("merge", digest_of({"folders": folders, "settings": settings.digest}))
