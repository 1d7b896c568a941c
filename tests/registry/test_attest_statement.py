"""The provenance statement: valid by in-toto's and SLSA's own types, complete, the same bytes again, and read back."""

import json
import platform
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import resource_descriptor, statement_pb2
from in_toto_attestation.v1.statement import Statement as OfficialStatement

from registry.attest import places
from registry.attest.signature import hash_model
from registry.attest.statement import Statement, Subject, from_lineage, read
from registry.errors import RegistryError
from registry.lineage import Ancestor, Lineage, SourceRecord
from registry.registration import Evidence

Make = Callable[..., Evidence]

GRANDPARENT = Ancestor("older", "model", "9" * 64)
PARENT = Ancestor("earlier", "base", "8" * 64, "first-merge", "widen", (GRANDPARENT,))


def lineage_of(made: Evidence) -> Lineage:
    base, tagger = made.lineage.inputs
    licensed = replace(base, source=replace(base.source, license="apache-2.0"))
    return replace(made.lineage, inputs=(licensed, replace(tagger, made_from=(PARENT,))))


@pytest.fixture
def made(evidence: Make) -> Evidence:
    return evidence()


@pytest.fixture
def stated(made: Evidence) -> Statement:
    return state(made)


def state(made: Evidence) -> Statement:
    lineage = lineage_of(made)
    subject = Subject("quickstart", hash_model(made.folder).root, lineage.merged_digest, "none", "apache-2.0", None)
    return from_lineage(lineage, subject, (("validation.json", "7" * 64),))


def official(text: str) -> OfficialStatement:
    """Parsed by in-toto's type: an unknown field or a wrong type raises."""
    return OfficialStatement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement()))


def test_it_is_valid_by_the_official_types(stated: Statement) -> None:
    official(stated.to_json()).validate()
    predicate = json.loads(stated.to_json())["predicate"]
    parsed = json_format.ParseDict(predicate, provenance_pb2.Provenance())
    assert parsed.build_definition.build_type == "urn:widen:build-type:merge:v1"
    assert parsed.run_details.builder.id == "urn:widen:builder:self-hosted:v1"
    assert set(parsed.build_definition.external_parameters) == {"recipe", "merge"}
    described = [*parsed.build_definition.resolved_dependencies, *parsed.run_details.byproducts]
    assert len(described) == 2 + 2 + 2 + 3  # models, their files, code and lock, by-products
    for one in described:
        resource_descriptor.ResourceDescriptor.copy_from_pb(one).validate()


def test_the_official_types_refuse_what_is_no_statement(stated: Statement) -> None:
    held = json.loads(stated.to_json())
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**held["predicate"], "surplus": 1}, provenance_pb2.Provenance())
    with pytest.raises(ValueError, match="At least one subject required"):
        official(json.dumps({**held, "subject": []})).validate()


def required_by_slsa(predicate: dict[str, Any]) -> list[str]:
    """What https://slsa.dev/spec/v1.0/provenance requires and its types cannot say."""
    definition, run = predicate["buildDefinition"], predicate["runDetails"]
    found = [
        ("buildType is a URI", ":" in definition["buildType"]),
        ("externalParameters", bool(definition["externalParameters"])),
        ("builder.id is a URI", ":" in run["builder"]["id"]),
        ("hex digests", all(_hex(one) for one in [*definition["resolvedDependencies"], *run["byproducts"]])),
    ]
    return [what for what, holds in found if not holds]


def _hex(descriptor: dict[str, Any]) -> bool:
    digests = descriptor.get("digest", {})
    lengths = {"sha256": 64, "gitCommit": 40, "widenModel": 64}
    return all(len(value) == lengths[name] and int(value, 16) >= 0 for name, value in digests.items())


def test_it_says_all_that_slsa_requires(stated: Statement) -> None:
    assert required_by_slsa(json.loads(stated.to_json())["predicate"]) == []


def test_every_input_has_place_commit_licence_and_file_digests(stated: Statement) -> None:
    found = {one["name"]: one for one in _dependencies(stated)}
    commit = "c" * 40
    assert found["base"]["uri"] == f"git+file:../hub@{commit}#checkpoints/base"
    assert found["base"]["digest"] == {"gitCommit": commit, "widenModel": "b" * 64}
    assert found["base"]["annotations"] == {"role": "base", "license": "apache-2.0", "revision": "v1"}
    assert found["base/m"]["digest"] == {"sha256": "b" * 64}
    (above,) = found["tagger"]["annotations"]["madeFrom"]
    assert (above["name"], above["inputs"][0]["digest"]) == ("earlier", "9" * 64)
    assert found["widen"]["annotations"]["role"] == "code"
    assert len(found["requirements.lock"]["digest"]["sha256"]) == 64


def _dependencies(stated: Statement) -> list[dict[str, Any]]:
    return list(json.loads(stated.to_json())["predicate"]["buildDefinition"]["resolvedDependencies"])


def test_by_products_lead_to_gate_and_lineage_and_the_lineage_knows_no_statement(
    stated: Statement, made: Evidence
) -> None:
    lineage = lineage_of(made)
    assert dict(stated.byproducts) == {
        "gate.json": made.decision.digest(),
        "lineage.json": lineage.digest(),
        "validation.json": "7" * 64,
    }
    assert stated.subject.root not in lineage.to_json()


def test_it_is_the_same_again_without_clock_or_machine(stated: Statement, made: Evidence) -> None:
    assert state(made).to_json() == stated.to_json()
    assert not re.search(r"\d{4}-\d\d-\d\dT|startedOn|finishedOn", stated.to_json())
    assert platform.node() not in stated.to_json()


def test_it_is_read_back_whole(stated: Statement) -> None:
    assert read(stated.to_json()) == stated
    unsigned_code = replace(stated, build=replace(stated.build, commit=None, lock=None, flow_run=None))
    assert read(unsigned_code.to_json()) == unsigned_code
    warned = replace(stated, subject=replace(stated.subject, licence=None, licence_warning="look at ..."))
    assert read(warned.to_json()) == warned
    assert read(warned.to_json()).subject.root == stated.subject.root


def _with(held: dict[str, Any], *path: Any, value: Any) -> str:
    inner = held
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(held)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("_type",), "https://in-toto.io/Statement/v0.1", "expected _type https://in-toto.io/Statement/v1, found"),
        (("predicateType",), "x", "expected predicateType"),
        (("predicate", "buildDefinition", "buildType"), "x", "expected buildType urn:widen"),
        (("subject",), [], "not a provenance statement"),
        (("predicate", "runDetails"), [], "not a provenance statement"),
        (("predicate", "buildDefinition", "resolvedDependencies"), [{}], "not a provenance statement"),
        (("surplus",), 1, "holds other fields than Widen writes"),
        (("subject", 0, "digest", "sha512"), "0", "holds other fields than Widen writes"),
    ],
)
def test_what_is_no_statement_of_ours_is_refused(
    path: tuple[Any, ...], value: Any, told: str, stated: Statement
) -> None:
    with pytest.raises(RegistryError, match=told):
        read(_with(json.loads(stated.to_json()), *path, value=value))


@pytest.mark.parametrize("text", ["", "[]", "1", "null", "{}", "[" * 100_000, '{"_type": NaN}'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(RegistryError, match=r"not a provenance statement|expected _type"):
        read(text)


def place(repo: str | None, path: str, commit: str | None = "abc") -> SourceRecord:
    return SourceRecord("m", path, repo, "main", commit)


@pytest.mark.parametrize(
    ("source", "uri", "name"),
    [
        (place("../hub", "a/b"), "git+file:../hub@abc#a/b", "../hub/a/b"),
        (place("/srv/my hub", "a b"), "git+file:///srv/my%20hub@abc#a%20b", "/srv/my hub/a b"),
        (
            place("https://huggingface.co/Qwen/Qwen1.5-7B", "."),
            "git+https://huggingface.co/Qwen/Qwen1.5-7B@abc",
            "Qwen/Qwen1.5-7B",
        ),
        (place("git@git.example:org/hub.git", "m"), "git+ssh://git@git.example/org/hub.git@abc#m", None),
        (place("../hub", "m", None), "git+file:../hub@main#m", "../hub/m"),
        (SourceRecord("m", "models/base"), "file:models/base", "models/base"),
        (SourceRecord("m", "/srv/models/base"), "file:///srv/models/base", "/srv/models/base"),
        (SourceRecord("m", "s3://models/my base/"), "s3://models/my%20base", "s3://models/my base/"),
    ],
)
def test_places(source: SourceRecord, uri: str, name: str | None) -> None:
    assert places.uri(source) == uri
    assert name in (None, places.hub_name(source))


def test_the_place_of_a_file_of_an_input() -> None:
    assert places.uri(place("../hub", "a"), "config.json") == "git+file:../hub@abc#a/config.json"
    assert places.uri(SourceRecord("m", "s3://models/base/"), "config.json") == "s3://models/base/config.json"
