"""The section `compare` of a recipe: taken whole, without a trace in any digest, or refused by line and key."""

import re
from pathlib import Path

import pytest

from flows.compare.plan import built_in, defaults, plan_of, tried
from flows.recipe.methods import settings_of
from tasks.search_space import Choices, Range
from tests.flows.test_recipe import WHOLE, load, refusal
from widen.errors import RecipeError

SECTION = """\
compare:
  methods: [widen, ties, linear]
  search:
    ties: {density: [0.2, 0.5], weight.tagger: {low: 0.3, high: 1.0}}
    widen: {s: {low: 0.1, high: 1.0, log: true}, t: {low: 0.5, high: 1.5, step: 0.25}}
  trials: 4
  selection: 0.6
  seed: 3
"""
COMPARED = WHOLE + SECTION


def test_what_it_asks_for(tmp_path: Path) -> None:
    plan = plan_of(load(tmp_path, COMPARED), None, None)
    assert plan.methods == ("widen", "ties", "linear")
    assert plan.spaces == {
        "ties": {"density": Choices((0.2, 0.5)), "weight.tagger": Range(0.3, 1.0)},
        "widen": {"s": Range(0.1, 1.0, log=True), "t": Range(0.5, 1.5, step=0.25)},
    }
    assert (plan.trials, plan.selection, plan.seed) == (4, 0.6, 3)
    assert plan_of(load(tmp_path, COMPARED), ("ties",), 9).trials == 9


def test_it_changes_no_digest(tmp_path: Path) -> None:
    without, with_it = load(tmp_path, WHOLE), load(tmp_path, COMPARED)
    assert (with_it.digest, with_it.merge_digest) == (without.digest, without.merge_digest)


def test_without_it_every_method_that_fits_is_tried_at_its_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    plan = plan_of(recipe, None, None)
    assert set(plan.left_out) == {"karcher", "passthrough", "slerp"}
    assert len(plan.methods) == 14
    assert not plan.spaces
    searched = plan_of(recipe, None, 5)
    assert set(searched.spaces) == set(plan.methods)
    assert searched.trials == 5
    assert built_in(recipe, "dare_linear").keys() == {"weight.tagger", "weight.indonesian", "density"}


@pytest.mark.parametrize("method", sorted(plan_of.__globals__["METHODS"]))
def test_what_is_searched_unasked_fits_the_method(method: str, tmp_path: Path) -> None:
    """As if a user had written it: every key and every value is one that a recipe may hold."""
    recipe = load(tmp_path, WHOLE)
    if method in plan_of(recipe, None, 5).left_out:
        return
    space = built_in(recipe, method)
    lows = {key: one.values[0] if isinstance(one, Choices) else one.low for key, one in space.items()}
    found = settings_of(tried(recipe, method, 0, lows).merge)
    assert found.method == method
    assert found != settings_of(defaults(recipe, method).merge) or method == "model_stock"


def test_the_recipes_own_method_keeps_its_parameters(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE.replace("{t: 1.0, s: 1.0}", "{t: 0.9, s: [0.5, 1.0]}"))
    assert defaults(recipe, "widen").parameters == {"t": 0.9, "s": [0.5, 1.0]}
    assert tried(recipe, "widen", 0, {"s": 0.7}).parameters == {"t": 0.9, "s": 0.7}


def test_a_plain_average_leaves_the_base_out(tmp_path: Path) -> None:
    merge = defaults(load(tmp_path, WHOLE), "linear").merge
    assert [(one.model, one.parameters) for one in merge.models] == [
        ("base", {"weight": 0.0}), ("tagger", {}), ("indonesian", {}),
    ]  # fmt: skip
    assert merge.parameters["weight"] == 1.0
    assert merge.out_dtype or merge.dtype == "bfloat16"


def test_one_models_own_value_goes_before_that_of_all(tmp_path: Path) -> None:
    found = tried(load(tmp_path, WHOLE), "ties", 0, {"weight": 0.4, "weight.tagger": 0.9})
    assert found.parameters["weight"] == 0.4
    assert found.parameters["weight.tagger"] == 0.9
    assert settings_of(found.merge).models == ({"weight": 0.9}, {})


def test_the_commands_methods_are_checked_as_the_recipes(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    with pytest.raises(RecipeError, match="--methods: unknown merge method `tis`; the nearest known is `ties`"):
        plan_of(recipe, ("widen", "tis"), None)
    with pytest.raises(RecipeError, match="--methods slerp: `slerp` merges 2 models, found 3"):
        plan_of(recipe, ("slerp",), None)


def test_a_recipe_without_what_it_is_compared_by_is_told_what_to_add(tmp_path: Path) -> None:
    start, end = WHOLE.index("  parents:"), WHOLE.index("registry:")
    with pytest.raises(RecipeError, match=r"gates\.parents: a comparison needs at least one clause here.*add one a"):
        plan_of(load(tmp_path, WHOLE[:start] + WHOLE[end:]), None, None)
    with pytest.raises(RecipeError, match="a run needs this section"):
        plan_of(load(tmp_path, WHOLE[: WHOLE.index("evaluate:")]), None, None)


SEARCH = "    ties: {density: [0.2, 0.5], weight.tagger: {low: 0.3, high: 1.0}}"
ROWS = {
    "unknown method": ("[widen, ties, linear]", "[widen, ties, tis]", r"33: compare\.methods\[2\]: unknown merge method `tis`; the nearest known is `ties`.*"),
    "unfit method": ("[widen, ties, linear]", "[widen, ties, slerp]", r"33: compare\.methods\[2\]: `slerp` merges 2 models, found 3"),
    "no method": ("[widen, ties, linear]", "[]", r"33: compare\.methods: expected at least one, found a list"),
    "method twice": ("[widen, ties, linear]", "[widen, ties, ties]", r"33: compare\.methods: expected each method once, found a list"),
    "unknown searched": ("    ties: {", "    tees: {", r"35: compare\.search\.tees: unknown merge method `tees`; .*`ties`.*"),
    "not compared": ("[widen, ties, linear]", "[widen, linear]", r"35: compare\.search\.ties: `ties` is not among compare\.methods: `widen`, `linear`"),
    "empty search": (SEARCH, "    ties: {}", r"35: compare\.search\.ties: expected at least one parameter to search, found none.*"),
    "unknown parameter": ("density:", "densty:", r"35: compare\.search\.ties\.densty: unknown parameter of `ties` `densty`; the nearest known is `density`.*"),
    "unknown model": ("weight.tagger", "weight.taggr", r"35: compare\.search\.ties\.weight\.taggr: unknown model `taggr`; the nearest known is `tagger`.*"),
    "not of a model": ("density:", "normalize.tagger:", r"35: .*: `normalize` is one for the whole merge: write it without a model"),
    "empty list": ("[0.2, 0.5]", "[]", r"35: compare\.search\.ties\.density: expected at least one value, found an empty list"),
    "twice": ("[0.2, 0.5]", "[0.2, 0.2]", r"35: compare\.search\.ties\.density: expected each value once"),
    "text": ("[0.2, 0.5]", "[0.2, high]", r"35: compare\.search\.ties\.density: expected a finite number, found the text `high`"),
    "one value": ("[0.2, 0.5]", "0.2", r"35: .*density: expected a list of values, or low and high, found the number 0\.2"),
    "low above high": ("low: 0.3, high: 1.0}", "low: 1.3, high: 1.0}", r"35: .*weight\.tagger: expected low below high, found 1\.3 and 1\.0"),
    "no high": ("low: 0.3, high: 1.0}", "low: 0.3}", r"35: .*weight\.tagger: a range needs `high`"),
    "unknown key": ("low: 0.3, high", "low: 0.3, hi", r"35: .*weight\.tagger: unknown key `hi`; the nearest known is `high`.*"),
    "logarithm of nothing": ("low: 0.1, high: 1.0, log", "low: 0, high: 1.0, log", r"36: .*\.s: a logarithmic range needs a low above 0, found 0"),
    "log and step": ("log: true", "log: true, step: 0.1", r"36: .*\.s: a logarithmic range has no steps: leave out `log` or `step`"),
    "step": ("step: 0.25", "step: 2", r"36: .*\.t: step: expected a number above 0 and at most 1, found 2"),
    "steps": ("step: 0.25", "step: 1.0e-30", r"36: .*\.t: step: expected at least 1e-06, for a range of 1,000,000 steps, found 1e-30"),
    "log": ("log: true", "log: 1", r"36: .*\.s: log: expected true or false, found the number 1"),
    "negative": ("low: 0.5", "low: -0.5", r"36: .*\.t: expected a number of at least 0, found the number -0\.5"),
    "trials": ("trials: 4", "trials: 0", r"37: compare\.trials: expected a whole number of at least 1, found the number 0"),
    "selection": ("selection: 0.6", "selection: 1", r"38: compare\.selection: expected a number above 0 and below 1, found the number 1"),
    "seed": ("seed: 3", "seed: -1", r"39: compare\.seed: expected a whole number of at least 0, found the number -1"),
    "key": ("trials: 4", "trails: 4", r"37: compare\.trails: unknown key `trails`; the nearest known is `trials` .*"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), ROWS.values(), ids=ROWS)
def test_refused(old: str, new: str, expected: str, tmp_path: Path) -> None:
    assert old in COMPARED
    assert re.fullmatch(r"recipe\.yaml:" + expected, refusal(tmp_path, COMPARED.replace(old, new, 1)))


def test_switches_are_searched_by_lists(tmp_path: Path) -> None:
    text = COMPARED.replace("density: [0.2, 0.5]", "rescale: {low: 0, high: 1}")
    assert "expected a list of true and false, found a range" in refusal(tmp_path, text)
    space = plan_of(
        load(tmp_path, COMPARED.replace("density: [0.2, 0.5]", "rescale: [true, false]")), None, None
    ).spaces
    assert space["ties"]["rescale"] == Choices((True, False))


def test_words_are_searched_as_a_list(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE + "compare: {search: {widen: {ranks: [order, changed]}}, trials: 2}\n")
    assert plan_of(recipe, ["widen"], None).spaces["widen"]["ranks"] == Choices(("order", "changed"))
    ranged = WHOLE + "compare: {search: {widen: {ranks: {low: 0, high: 1}}}}\n"
    assert "expected a list of `order`, `average`, `changed`, found a range" in refusal(tmp_path, ranged)


def test_stacked_layers_are_not_compared(tmp_path: Path) -> None:
    models = "models: [{model: tagger}, {model: indonesian}]"
    slices = "slices: [{sources: [{model: base}, {model: tagger}, {model: indonesian}]}]"
    with pytest.raises(RecipeError, match="merge: a comparison merges whole models"):
        plan_of(load(tmp_path, WHOLE.replace(models, slices)), None, None)
    assert "compare: a comparison merges whole models" in refusal(tmp_path, COMPARED.replace(models, slices))


def test_models_with_adapters_are_not_compared(tmp_path: Path) -> None:
    text = "sources:\n  tone: {repo: ../hub, path: tone, rev: v1}\n"
    told = (
        r"a comparison merges whole models, and `tagger\+tone` is one with an adapter: merge the adapter into it first"
    )
    whole, compared = (
        one.replace("sources:\n", text, 1).replace("{model: tagger}", "{model: tagger+tone}")
        .replace("{tagger: [0.001", "{tagger+tone: [0.001").replace("owner: tagger", "owner: tagger+tone")
        for one in (WHOLE, COMPARED)
    )  # fmt: skip
    with pytest.raises(RecipeError, match=rf"merge: {told}"):
        plan_of(load(tmp_path, whole), None, None)
    assert re.search(rf"compare: {told}.*passthrough", refusal(tmp_path, compared))
