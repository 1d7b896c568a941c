"""The model card: read by Hugging Face's own classes, with every parent, score, clause and the way to check it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from registry.attest.card import Told, card
from registry.attest.figures import figures
from registry.attest.licences import check
from registry.lineage import Ancestor, SourceRecord
from registry.registration import Evidence
from tests.registry.conftest import card as scorecard

Make = Callable[..., Evidence]

CHAT = SourceRecord("chat", ".", "https://huggingface.co/Qwen/Qwen1.5-7B-Chat", "main", "a" * 40)


@pytest.fixture
def told(evidence: Make) -> Told:
    return of(evidence(), {"base": "apache-2.0", "chat": "apache-2.0"})


def of(made: Evidence, licences: Mapping[str, str | None], **more: Any) -> Told:
    base, parent = made.lineage.inputs
    inputs = (base, replace(parent, source=CHAT))
    inputs = tuple(replace(one, source=replace(one.source, license=licences[one.name])) for one in inputs)
    lineage = replace(made.lineage, inputs=inputs)
    scored = {"base": figures(scorecard("base", "b" * 64, 40)), "merged": figures(made.merged)}
    checked = check((one.name, one.source.license) for one in inputs)
    plain = Told("quickstart", lineage, made.decision, checked, "1" * 64, "2" * 64, "merged", scored)
    return replace(plain, **more)


def data_of(told: Told) -> ModelCardData:
    return ModelCard(card(told)).data


def test_the_metadata_is_what_hugging_face_reads(told: Told) -> None:
    data = data_of(told)
    assert data.base_model == ["../hub/checkpoints/base", "Qwen/Qwen1.5-7B-Chat"]
    assert data.get("base_model_relation") == "merge"
    assert set(data.tags) >= {"merge", "widen", "mergekit-compatible"}
    assert (data.license, data.license_name, data.library_name) == ("apache-2.0", None, "transformers")
    (result,) = data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == ("app_en", "acc", 0.8)


def test_the_model_index_comes_back(told: Told) -> None:
    held = data_of(told).to_dict()["model-index"]
    name, (result,) = model_index_to_eval_results(held)
    assert (name, result.task_type, result.metric_value) == ("quickstart", "text-generation", 0.8)
    assert ModelCard(str(ModelCard(card(told)))).data.to_dict() == data_of(told).to_dict()


def test_the_body_says_what_it_is_how_it_was_judged_and_how_to_check_it(told: Told) -> None:
    text = ModelCard(card(told)).text
    for part in (
        "# quickstart",
        "The gate said **PASS**",
        "name: quickstart",
        f"git+file:../hub@{'c' * 40}#checkpoints/base",
        f"git+https://huggingface.co/Qwen/Qwen1.5-7B-Chat@{'a' * 40}",
        "| task | better | documents | base | merged |",
        "| app_en acc | higher | 100 | 0.4000 [0.3094, 0.4980] | 0.8000 [0.7112, 0.8666] |",
        told.decision.results[0].text,
        "widen verify quickstart@champion",
        "python -m model_signing verify key",
        "1" * 64,
        "2" * 64,
        "`apache-2.0`, from base",
    ):
        assert part in text, part


def test_an_unsigned_model_says_so(told: Told) -> None:
    text = card(replace(told, signature="none"))
    assert "It is **not signed**." in text
    assert "model_signing" not in text


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("apache-2.0", "llama2"), ("llama2", None)),
        (("mit", "apache-2.0"), (["apache-2.0", "mit"], None)),
        (("tongyi-qianwen", "tongyi-qianwen"), ("other", "tongyi-qianwen")),
        (("apache-2.0", None), (None, None)),
        (("llama2", "llama3"), (None, None)),
    ],
)
def test_the_licence_is_the_check_s(
    licences: tuple[str, str | None], expected: tuple[Any, Any], evidence: Make
) -> None:
    told = of(evidence(), {"base": licences[0], "chat": licences[1]})
    data = data_of(told)
    assert (data.license, data.license_name) == expected
    assert ("no single licence" in card(told)) is (expected[0] is None)


def test_names_of_others_cannot_break_out(told: Told) -> None:
    base, chat = told.lineage.inputs
    nasty = replace(base.source, rev="v1 | <script>alert(1)</script>\n# heading")
    fenced = replace(told.lineage, inputs=(replace(base, source=nasty), chat), recipe_text="a: 1\n````\n# out\n")
    text = card(replace(told, lineage=fenced))
    assert "<script>" not in text
    assert "\n# heading" not in text
    assert "\\|" in text
    assert "\n`````yaml\na: 1\n````\n# out\n`````\n" in text


def test_a_parent_that_is_a_merge_leads_further_back(told: Told) -> None:
    older = Ancestor("older", "model", "9" * 64, inputs=(Ancestor("oldest", "base", "8" * 64),))
    base, chat = told.lineage.inputs
    text = card(replace(told, lineage=replace(told.lineage, inputs=(base, replace(chat, made_from=(older,))))))
    assert "`chat` is a merge itself, of:" in text
    assert f"- model `older`, `{'9' * 64}`\n  - base `oldest`" in text
