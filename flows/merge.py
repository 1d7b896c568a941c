"""`widen merge`: the engine alone, on a recipe or a plain mergekit configuration."""

import re
import sys
from dataclasses import replace
from pathlib import Path

from flows.recipe import Recipe, load_recipe
from flows.recipe_schema import SourceSpec
from flows.road import settings_of
from widen import Checkpoint
from widen import merge as merge_checkpoints
from widen.errors import RecipeError
from widen.manifest import Recipe as MergedRecipe
from widen.progress import progress_on

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def merge_recipe(
    recipe_file: Path, out: Path, workspace: Path, device: str, threads: int | None, shard_size: str
) -> None:
    """Merge what the recipe names into `out` and say what was made."""
    recipe = load_recipe(recipe_file)
    settings = replace(settings_of(recipe), shard_bytes=parse_size(shard_size))
    base, *models = (Checkpoint.open(_folder(recipe, name, workspace), name) for name in recipe.inputs)
    allow_config = recipe.validate.allow_config if recipe.validate else ()
    manifest = merge_checkpoints(
        base, models, out, settings, recipe=MergedRecipe(recipe.name, recipe.merge_digest), allow_config=allow_config,
        device=device, threads=threads, progress=progress_on(),
    )  # fmt: skip
    for note in manifest.notes:
        print(note, file=sys.stderr)
    print(f"{out}: {len(manifest.tensors)} tensors, digest {manifest.digest}")


def parse_size(text: str) -> int:
    """Bytes from a number with KB, MB or GB. Raises RecipeError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if size < 1:
        raise RecipeError(f"shard size {text!r}: expected a number with KB, MB or GB, such as 5GB")
    return size


def _folder(recipe: Recipe, name: str, workspace: Path) -> Path:
    """A local folder as it is; a versioned source through the workspace's import."""
    source: SourceSpec = recipe.inputs[name]
    if source.repo is None:
        return workspace / source.path
    from flows.environment import prepare

    prepare(workspace.resolve())
    from tasks.fetch import Source, fetch

    return fetch(Source(name, source.path, source.repo, source.rev), workspace).folder
