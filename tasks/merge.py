"""Merge the fetched checkpoints: pass 2 as a task."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import key_of
from tasks.cluster import LOCAL, Runner
from tasks.fetch import Fetched
from tasks.flow_progress import flow_progress
from tasks.units import dispatch_to, resources_of
from widen import Checkpoint, Settings
from widen import merge as merge_checkpoints
from widen.manifest import Recipe
from widen.progress import Together, progress_on


@task(name="merge", cache_policy=NO_CACHE)
def merge(
    sources: Sequence[Fetched],
    settings: Settings,
    recipe: Recipe,
    allow_config: Sequence[str],
    device: str,
    cache: Path,
    out: Path,
    runner: Runner = LOCAL,
) -> Path:
    """Merge `sources`, the base first, into the folder `out` and return it.

    runner: who does it; on the nodes of a cluster, each unit with the share that the runner says.

    `out` belongs to the recipe's name: what an earlier run of it left is replaced in one step, or kept, verified, when
    neither inputs nor settings changed. Raises InputsRefused, OutputExists and EnvironmentFault as `widen.merge` does.
    """
    base, *models = (Checkpoint.open(source.folder, source.name) for source in sources)
    with flow_progress(key_of(recipe.name, "merge")) as told:
        merge_checkpoints(
            base, models, out, settings, recipe=recipe, any_settings=True, allow_config=allow_config,
            file_digests=True, resources=resources_of(runner, device, cache), dispatch=dispatch_to(runner),
            progress=Together(progress_on(), told),
        )  # fmt: skip
    return out
