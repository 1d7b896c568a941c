"""A version of a merge: its files, its record, and what is left when something breaks."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from registry import checkpoint, registration
from registry.errors import NotRegistered, RegistryError, RegistryUnreachable
from registry.lineage import MANIFEST
from registry.registration import Evidence, Registered, register
from registry.scorecard import canonical
from registry.store import Registry, asking
from registry.versions import download, read_lineage, resolve

Make = Callable[..., Evidence]


def test_registers_links_and_loads(local: Registry, evidence: Make) -> None:
    from transformers import AutoModelForCausalLM

    made = evidence()
    assert register(local, "quickstart", made) == Registered("quickstart", 1, "models:/quickstart/1", False)
    folder = download(local, "quickstart@candidate")
    for path in sorted(made.folder.iterdir()):
        assert path.samefile(folder / path.name)
        assert not (folder / path.name).is_symlink()
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0


def test_the_version_outlives_the_merged_folder(local: Registry, evidence: Make) -> None:
    made = evidence()
    expected = (made.folder / "model.safetensors").read_bytes()
    register(local, "quickstart", made)
    (made.folder / "model.safetensors").unlink()
    assert (download(local, "quickstart/1") / "model.safetensors").read_bytes() == expected


def test_a_text_longer_than_a_parameter_goes_by_its_digest() -> None:
    digest = "e4bfa8b23649d9b9c416d85248b433f630795bfc20fcd9cfe7aa85d3ff01f473"
    assert registration.parameter_text("{{ x }}") == "{{ x }}"
    assert registration.parameter_text("a" * 6000) == "a" * 6000
    assert registration.parameter_text("a" * 6001) == f"sha256:{digest}, whole in lineage.json"


def test_many_slices_are_registered_and_are_whole_in_the_lineage(local: Registry, evidence: Make) -> None:
    sources = [
        {"model": f"a-model-of-a-long-name-{one}", "layers": [10, 11], "parameters": {"weight": 0.5}} for one in "abc"
    ]
    slices = [{"sources": sources}] * 32
    made = evidence()
    lineage = dataclasses.replace(made.lineage, parameters={"method": "linear", "slices": slices, "composed": []})
    register(local, "quickstart", dataclasses.replace(made, lineage=lineage))
    held = resolve(local, "quickstart").version
    with asking(local) as client:
        params = client.get_run(held.run_id).data.params
    text = canonical(slices)
    assert len(text) > 6000
    assert params["slices"] == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}, whole in lineage.json"
    assert read_lineage(local, "quickstart").lineage.parameters["slices"] == slices


def test_the_run_holds_params_scores_inputs_and_artifacts(local: Registry, evidence: Make) -> None:
    made = evidence()
    register(local, "quickstart", made)
    version = resolve(local, "quickstart").version
    with asking(local) as client:
        run = client.get_run(version.run_id)
        kept = {a.path for a in client.list_artifacts(version.run_id)}
        scorecards = {a.path for a in client.list_artifacts(version.run_id, "scorecards")}
        model = client.search_logged_models([run.info.experiment_id])[0]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"method": "widen", "t": "1.0", "s": "1.0", "out_dtype": "bfloat16"}
    assert run.data.metrics == {"app_en/acc": 0.8}
    assert kept == {"lineage.json", "gate.json", "recipe.yaml", MANIFEST, "validation.json", "scorecards"}
    assert scorecards == {"scorecards/base.json"}
    inputs = {i.dataset.name: (i.dataset.digest, {t.key: t.value for t in i.tags}) for i in run.inputs.dataset_inputs}
    assert inputs["base"][0] == "b" * 36
    assert inputs["tagger"][1]["digest"] == "c" * 64
    assert inputs["tagger"][1]["mlflow.data.context"] == "model"
    assert inputs["tagger"][1]["commit"] == "c" * 40
    assert str(model.status) == "READY"


def test_the_version_is_tagged_with_everything_it_stands_on(local: Registry, evidence: Make) -> None:
    made = evidence()
    register(local, "quickstart", made)
    tags = dict(resolve(local, "quickstart@candidate").version.tags)
    assert tags["merged_digest"] == made.lineage.merged_digest
    assert tags["decision_digest"] == made.decision.digest()
    assert (tags["verdict"], tags["recipe_digest"], tags["flow_run"]) == ("PASS", "f" * 64, "run-1")
    assert (tags["input.base"], tags["input.tagger"]) == ("b" * 64, "c" * 64)


def test_the_same_merge_is_registered_once(local: Registry, evidence: Make) -> None:
    made, other = evidence(), evidence(salt="other weights")
    assert register(local, "quickstart", made).version == 1
    assert register(local, "quickstart", other) == Registered("quickstart", 2, "models:/quickstart/2", False)
    assert register(local, "quickstart", made) == Registered("quickstart", 1, "models:/quickstart/1", True)
    assert resolve(local, "quickstart@candidate").version.version == 1


def test_the_same_weights_with_another_decision_are_another_version(local: Registry, evidence: Make) -> None:
    assert register(local, "quickstart", evidence(floor=0.5)).version == 1
    again = register(local, "quickstart", evidence(floor=0.95))
    assert (again.version, again.reused) == (2, False)
    assert resolve(local, "quickstart/2").version.tag("verdict") == "FAIL"


@pytest.mark.parametrize("broken", ["_record", "_fill", "_version"])
def test_a_failure_leaves_no_version(
    local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    made = evidence()
    with monkeypatch.context() as patch:
        patch.setattr(registration, broken, fail)
        with pytest.raises(KeyboardInterrupt):
            register(local, "quickstart", made)
    with asking(local) as client:
        assert client.search_model_versions("name = 'quickstart'") == []
        experiment = client.get_experiment_by_name("quickstart").experiment_id
        models = client.search_logged_models([experiment])
        assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]
    assert [str(model.status) for model in models] == ([] if broken == "_record" else ["FAILED"])
    assert local.artifact_root is not None
    assert list(local.artifact_root.rglob("model.safetensors")) == []
    assert register(local, "quickstart", made).reused is False


def test_a_failing_alias_takes_the_version_back(
    local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def refuse(*_: object) -> None:
        raise MlflowException("no")

    made = evidence()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", refuse)
        with pytest.raises(RegistryError, match="no"):
            register(local, "quickstart", made)
    with pytest.raises(NotRegistered, match="no version"):
        resolve(local, "quickstart")


def test_what_a_killed_registration_left_is_marked_failed(
    local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = evidence()
    with monkeypatch.context() as patch:  # a kill runs no clean-up
        patch.setattr(registration, "_fail", lambda *_: None)
        patch.setattr(registration, "_version", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            register(local, "quickstart", made)
    register(local, "quickstart", made)
    with asking(local) as client:
        experiment = client.get_experiment_by_name("quickstart").experiment_id
        assert sorted(str(m.status) for m in client.search_logged_models([experiment])) == ["FAILED", "READY"]
    assert local.artifact_root is not None
    assert len(list(local.artifact_root.rglob("model.safetensors"))) == 1


def test_refuses_a_folder_that_is_not_what_its_manifest_says(local: Registry, evidence: Make) -> None:
    made = evidence()
    (made.folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(RegistryError, match=r"model.safetensors: expected \d+ bytes, found 5"):
        register(local, "quickstart", made)
    (made.folder / "model.safetensors").unlink()
    with pytest.raises(RegistryError, match="the manifest lists it and it is not there"):
        register(local, "quickstart", made)


def test_a_file_that_the_manifest_does_not_list_stays_out(local: Registry, evidence: Make) -> None:
    made = evidence()
    (made.folder / "pytorch_model.bin").write_bytes(b"stray")
    register(local, "quickstart", made)
    assert not (download(local, "quickstart") / "pytorch_model.bin").exists()


def test_refuses_evidence_about_different_models(evidence: Make) -> None:
    made, other = evidence(), evidence(salt="other")
    with pytest.raises(RegistryError, match="different models"):
        dataclasses.replace(made, merged=other.merged)
    with pytest.raises(RegistryError, match="not the one the gate judged"):
        dataclasses.replace(made, merged=dataclasses.replace(made.merged, harness="lm-eval 1"))


def test_links_fall_back_to_a_copy_and_resolve_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "cache").write_text("bytes")
    (tmp_path / "folder" / "a").symlink_to(tmp_path / "cache")
    checkpoint.link(tmp_path / "folder", [PurePosixPath("a")], tmp_path / "linked")
    assert (tmp_path / "linked" / "a").samefile(tmp_path / "cache")
    assert not (tmp_path / "linked" / "a").is_symlink()

    def across(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", across)
    checkpoint.link(tmp_path / "folder", [PurePosixPath("a")], tmp_path / "copied")
    assert (tmp_path / "copied" / "a").read_text() == "bytes"
    assert not (tmp_path / "copied" / "a").samefile(tmp_path / "cache")


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"digest": "d", "files": {"../secret": {"sha256": "0", "size": 1}}}')
    with pytest.raises(RegistryError, match="leads out of the folder"):
        checkpoint.listed_files(tmp_path)


def test_through_a_server_files_are_uploaded(server: Registry, evidence: Make, tmp_path: Path) -> None:
    made = evidence(salt="server")
    assert register(server, "served", made).version == 1
    assert register(server, "served", made).reused is True
    (tmp_path / "down").mkdir()
    folder = download(server, "served@candidate", tmp_path / "down")
    for name in checkpoint.listed_files(made.folder):
        assert (folder / name).read_bytes() == (made.folder / name).read_bytes()
    assert read_lineage(server, "served").lineage == made.lineage


def test_nobody_at_the_address(evidence: Make) -> None:
    registry = Registry("http://127.0.0.1:9")
    with pytest.raises(RegistryUnreachable, match=r"http://127\.0\.0\.1:9: no server answers") as caught:
        register(registry, "quickstart", evidence())
    assert caught.value.exit_code == 5


def test_addresses_resolve_against_the_workspace(tmp_path: Path) -> None:
    assert Registry.at(None, tmp_path).database == tmp_path / ".widen/registry/mlflow.db"
    other = Registry.at("sqlite:///shared/models.db", tmp_path)
    assert (other.database, other.artifact_root) == (tmp_path / "shared/models.db", tmp_path / "shared/artifacts")
    assert Registry.at("https://registry.example/", tmp_path) == Registry("https://registry.example")
    with pytest.raises(RegistryError, match="expected sqlite:///FILE"):
        Registry.at("file:///x", tmp_path)


def test_reading_makes_no_registry(tmp_path: Path) -> None:
    with pytest.raises(NotRegistered, match="nothing has been registered"):
        resolve(Registry.at(None, tmp_path), "quickstart")
    assert not (tmp_path / ".widen").exists()
