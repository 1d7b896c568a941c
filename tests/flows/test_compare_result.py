"""A comparison's order, wording, picture and recipe, from scores that are known."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows.compare.picture import draw
from flows.compare.plan import Candidate, defaults, tried
from flows.compare.result import LOWER, NOT_TOLD, SAME, WINNER, Figure, Reference, Result, Tried, notes, ranked
from flows.compare.table import print_table
from flows.compare.write import require_free, require_replaceable, write_recipe
from flows.recipe import Recipe, load_recipe
from registry.kept_share import Kept
from tests.flows.test_recipe import WHOLE, load
from widen.errors import OutputExists, RecipeError

COMMENTED = (
    """\
# whose models these are
{}
# about the checks
""".format(WHOLE[: WHOLE.index("validate:")].rstrip())
    + WHOLE[WHOLE.index("validate:") :]
)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load(tmp_path, COMMENTED)


def made(recipe: Recipe, method: str, value: float, noise: float = 0.0, trial: int | None = None) -> Tried:
    """A candidate that keeps `value`; `noise` is what its documents differ by from every other's."""
    candidate = defaults(recipe, method) if trial is None else tried(recipe, method, trial, {})
    signs = hashlib.sha256(f"{method}{trial}".encode()).digest()
    terms = {f"d{i:02}": noise * (1 if signs[i] % 2 else -1) / 32 for i in range(32)}
    kept = Kept(value, {unit: term - sum(terms.values()) / 32 for unit, term in terms.items()})
    figure = Figure.of(kept.interval(0.05))
    scores = {"app_en/acc": Figure(value, value - 0.05, value + 0.05), "bpb_id/bits_per_byte": Figure(2.0, 1.9, 2.1)}
    return Tried(
        candidate, f"key {method} {trial}", f"digest {method} {trial}", kept, {"clause": figure}, figure, scores
    )


def result_of(rows_of: list[Tried], recipe: Recipe) -> Result:
    rows, level = ranked(rows_of, 0.05)
    scores = rows_of[0].scores
    references = tuple(Reference(name, share, scores) for name, share in (("base", 0.0), ("tagger", 0.5)))
    return Result(
        name=recipe.name, alpha=0.05, level=level, documents={"selection": {}, "gate": {}}, rows=tuple(rows),
        references=references, failed={"sce": "its reason"}, better={"app_en/acc": True, "bpb_id/bits_per_byte": False},
        shown=tuple(scores),
    )  # fmt: skip


def test_methods_are_ordered_by_their_best_and_told_apart_by_paired_differences(recipe: Recipe) -> None:
    tried_all = [
        made(recipe, "widen", 0.60, noise=0.01), made(recipe, "ties", 0.61, noise=0.2),
        made(recipe, "linear", 0.30, noise=0.01), made(recipe, "widen", 0.62, noise=0.01, trial=0),
    ]  # fmt: skip
    rows, level = ranked(tried_all, 0.05)
    assert [(row.best.method, row.standing) for row in rows] == [
        ("widen", WINNER), ("ties", NOT_TOLD), ("linear", LOWER),
    ]  # fmt: skip
    assert rows[0].best.candidate.trial == 0
    assert level == 0.05 / 3


def test_a_tie_goes_to_the_first_method_and_its_first_trial(recipe: Recipe) -> None:
    rows, _ = ranked([made(recipe, "ties", 0.5), made(recipe, "widen", 0.5), made(recipe, "ties", 0.5, trial=1)], 0.05)
    assert [row.best.method for row in rows] == ["ties", "widen"]
    assert rows[0].best.candidate.trial is None


def test_two_methods_that_made_one_merge_are_said_to(recipe: Recipe) -> None:
    first, second = made(recipe, "task_arithmetic", 0.5), made(recipe, "breadcrumbs", 0.5)
    rows, _ = ranked([first, replace(second, digest=first.digest), made(recipe, "ties", 0.4)], 0.05)
    assert [row.standing for row in rows] == [WINNER, SAME, LOWER]


def test_one_candidate_of_a_method_that_may_be_best_keeps_it_in(recipe: Recipe) -> None:
    """Its best by chance is told apart; another of its trials, noisier, is not: so the method is not."""
    tried_all = [
        made(recipe, "widen", 0.60, noise=0.001), made(recipe, "ties", 0.58, noise=0.001),
        made(recipe, "ties", 0.57, noise=0.5, trial=0),
    ]  # fmt: skip
    assert [row.standing for row in ranked(tried_all, 0.05)[0]] == [WINNER, NOT_TOLD]
    assert [row.standing for row in ranked(tried_all[:2], 0.05)[0]] == [WINNER, LOWER]


def test_the_words_claim_no_more_than_the_intervals(recipe: Recipe) -> None:
    unsure = result_of([made(recipe, "widen", 0.6), made(recipe, "ties", 0.59, noise=0.5)], recipe)
    told = " ".join(notes(unsure))
    assert "Not told apart from the winner by paired differences" in told
    assert told.count("ties") == 1
    assert "chosen by these very documents" in told
    sure = " ".join(notes(result_of([made(recipe, "widen", 0.6), made(recipe, "ties", 0.1)], recipe)))
    assert "Every other method is below the winner" in sure


def test_the_table_names_every_method_and_what_failed(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(result_of([made(recipe, "widen", 0.6), made(recipe, "ties", 0.59, noise=0.5)], recipe))
    said = capsys.readouterr().out
    for word in ("widen", "ties", "winner", "not told apart", "base", "tagger", "sce: left out, its reason", "0.600"):
        assert word in said
    assert said.index("widen") < said.index("ties")


def test_the_picture_is_the_same_bytes_again(recipe: Recipe, tmp_path: Path) -> None:
    result = result_of(
        [made(recipe, "widen", 0.6), made(recipe, "ties", 0.5, 0.2), made(recipe, "ties", 0.4, trial=0)], recipe
    )
    for name in ("one", "two"):
        draw(result, tmp_path / name)
    for suffix in (".svg", ".png"):
        first = (tmp_path / "one").with_suffix(suffix).read_bytes()
        assert first == (tmp_path / "two").with_suffix(suffix).read_bytes()
        assert len(first) > 5000
    json.dumps(result.content(), allow_nan=False)


# The winner as a recipe


def test_written_it_is_the_recipe_with_another_merge_section(recipe: Recipe, tmp_path: Path) -> None:
    values = {"weight.tagger": 1e-05, "density": 0.3}
    candidate = tried(recipe, "ties", 0, values)
    out = tmp_path / "made" / "winner.yaml"
    write_recipe(recipe, won(candidate), out)
    written = load_recipe(out)
    assert written.merge == candidate.merge
    assert (written.gates, written.evaluate, written.sources) == (recipe.gates, recipe.evaluate, recipe.sources)
    text = out.read_text()
    assert text.startswith("# whose models these are\n")
    assert "\n# about the checks\nvalidate:\n" in text
    assert sorted(path.name for path in out.parent.iterdir()) == ["winner.yaml"]


@pytest.mark.parametrize("method", ["widen", "linear", "model_stock", "della"])
def test_every_kind_of_section_comes_back(method: str, recipe: Recipe, tmp_path: Path) -> None:
    candidate = defaults(recipe, method)
    write_recipe(recipe, won(candidate), tmp_path / "winner.yaml")
    assert load_recipe(tmp_path / "winner.yaml").merge == candidate.merge


def test_gradients_and_filters_come_back(tmp_path: Path) -> None:
    parameters = '{t: [0.5, 1.0], s: [{filter: "q: x, #", value: 0.5}, {value: 1.0}]}'
    recipe = load(tmp_path, WHOLE.replace("{t: 1.0, s: 1.0}", parameters))
    write_recipe(recipe, won(defaults(recipe, "widen")), tmp_path / "winner.yaml")
    assert load_recipe(tmp_path / "winner.yaml").merge == recipe.merge


def test_tokenizer_and_template_come_back(tmp_path: Path) -> None:
    asked = """\
  tokenizer:
    source: union
    tokens: {"<|im_start|>": {source: tagger, force: true}, "\\u2028\\x7f: #": {source: {kind: zero}}}
  chat_template: "{% for m in messages %}\\x85\\u2028{{ m['content'] }} # \U0001f600\\n{% endfor %}"
  dtype: bfloat16
"""
    recipe = load(tmp_path, WHOLE.replace("  dtype: bfloat16\n", asked, 1))
    assert recipe.merge.tokenizer is not None
    require_replaceable(recipe, tmp_path / "winner.yaml")
    for method in ("widen", "ties"):
        write_recipe(recipe, won(defaults(recipe, method)), tmp_path / f"{method}.yaml")
        assert load_recipe(tmp_path / f"{method}.yaml").merge == defaults(recipe, method).merge


def test_nothing_is_overwritten(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "winner.yaml"
    out.write_text("mine")
    with pytest.raises(OutputExists, match="it exists, and is left as it is"):
        require_free(out)
    with pytest.raises(OutputExists):
        write_recipe(recipe, won(defaults(recipe, "ties")), out)
    assert out.read_text() == "mine"


def test_a_recipe_on_one_line_is_left_to_its_author(recipe: Recipe, tmp_path: Path) -> None:
    import yaml

    (tmp_path / "recipe.yaml").write_text(json.dumps(yaml.safe_load(WHOLE)))
    flat = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError):
        require_replaceable(flat, tmp_path / "winner.yaml")
    with pytest.raises(RecipeError):
        write_recipe(flat, won(defaults(flat, "ties")), tmp_path / "winner.yaml")
    assert not (tmp_path / "winner.yaml").exists()


def won(candidate: Candidate) -> Tried:
    figure = Figure(0.5, 0.4, 0.6)
    return Tried(candidate, "key", "digest", Kept(0.5, {}), {}, figure, {})
