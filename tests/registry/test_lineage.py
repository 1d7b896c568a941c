"""The lineage record and what it says about the code that ran."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import RegistryError
from registry.lineage import MANIFEST, Lineage, SourceRecord, ancestors, build
from registry.lineage_text import render
from registry.provenance import Provenance, collect, git_state
from registry.registration import Evidence, register
from registry.store import Registry, asking
from registry.versions import read_lineage, registered_as, resolve

Make = Callable[..., Evidence]


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_record_round_trips_and_names_everything(evidence: Make) -> None:
    made = evidence()
    lineage = made.lineage
    assert Lineage.from_json(lineage.to_json()) == lineage
    assert lineage.merged_digest == made.decision.merged_digest
    assert [(i.role, i.name, i.source.commit) for i in lineage.inputs] == [
        ("base", "base", "c" * 40),
        ("model", "tagger", "c" * 40),
    ]
    assert (lineage.method, lineage.parameters["t"], lineage.engine) == ("widen", 1.0, "widen 0")
    assert {name for name, _ in lineage.merged_files} >= {"config.json", "model.safetensors"}
    assert len(lineage.validation_digest or "") == 64


def test_rendered_lines_hold_what_an_auditor_asks_for(evidence: Make) -> None:
    made = evidence()
    lines = render(made.lineage).splitlines()
    text = "\n".join(lines)
    assert lines[0] == f"merged      {made.lineage.merged_digest}"
    for expected in (
        "PASS",
        made.decision.digest(),
        "base        base: checkpoints/base in ../hub at v1 (commit " + "c" * 40,
        "model       tagger: checkpoints/tagger",
        "b" * 64,
        "widen: out_dtype bfloat16, s 1.0, t 1.0",
        "flow run    run-1",
        "mlflow ",
    ):
        assert expected in text


def test_read_back_from_the_registry_and_checked(local: Registry, evidence: Make) -> None:
    made = evidence()
    register(local, "quickstart", made)
    assert read_lineage(local, "quickstart@candidate").lineage == made.lineage
    with asking(local) as client:
        run = client.get_run(resolve(local, "quickstart").version.run_id)
    assert local.artifact_root is not None
    kept = local.artifact_root / run.info.run_id / "artifacts" / "lineage.json"
    kept.write_text(kept.read_text().replace('"t":1.0', '"t":0.5'))
    with pytest.raises(RegistryError, match="changed after registration"):
        read_lineage(local, "quickstart/1")
    kept.unlink()
    with pytest.raises(RegistryError, match=r"lineage\.json"):
        read_lineage(local, "quickstart/1")


def test_refuses_a_decision_about_other_weights_and_inputs_without_a_source(evidence: Make) -> None:
    made, other = evidence(), evidence(salt="other")
    arguments = ("", made.decision, made.lineage.provenance)
    sources = tuple(entry.source for entry in made.lineage.inputs)
    with pytest.raises(RegistryError, match="the gate judged"):
        build(other.folder / MANIFEST, sources, *arguments)
    with pytest.raises(RegistryError, match="inputs tagger have no source; sources: base"):
        build(made.folder / MANIFEST, sources[:1], *arguments)
    with pytest.raises(RegistryError, match="cannot read the merge's manifest"):
        build(made.folder / "absent", sources, *arguments)
    held = json.loads((made.folder / MANIFEST).read_text())
    del held["settings"]
    (made.folder / MANIFEST).write_text(json.dumps(held))
    with pytest.raises(RegistryError, match="lacks 'settings'"):
        build(made.folder / MANIFEST, sources, *arguments)


def test_a_local_source_is_only_a_path(evidence: Make) -> None:
    made = evidence().lineage
    plain = dataclasses.replace(made.inputs[0], source=SourceRecord("base", "models/base"))
    assert "base        base: models/base\n" in render(dataclasses.replace(made, inputs=(plain,)))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "widen-lineage/2"}', '{"schema": "widen-lineage/1"}'])
def test_other_text_is_not_a_lineage(text: str) -> None:
    with pytest.raises(RegistryError, match="lineage"):
        Lineage.from_json(text)


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    assert git_state(tmp_path) == (None, False)
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == (None, False)
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("results")
    assert git_state(tmp_path) == (commit, False)
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == (commit, True)
    assert git_state(tmp_path / "inside") == (None, False)


def test_provenance_names_versions_and_round_trips(tmp_path: Path) -> None:
    found = collect(tmp_path, "no-such-distribution")
    assert (found.commit, found.version) == (None, None)
    packages = dict(found.packages)
    assert {"mlflow", "torch", "transformers"} <= set(packages)
    assert Provenance.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def grandchild(made: Evidence) -> Lineage:
    """The lineage of a merge whose tagger is a merge itself, of a merge and a model."""
    path = made.folder / MANIFEST
    content = json.loads(path.read_text())
    first = {"digest": "1" * 64, "recipe": "first", "method": "widen", "inputs": [
        {"role": "base", "name": "base", "digest": "b" * 64}, {"role": "model", "name": "chat", "digest": "2" * 64},
    ]}  # fmt: skip
    content["inputs"][1]["merge"] = {"digest": "3" * 64, "recipe": "second", "method": "widen", "inputs": [
        {"role": "base", "name": "base", "digest": "b" * 64},
        {"role": "model", "name": "first", "digest": "4" * 64, "merge": first},
    ]}  # fmt: skip
    path.write_text(json.dumps(content))
    return build(path, tuple(one.source for one in made.lineage.inputs), "", made.decision, made.lineage.provenance)


def test_a_merge_of_merges_leads_back_to_the_first_inputs(evidence: Make, local: Registry) -> None:
    made = evidence()
    lineage = grandchild(made)
    assert Lineage.from_json(lineage.to_json()) == lineage
    base, tagger = lineage.inputs
    assert (base.made_from, base.merged_digest) == ((), None)
    assert (tagger.merged_digest, tagger.recipe) == ("3" * 64, "second")
    assert [one.name for one in tagger.made_from] == ["base", "first"]
    assert [one.name for one in tagger.made_from[1].inputs] == ["base", "chat"]
    assert sorted(ancestors(lineage)) == ["1" * 64, "3" * 64]
    lines = render(lineage, {"1" * 64: "first/7"}).splitlines()
    assert "            itself the merge second (" + "3" * 64 + ") of" in lines
    assert "              model first: " + "4" * 64 in lines
    assert "              itself the merge first (" + "1" * 64 + ", registered as first/7) of" in lines
    assert "                model chat: " + "2" * 64 in lines


def test_registered_merges_are_found_by_their_weights(evidence: Make, local: Registry) -> None:
    made = evidence()
    register(local, "quickstart", made)
    assert registered_as(local, [made.lineage.merged_digest, "0" * 64]) == {made.lineage.merged_digest: "quickstart/1"}
