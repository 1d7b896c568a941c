"""The clauses about the champion and about being better, as a recipe writes them: taken whole, or refused by line."""

import re
from pathlib import Path

import pytest

from flows.recipe import load_recipe
from flows.road import Road, plainly
from registry.gate import Better, Champion
from tests.flows.test_recipe import WHOLE, load, refusal

CLAUSES = """\
  champion:
    - {task: app_en, metric: acc, margin: 0.06}
    - {task: bpb_id, metric: bits_per_byte, margin: 0.2}
  better:
    - {than: champion, tasks: [{task: app_en, metric: acc}, {task: bpb_id, metric: bits_per_byte}]}
    - {than: base, tasks: [{task: app_en, metric: acc}], rule: mean}
registry:
"""
GATED = WHOLE.replace("registry:\n", CLAUSES)


def test_the_clauses_are_the_gates_own(tmp_path: Path) -> None:
    recipe = load(tmp_path, GATED)
    road = Road(recipe, tmp_path, "cpu", plainly)
    one, two = ("app_en", "acc", None), ("bpb_id", "bits_per_byte", None)
    assert road.clauses[-4:] == (
        Champion("app_en", "acc", 0.06),
        Champion("bpb_id", "bits_per_byte", 0.2),
        Better("champion", (one, two), "any"),
        Better("base", (one,), "mean"),
    )
    assert road.asks_champion
    assert not Road(load(tmp_path, WHOLE), tmp_path, "cpu", plainly).asks_champion


def test_sections_that_are_not_given_change_no_digest(tmp_path: Path) -> None:
    spelt = WHOLE.replace("registry:\n", "  champion: []\n  better: []\nregistry:\n")
    assert load(tmp_path, spelt).digest == load(tmp_path, WHOLE).digest != load(tmp_path, GATED).digest


ROWS = {
    "no margin": (", margin: 0.06", "", r"30: gates\.champion\[0\]\.margin: a required key is missing"),
    "margin": ("margin: 0.06", "margin: -1", r"30: gates\.champion\[0\]\.margin: expected a number of at least 0, .*"),
    "unknown key": (
        "margin: 0.2",
        "margin: 0.2, superior: true",
        r"31: gates\.champion\[1\]\.superior: unknown key `superior`; .*`margin`, `filter`\)",
    ),
    "task of the champion": (
        "    - {task: app_en, metric: acc, margin",
        "    - {task: app_fr, metric: acc, margin",
        r"30: gates\.champion\[0\]\.task: unknown task `app_fr`; the nearest known is `app_en` .*",
    ),
    "nothing stands in": (
        "{task: app_en, metric: acc, margin",
        "{task: app_en, metric: acc_norm, margin",
        r"30: gates\.champion\[0\]: on a first run there is no champion, and a clause under `parents` stands in: .*",
    ),
    "nothing stands in for a filter": (
        "acc, margin: 0.06",
        "acc, filter: strict, margin: 0.06",
        r"30: gates\.champion\[0\]: on a first run there is no champion, .* task, metric and filter",
    ),
    "than": (
        "than: base",
        "than: taggr",
        r"34: gates\.better\[1\]\.than: unknown model `taggr`; the nearest known is `tagger` \(known: `champion`, .*",
    ),
    "rule": ("rule: mean", "rule: most", r"34: gates\.better\[1\]\.rule: expected `any` or `mean`, found .*"),
    "one task": (
        ", rule: mean",
        "",
        r"34: gates\.better\[1\]\.tasks: with one task there is nothing to choose from: .*`rule: mean`",
    ),
    "no task": (
        "[{task: app_en, metric: acc}], rule",
        "[], rule",
        r"34: gates\.better\[1\]\.tasks: expected at least one, found a list",
    ),
    "a task of better": (
        "{task: bpb_id, metric: bits_per_byte}]",
        "{task: bpb_is, metric: bits_per_byte}]",
        r"33: gates\.better\[0\]\.tasks\[1\]\.task: unknown task `bpb_is`; .*",
    ),
    "a task twice": (
        "{task: bpb_id, metric: bits_per_byte}]",
        "{task: app_en, metric: acc}]",
        r"33: gates\.better\[0\]\.tasks: expected each task once",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_refused_with_line_key_and_advice(row: str, tmp_path: Path) -> None:
    old, new, expected = ROWS[row]
    assert old in CLAUSES, "the row replaces nothing"
    assert re.fullmatch(
        r"recipe\.yaml:" + expected, refusal(tmp_path, WHOLE.replace("registry:\n", CLAUSES.replace(old, new, 1)))
    )


def test_no_model_is_named_as_the_champion(tmp_path: Path) -> None:
    named = GATED.replace("tagger", "champion")
    assert "9: merge.models[0].model: the gate asks about the registry's `champion`" in refusal(tmp_path, named)
    assert load(tmp_path, WHOLE.replace("tagger", "champion")).parents == ("champion", "indonesian")


def test_base_means_the_base(tmp_path: Path) -> None:
    swapped = GATED.replace("base_model: base", "base_model: other").replace("  base: {", "  other: {")
    named = swapped.replace("tagger", "base")
    assert "34: gates.better[1].than: `base` means the merge's base here" in refusal(tmp_path, named)


def test_the_quickstart_asks_about_the_champion() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "quickstart.yaml")
    assert recipe.gates is not None
    assert [clause.task for clause in recipe.gates.champion] == ["app_en", "bpb_id"]
