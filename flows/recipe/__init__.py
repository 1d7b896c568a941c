"""A recipe, from YAML to what the rooms below take: `load_recipe` is the one way in."""

from flows.recipe.recipe import SECTIONS, Recipe, load_recipe

__all__ = ["SECTIONS", "Recipe", "load_recipe"]
