"""`widen merge`: the engine alone, on a recipe or a plain mergekit configuration."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.profile_picture import require_picture
from flows.recipe import Recipe, load_recipe
from flows.recipe.schema import SourceSpec
from tasks.model_cache import local_folder
from tasks.sources import Source, is_cached, is_url, model_id, refuse_unsafe
from widen import Checkpoint, Resources, Settings
from widen import merge as merge_checkpoints
from widen.dispatched import Dispatch
from widen.errors import RecipeError
from widen.manifest import Recipe as MergedRecipe
from widen.profile import Profile
from widen.progress import progress_on

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class MergeOptions:
    """What the command line adds to a recipe, as typed: sizes with KB, MB or GB."""

    workspace: Path
    device: str
    threads: int | None
    memory: str | None
    shard_size: str | None
    cache: Path | None
    remote_cache: str | None = None

    @property
    def resources(self) -> Resources:
        """For the engine. Raises RecipeError for a size that is none."""
        memory = parse_size("memory", self.memory) if self.memory else None
        return Resources(self.device, self.threads, memory, self.cache or user_cache(), self._remote_cache)

    @property
    def _remote_cache(self) -> int | None:
        said = self.remote_cache or os.environ.get("WIDEN_REMOTE_CACHE")  # as the runner's name: without the settings
        return parse_size("remote cache", said) if said else None

    def settings(self, recipe: Recipe) -> Settings:
        """The recipe's settings, with the asked shard size."""
        shard_bytes = parse_size("shard size", self.shard_size) if self.shard_size else None
        return replace(recipe.settings, shard_bytes=shard_bytes)


def merge_recipe(
    recipe_file: Path, out: Path | str, options: MergeOptions, profile: Path | None, dispatch: Dispatch | None = None
) -> None:
    """Merge what the recipe names into `out` and say what was made; draw where the time went into `profile`.

    dispatch: who does the work, unit by unit, if not this process.
    """
    if profile is not None:
        require_picture(profile)
    recipe = load_recipe(recipe_file)
    resources, settings = options.resources, options.settings(recipe)
    base, *models = open_inputs(recipe, options.workspace, resources)
    clock = Profile()
    manifest = merge_checkpoints(
        base, models, out, settings, recipe=MergedRecipe(recipe.name, recipe.merge_digest),
        allow_config=allow_config(recipe), resources=resources, progress=progress_on(), profile=clock,
        dispatch=dispatch,
    )  # fmt: skip
    for note in manifest.notes:
        print(note, file=sys.stderr)
    if profile is not None:
        _show(clock, profile)
    print(f"{out}: {len(manifest.tensors)} tensors, digest {manifest.digest}")


def allow_config(recipe: Recipe) -> Sequence[str]:
    """Configuration keys in which the recipe lets models differ from the base."""
    return recipe.validate.allow_config if recipe.validate else ()


def open_inputs(recipe: Recipe, workspace: Path, resources: Resources | None = None) -> list[Checkpoint]:
    """The recipe's checkpoints, the base first; a versioned source through the workspace's import, one in a storage by
    ranges as they are needed.
    """
    places = {name: _place(recipe, name, workspace) for name in recipe.inputs}
    remote = (resources or Resources()).remote if any(isinstance(one, str) for one in places.values()) else None
    return [Checkpoint.open(place, name, remote) for name, place in places.items()]


def user_cache() -> Path | None:
    """Where digests, statistics and descriptions of architectures are kept between commands, unless `--cache` says.

    None where there is no such place to write: nobody asked for it, so nothing fails for want of it.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "widen"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def parse_size(what: str, text: str) -> int:
    """Bytes from a number with KB, MB or GB. Raises RecipeError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    size = int(float(match.group(1)) * _UNITS[match.group(2).upper()]) if match else 0
    if size < 1:
        raise RecipeError(f"{what} {text!r}: expected a number with KB, MB or GB, such as 5GB")
    return size


def _show(clock: Profile, picture: Path) -> None:
    from flows.profile_picture import draw

    print(clock.table(), file=sys.stderr)
    draw(clock, picture)
    print(f"profile drawn: {picture}", file=sys.stderr)


def _place(recipe: Recipe, name: str, workspace: Path) -> Path | str:
    """A local folder, a cache's or a storage's as it is; any other source through the workspace's import."""
    source: SourceSpec = recipe.inputs[name]
    if source.repo is None and is_url(source.path):
        refuse_unsafe(Source(name, source.path, None, source.rev))
        return source.path
    if source.repo is None:
        known = is_cached(source.path) or (model_id(source.path) is not None and not (workspace / source.path).exists())
        asked = Source(name, source.path, None, source.rev)
        return local_folder(asked, workspace).folder if known or source.rev else workspace / source.path
    from flows.environment import prepare

    prepare(workspace.resolve())
    from tasks.fetch import fetch

    return fetch(Source(name, source.path, source.repo, source.rev), workspace).folder
