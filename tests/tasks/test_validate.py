"""Each refusal and warning of the validation, on summaries with one thing wrong, through the real library."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.validate import SUITE, ValidationResult, validate
from widen.checks import Problem
from widen.errors import InputsRefused, RecipeError
from widen.summary import ModelSummary, TensorSummary

BANDS = {"chat": (0.001, 0.2), "sailor": (0.01, 1.5)}
NAMES = ("self_attn.q_proj.weight", "mlp.up_proj.weight")
MISSING = Problem("chat", "lm_head.weight", "missing tensor", "a tensor as in base", "none", "use a full checkpoint")
NAN = float("nan")
Change = Callable[[TensorSummary], TensorSummary]


def tensor(name: str, delta: float) -> TensorSummary:
    """1,000 elements of norm 10 that all changed, by `delta` in norm and at a right angle to the base's."""
    length = (100 + delta**2) ** 0.5
    return TensorSummary(name, "matrix", 1000, 0, 0, 0, 1000 if delta else 0, delta / 10, 10.0, length, delta)


def model(name: str, delta: float = 1.0, change: Change = lambda one: one) -> ModelSummary:
    """Six layers of two matrices and an embedding, each `delta` / 10 away from the base; `change` alters tensors."""
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.{one}" for i in range(6) for one in NAMES)]
    tensors = tuple(change(tensor(one, delta)) for one in names)
    return ModelSummary(name, tensors, f"digest of {name} {delta}")


def only(part: str, **changes: float) -> Change:
    return lambda one: replace(one, **changes) if part in one.tensor else one


def untouched(part: str) -> Change:
    return only(part, changed=0, delta_norm=0.0, model_norm=10.0, largest_change=0.0)


def run(out: Path, *models: ModelSummary, problems: tuple[Problem, ...] = (), limit: float = 0.5) -> ValidationResult:
    """Validate; the result comes from the file, which is there whether or not the models are refused."""
    try:
        path = validate.fn(models, problems, BANDS, limit, out)
    except InputsRefused as refusal:
        result = ValidationResult.from_json((out / "validation.json").read_text(encoding="utf8"))
        assert not result.success
        assert str(refusal).splitlines()[: len(result.refusals)] == list(result.refusals[:10])
        return result
    result = ValidationResult.from_json(path.read_text(encoding="utf8"))
    assert result.success
    assert result.refusals == ()
    return result


def test_sane_models_pass_without_a_word(tmp_path: Path) -> None:
    result = run(tmp_path, model("chat"), model("sailor", 4.0))
    assert result.warnings == ()
    held = json.loads((tmp_path / "validation.json").read_text())
    assert [one["model"] for one in held["models"]] == ["chat", "sailor"]
    assert held["models"][0]["relative_change"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (
            [model("chat", change=only("layers.2.mlp", nan=3, delta_norm=NAN, model_norm=NAN))],
            r"chat: model\.layers\.2\.mlp\.up_proj\.weight: expected no NaN, found 3 among 1000 elements; ",
        ),
        (
            [model("chat", change=only("embed", inf=1, delta_norm=NAN, model_norm=float("inf")))],
            r"chat: model\.embed_tokens\.weight: expected no infinite value, found 1 among 1000 elements; ",
        ),
        (
            [model("chat", 0.0)],
            r"chat: \(network\): equal to the base: expected at least 1 changed .* found 0 of 13000; ",
        ),
        (
            [model("chat"), replace(model("sailor"), digest=model("chat").digest)],
            r"sailor: \(network\): equal to the model chat: expected other weights",
        ),
        (
            [model("sailor", 14.0)],
            r"sailor: \(network\): not homologous .*: expected a direction change of at most 0\.4, found 0\.4188; ",
        ),
        (
            [model("chat", 0.005)],
            r"chat: \(network\): expected a relative change in \[0\.001, 0\.2\], found 0\.0005, below",
        ),
        (
            [model("chat", 2.5)],
            r"chat: \(network\): expected a relative change in \[0\.001, 0\.2\], found 0\.25, above it; ",
        ),
        ([], r"\(all models\): \(network\): expected 1 rows of measurements, at least 1, found 0; "),
    ],
    ids=["nan", "inf", "base", "twin", "stranger", "below", "above", "empty"],
)
def test_a_refusal_names_model_tensor_and_figure_and_comes_alone(
    models: list[ModelSummary], expected: str, tmp_path: Path
) -> None:
    result = run(tmp_path, *models, limit=0.4)
    (told,) = result.refusals
    assert re.match(expected, told), told


def test_a_model_of_no_tensors_is_refused(tmp_path: Path) -> None:
    refusals = run(tmp_path, ModelSummary("chat", (), "d")).refusals
    assert refusals[0].startswith("chat: (network): expected at least 1 element, found 0; ")


def test_the_edges_of_the_band_are_inside(tmp_path: Path) -> None:
    lowest = model("chat")
    edge = lowest.relative_change
    path = validate.fn([lowest], [], {"chat": (edge, edge)}, lowest.direction_change, tmp_path)
    assert ValidationResult.from_json(path.read_text()).success


def test_a_structural_problem_is_refused_as_it_was_found(tmp_path: Path) -> None:
    result = run(tmp_path, model("chat"), problems=(MISSING,))
    assert result.refusals == (str(MISSING),)


def test_a_cause_stands_for_its_symptoms(tmp_path: Path) -> None:
    where = "model.layers.2.mlp.up_proj.weight"
    problem = Problem("chat", where, "not finite", "no NaN", "3 NaN", "use an undamaged checkpoint")
    damaged = model("chat", change=only("layers.2.mlp", nan=3, delta_norm=NAN, model_norm=NAN))
    assert run(tmp_path, damaged, problems=(problem,)).refusals == (str(problem),)


def test_many_refusals_are_counted(tmp_path: Path) -> None:
    problems = tuple(replace(MISSING, tensor=f"tensor.{i:02}") for i in range(25))
    with pytest.raises(InputsRefused, match=r"(?s)tensor\.09: .*\n\.\.\. and 15 more\nsee .*index\.html$") as refusal:
        validate.fn([model("chat")], problems, BANDS, 0.5, tmp_path)
    assert "tensor.10" not in str(refusal.value)
    assert len(ValidationResult.from_json((tmp_path / "validation.json").read_text()).refusals) == 25


def test_an_untouched_layer_warns_once(tmp_path: Path) -> None:
    (told,) = run(tmp_path, model("chat", change=untouched("layers.4."))).warnings
    assert told == "chat: model.layers.4: untouched: expected at least 1 changed element in the layer, found 0 of 2000"


def test_a_tensor_far_off_its_neighbours_warns(tmp_path: Path) -> None:
    loud = run(tmp_path, model("chat", 0.1, only("layers.3.mlp", delta_norm=0.9, model_norm=10.04)))
    assert [told.split(":")[1].strip() for told in loud.warnings] == ["model.layers.3.mlp.up_proj.weight"]
    assert "found 9 times" in loud.warnings[0]
    quiet = run(tmp_path, model("chat", 0.1, only("layers.3.mlp", delta_norm=0.01, model_norm=10.0)))
    assert "found 0.1 times" in quiet.warnings[0]


def test_a_layer_far_off_its_neighbours_warns(tmp_path: Path) -> None:
    result = run(tmp_path, model("chat", 0.1, only("layers.3.", delta_norm=0.9, model_norm=10.04)))
    assert any(told.startswith("chat: model.layers.3: relative change 0.09: ") for told in result.warnings)


def test_few_neighbours_are_no_neighbourhood(tmp_path: Path) -> None:
    whole = model("chat", 0.1, only("layers.1.", delta_norm=0.9, model_norm=10.04))
    small = replace(whole, tensors=tuple(one for one in whole.tensors if re.search(r"layers\.[012]\.", one.tensor)))
    assert run(tmp_path, small).warnings == ()


def test_the_digest_follows_what_was_validated(tmp_path: Path) -> None:
    first = run(tmp_path / "a", model("chat")).digest
    assert first == run(tmp_path / "b", model("chat")).digest
    assert first != run(tmp_path / "c", model("chat", 1.1)).digest
    assert first != run(tmp_path / "d", model("chat"), limit=0.6).digest


def test_a_model_without_a_band_is_a_mistake_in_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"expected a band .* for tulu, found bands for chat, sailor"):
        validate.fn([model("tulu")], [], BANDS, 0.5, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_contacts_no_one(tmp_path: Path) -> None:
    hostile = replace(MISSING, found="<script src='https://example.org/x.js'></script>")
    run(tmp_path, model("chat", change=untouched("layers.4.")), problems=(hostile,))
    page = (tmp_path / "validation" / "index.html").read_text(encoding="utf8")
    assert not re.search(r"<(script|link|img|iframe|object|base)\b|@import|url\(", page, re.IGNORECASE)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", re.sub(r"&lt;.*?&gt;", "", page))
    assert "Validation failed" in page
    assert "missing tensor" in page
    assert "model.layers.4: untouched" in page


def test_the_page_shows_every_expectation(tmp_path: Path) -> None:
    run(tmp_path, model("chat"))
    page = (tmp_path / "validation" / "index.html").read_text(encoding="utf8")
    assert page.count("fa-check-circle") >= len(json.loads(SUITE.read_text())["expectations"])
    assert page.count("<div") == page.count("</div")
    assert {path.name for path in tmp_path.rglob("*")} == {"validation.json", "validation", "index.html"}


def test_columns_that_may_hold_nan_are_required_not_to() -> None:
    """Between skips NaN: every figure that refuses by a bound is also refused when it is absent."""
    suite = json.loads(SUITE.read_text())["expectations"]
    refusing = [one for one in suite if one["severity"] == "critical"]

    def columns(kind: str) -> set[tuple[str, str]]:
        chosen = (one["kwargs"] for one in refusing if kind in one["type"] and "column" in one["kwargs"])
        return {(one["column"], one["row_condition"]["parameter"]) for one in chosen if "row_condition" in one}

    assert columns("to_be_between") <= columns("to_not_be_null")
    assert ("relative_change", "network") in columns("to_not_be_null")


def test_what_passed_and_has_not_changed_is_not_asked_again(tmp_path: Path) -> None:
    run(tmp_path, model("chat"))
    page = tmp_path / "validation" / "index.html"
    before = page.stat().st_mtime_ns
    run(tmp_path, model("chat"))
    assert page.stat().st_mtime_ns == before
    run(tmp_path, model("chat", 1.1))
    assert page.stat().st_mtime_ns != before
    page.unlink()
    run(tmp_path, model("chat", 1.1))
    assert page.is_file()
    run(tmp_path, model("chat"), model("sailor", 4.0), problems=(MISSING,))
    run(tmp_path, model("chat"), model("sailor", 4.0), problems=(MISSING,))  # a refusal is never taken from before
