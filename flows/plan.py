"""`widen plan`: what a merge would do and need, before it does anything."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.environment import prepare
from flows.merge import MergeOptions, allow_config, open_inputs
from flows.recipe import Recipe, load_recipe
from flows.recipe.schema import Evaluation
from flows.road import Road, plainly
from widen.api import outlook
from widen.checks import SHOWN
from widen.errors import EnvironmentFault, InputsRefused, RecipeError
from widen.manifest import Recipe as MergedRecipe
from widen.outlook import Outlook


def show_plan(recipe_file: Path, out: Path | str | None, options: MergeOptions) -> None:
    """Print it. Raises InputsRefused, after the figures, when the merge would be refused for its inputs' structure."""
    recipe = load_recipe(recipe_file)
    resources, settings = options.resources, options.settings(recipe)
    base, *models = open_inputs(recipe, options.workspace, resources)
    merged = MergedRecipe(recipe.name, recipe.merge_digest)
    found, problems = outlook(base, models, out, settings, merged, allow_config(recipe), resources)
    print("\n".join(_lines(found)), flush=True)  # the rest waits for lm-eval
    for line in _power(recipe, options.workspace):
        print(line)
    if problems:
        rest = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InputsRefused("\n".join(str(problem) for problem in problems[:SHOWN]) + rest)


def _lines(found: Outlook) -> Iterator[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.kinds.items())
    yield f"tensors     {sum(found.kinds.values())} ({kinds}), {found.elements / 1e9:.2f} G elements"
    yield f"read        {found.read / 1e9:.2f} GB"
    yield f"write       {found.write / 1e9:.2f} GB in {found.files} files"
    yield f"memory      {found.memory / 1e9:.2f} GB anonymous at most"
    yield f"disk        {found.disk / 1e9:.2f} GB needed at most, {found.disk_free / 1e9:.2f} GB free"
    yield f"statistics  {found.pairs - found.measured} of {found.pairs} known, {found.measured} to measure"
    yield f"reuse       {_reuse(found)}"
    yield f"time        about {found.seconds:.1f} s, by the rates of {found.rates_of}, if the disk keeps up"


def _reuse(found: Outlook) -> str:
    total = sum(found.kinds.values())
    if found.unread:
        return f"{found.reused} of {total} tensors for certain; {found.unread} were never read, so this cannot be told"
    return f"{found.reused} of {total} tensors"


def _power(recipe: Recipe, workspace: Path) -> Iterator[str]:
    """What each clause of the gate can show with the documents at hand; nothing for a recipe without a gate."""
    if recipe.gates is None or recipe.evaluate is None:
        return
    from tasks.power import outlook

    road = Road(recipe, workspace.resolve(), "cpu", plainly)
    counts, unknown = _documents(road, recipe.evaluate)
    if unknown:
        yield f"documents   {unknown}"
    powers = outlook(road.clauses, counts, road.run_folder / "gate.json", recipe.gates.alpha)
    yield from (f"gate        {power}" for power in powers)
    yield from (f"warning     {power.warning}" for power in powers if power.warning is not None)


def _documents(road: Road, evaluation: Evaluation) -> tuple[Mapping[str, int], str | None]:
    """The documents by task, or none and why they cannot be counted."""
    from tasks.power import may_count

    prepare(road.workspace)
    if not may_count(evaluation.include_path):
        return {}, "unknown: lm-eval's data sets are not on this machine, and HF_HUB_OFFLINE=0 is not set"
    try:
        from tasks.evaluate import count_documents

        return count_documents(road.evaluation, road.cache / "scorecards"), None
    except (RecipeError, EnvironmentFault, OSError) as error:
        return {}, f"unknown: {error}"
    except ModuleNotFoundError as error:
        return {}, f"unknown: {error.name} is not installed"
