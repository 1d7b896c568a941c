"""The ML-BOM: valid by CycloneDX's own schema, complete, and the same bytes again."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.attest.bom import bill
from registry.attest.figures import figures
from registry.attest.licences import Check, check
from registry.attest.signature import Hashed, hash_model
from registry.lineage import Ancestor, Input, Lineage, SourceRecord
from registry.registration import Evidence
from registry.scorecard import Document, Scorecard, TaskScores

Make = Callable[..., Evidence]

QWEN = SourceRecord("qwen", ".", "https://huggingface.co/Qwen/Qwen1.5-7B", "main", "a" * 40, None, "tongyi-qianwen")
EARLIER = Ancestor("earlier", "model", "8" * 64, "first", "widen", (Ancestor("oldest", "base", "9" * 64),))


@pytest.fixture
def made(evidence: Make) -> Evidence:
    return evidence()


@pytest.fixture
def model(made: Evidence) -> Hashed:
    return hash_model(made.folder)


def lineage_of(made: Evidence) -> Lineage:
    base, tagger = made.lineage.inputs
    licensed = replace(tagger, source=replace(tagger.source, license="apache-2.0"), made_from=(EARLIER,))
    qwen = Input("model", QWEN, "d" * 64, (("model.safetensors", "e" * 64), ("deep/file.json", "f" * 64)))
    return replace(made.lineage, inputs=(base, licensed, qwen))


def licences_of(lineage: Lineage) -> Check:
    return check((one.name, one.source.license) for one in lineage.inputs)


def written(made: Evidence, model: Hashed) -> str:
    lineage = lineage_of(made)
    return bill(lineage, made.decision, model, licences_of(lineage), figures(made.merged))


def fault(text: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


def test_it_is_valid_by_the_published_schema(made: Evidence, model: Hashed) -> None:
    assert fault(written(made, model)) is None


def test_the_schema_would_notice(made: Evidence, model: Hashed) -> None:
    held = json.loads(written(made, model))
    held["metadata"]["component"]["modelCard"]["surplus"] = 1
    assert "surplus" in str(fault(json.dumps(held)))
    held = json.loads(written(made, model))
    held["components"][1]["bom-ref"] = held["components"][0]["bom-ref"]
    assert len(references(held)) != len(set(references(held)))


def references(held: Any) -> list[str]:
    """Every bom-ref in a bill, which the schema wants unique and cannot check."""
    if isinstance(held, list):
        return [one for part in held for one in references(part)]
    if not isinstance(held, dict):
        return []
    own = [held["bom-ref"]] if "bom-ref" in held else []
    return own + [one for part in held.values() for one in references(part)]


def test_every_reference_is_unique_and_every_dependency_named(made: Evidence, model: Hashed) -> None:
    held = json.loads(written(made, model))
    found = references(held)
    assert len(found) == len(set(found))
    (merged,) = [one for one in held["dependencies"] if one["ref"] == "merged"]
    assert merged["dependsOn"] == ["input/base", "input/qwen", "input/tagger"]
    assert {one["ref"] for one in held["dependencies"]} <= set(found)


def test_the_merged_model_has_root_digest_and_every_file(made: Evidence, model: Hashed) -> None:
    merged = json.loads(written(made, model))["metadata"]["component"]
    assert merged["type"] == "machine-learning-model"
    assert merged["hashes"] == [{"alg": "SHA-256", "content": model.root}]
    files = {one["name"]: one["hashes"][0]["content"] for one in merged["components"]}
    assert files == dict(model.files)
    assert merged["version"] == made.lineage.merged_digest


def test_inputs_lead_back_to_where_they_came_from(made: Evidence, model: Hashed) -> None:
    held = json.loads(written(made, model))
    inputs = {one["name"]: one for one in held["components"]}
    assert inputs["qwen"]["purl"] == f"pkg:huggingface/Qwen/Qwen1.5-7B@{'a' * 40}"
    assert inputs["qwen"]["licenses"] == [{"license": {"name": "tongyi-qianwen"}}]
    assert inputs["tagger"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert "licenses" not in inputs["base"]
    (above,) = inputs["tagger"]["pedigree"]["ancestors"]
    assert (above["name"], above["pedigree"]["ancestors"][0]["name"]) == ("earlier", "oldest")
    pedigree = held["metadata"]["component"]["pedigree"]["ancestors"]
    assert {one["name"] for one in pedigree} == {"base", "tagger", "qwen"}
    assert "components" not in pedigree[0]


def test_the_model_card_has_scores_with_intervals_verdict_and_architecture(made: Evidence, model: Hashed) -> None:
    card = json.loads(written(made, model))["metadata"]["component"]["modelCard"]
    (metric,) = card["quantitativeAnalysis"]["performanceMetrics"]
    assert (metric["type"], metric["slice"], metric["value"]) == ("acc", "app_en acc", "0.8")
    interval = {name: float(value) for name, value in metric["confidenceInterval"].items()}
    # statsmodels' proportion_confint(80, 100, 0.05, "wilson")
    assert (interval["lowerBound"], interval["upperBound"]) == pytest.approx((0.7111708, 0.8666331), abs=1e-7)
    assert card["modelParameters"]["modelArchitecture"] == "LlamaForCausalLM"
    assert card["modelParameters"]["architectureFamily"] == "llama"
    assert card["considerations"]["performanceTradeoffs"][0].startswith("PASS: ")
    assert {"name": "widen:verdict", "value": "PASS"} in card["properties"]


def test_it_is_the_same_again_without_a_clock(made: Evidence, model: Hashed) -> None:
    text = written(made, model)
    assert written(made, model) == text
    assert "timestamp" not in json.loads(text)["metadata"]
    other = replace(lineage_of(made), flow_run="another")
    again = bill(other, made.decision, model, licences_of(other), ())
    assert json.loads(again)["serialNumber"] != json.loads(text)["serialNumber"]


def test_a_score_of_one_document_has_no_interval_and_a_loss_is_not_turned() -> None:
    one = (Document("d", "t", 2.0, 4.0),)
    few = TaskScores("bpb", "bits", "none", "ratio", False, "1", "h", one)
    many = replace(few, documents=(*one, Document("e", "t", 3.0, 4.0), Document("f", "t", 1.0, 4.0)), filter="x")
    alone, three = figures(Scorecard("m", "d" * 64, "h", (few, many)))
    assert (alone.value, alone.lower, alone.upper) == (0.5, None, None)
    assert three.lower is not None
    assert three.upper is not None
    assert three.lower < three.value == 0.5 < three.upper
    assert (alone.label, three.label) == ("bpb bits", "bpb bits [x]")
