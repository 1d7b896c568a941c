"""Which of a workspace's recipes are followed."""

from flows.assets import TEMPLATE, asset
from flows.recipe import SECTIONS, Recipe, load_recipe


def is_followed(recipe: Recipe) -> bool:
    """Whether the watch asks for its runs: it can run, and does not say `follow: false`."""
    return recipe.follow and can_run(recipe)


def can_run(recipe: Recipe) -> bool:
    """Whether a run could take it: it has every section, and is not the shipped template, which names no real hub."""
    complete = all(getattr(recipe, section) is not None for section in SECTIONS)
    return complete and not (
        recipe.name == TEMPLATE and recipe.digest == load_recipe(asset(f"recipes/{TEMPLATE}.yaml")).digest
    )
