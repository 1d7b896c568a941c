"""What is attested lies with every new version, whole, before the version exists; and a known version is left alone."""

import json
import logging
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from registry.attest.keys import PUBLIC_FILE, SigningKey, generate, read_key
from registry.attest.record import attest
from registry.attest.signature import hash_model, verify
from registry.attest.statement import read
from registry.errors import NotRegistered, RegistryError
from registry.registration import Evidence, register
from registry.scorecard import sha256
from registry.store import Registry, asking
from registry.versions import download, resolve
from tests.registry.conftest import card

Make = Callable[..., Evidence]


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return read_key(str(generate(tmp_path / "keys")))


def complete(tmp_path: Path, key: SigningKey | None) -> Callable[[Evidence], Evidence]:
    out = tmp_path / f"made-{key is None}"
    out.mkdir(exist_ok=True)
    return partial(attest, name="quickstart", scorecards={"base": card("base", "b" * 64, 40)}, key=key, out=out)


def records(registry: Registry) -> Path:
    from mlflow.artifacts import download_artifacts

    run = resolve(registry, "quickstart").version.run_id
    with asking(registry):
        return Path(download_artifacts(run_id=run, artifact_path="", tracking_uri=registry.uri)) / "provenance"


def test_a_signed_version_has_every_record_and_its_tags(
    local: Registry, evidence: Make, key: SigningKey, tmp_path: Path
) -> None:
    made = evidence()
    register(local, "quickstart", made, complete(tmp_path, key))
    folder, found = download(local, "quickstart"), records(local)
    names = {"statement.json", "model.sig", "bom.cdx.json", "README.md", "public_key.pem"}
    assert {path.name for path in found.iterdir()} == names
    verify(folder, found / "model.sig", found / "public_key.pem")
    text = (found / "statement.json").read_text()
    root, version = hash_model(folder).root, resolve(local, "quickstart").version
    assert read(text).subject.root == root == version.tag("root_digest")
    assert read(text).subject.signature == key.fingerprint == version.tag("signature")
    assert sha256(text) == version.tag("statement_digest")
    assert json.loads((found / "bom.cdx.json").read_text())["metadata"]["component"]["hashes"][0]["content"] == root
    assert root in (found / "README.md").read_text()
    assert (found / "public_key.pem").read_text() == (tmp_path / "keys" / PUBLIC_FILE).read_text()


def test_by_products_are_the_files_beside_it(local: Registry, evidence: Make, tmp_path: Path) -> None:
    register(local, "quickstart", evidence(), complete(tmp_path, None))
    found = records(local)
    stated = dict(read((found / "statement.json").read_text()).byproducts)
    assert set(stated) == {"gate.json", "lineage.json", "validation.json", "scorecards/base.json"}
    for name, digest in stated.items():
        assert sha256((found.parent / name).read_text()) == digest, name


def test_the_private_key_is_nowhere_in_the_registry(
    local: Registry, evidence: Make, key: SigningKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        register(local, "quickstart", evidence(), complete(tmp_path, key))
    assert local.database is not None
    secret = key.pem.splitlines()[1]
    held = [path for path in local.database.parent.rglob("*") if path.is_file()]
    assert [path for path in held if secret in path.read_bytes()] == []
    assert secret.decode() not in caplog.text
    assert f"is signed by the key {key.fingerprint}" in caplog.text


def test_without_a_key_it_is_unsigned_and_says_so_everywhere(
    local: Registry, evidence: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register(local, "quickstart", evidence(), complete(tmp_path, None))
    found = records(local)
    assert {path.name for path in found.iterdir()} == {"statement.json", "bom.cdx.json", "README.md"}
    assert read((found / "statement.json").read_text()).subject.signature == "none"
    assert resolve(local, "quickstart").version.tag("signature") == "none"
    assert "not signed" in (found / "README.md").read_text()
    assert "quickstart is not signed: WIDEN_SIGNING_KEY is not set" in caplog.text
    assert "no single licence for the merge: that of base, tagger is not known" in caplog.text


def test_attesting_needs_no_network(
    evidence: Make, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("a socket was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    assert len(complete(tmp_path, key)(evidence()).files) == 2 + 5


def test_the_same_evidence_gives_the_same_records(evidence: Make, tmp_path: Path) -> None:
    made = evidence()
    first = complete(tmp_path, None)(made)
    texts = {name: path.read_text() for name, path in first.files.items()}
    second = complete(tmp_path, None)(made)
    assert {name: path.read_text() for name, path in second.files.items()} == texts
    assert second.tags == first.tags


def test_a_known_version_is_neither_attested_again_nor_altered(
    local: Registry, evidence: Make, key: SigningKey, tmp_path: Path
) -> None:
    made = evidence()
    register(local, "quickstart", made, complete(tmp_path, None))
    before = resolve(local, "quickstart").version

    def never(_evidence: Evidence) -> Evidence:
        raise AssertionError("attested again")

    again = register(local, "quickstart", made, never)
    assert (again.version, again.reused) == (1, True)
    after = resolve(local, "quickstart").version
    assert (after.tags, after.run_id) == (before.tags, before.run_id)
    assert not (records(local) / "model.sig").exists()


@pytest.mark.parametrize("broken", ["statement.from_lineage", "bom.bill", "card.card", "sign", "hash_model"])
def test_a_record_that_fails_leaves_no_version(
    broken: str, local: Registry, evidence: Make, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> None:
        raise RegistryError("broken on purpose")

    monkeypatch.setattr(f"registry.attest.record.{broken}", fail)
    with pytest.raises(RegistryError, match="broken on purpose"):
        register(local, "quickstart", evidence(), complete(tmp_path, key))
    with pytest.raises(NotRegistered):
        resolve(local, "quickstart")
    with asking(local) as client:
        assert client.get_experiment_by_name("quickstart") is None


def test_a_merged_file_that_was_changed_is_not_registered(local: Registry, evidence: Make, tmp_path: Path) -> None:
    made = evidence()
    path = made.folder / "tokenizer_config.json"
    path.chmod(0o644)
    path.write_bytes(bytes(reversed(path.read_bytes())))
    with pytest.raises(RegistryError, match=r"tokenizer_config\.json: expected SHA-256 .* changed after the merge"):
        register(local, "quickstart", made, complete(tmp_path, None))


def test_licences_of_the_inputs_reach_every_record(evidence: Make, tmp_path: Path) -> None:
    made = evidence()
    inputs = tuple(replace(one, source=replace(one.source, license="llama2")) for one in made.lineage.inputs)
    licensed = replace(made, lineage=replace(made.lineage, inputs=inputs))
    files = complete(tmp_path, None)(licensed).files
    stated = read(files["provenance/statement.json"].read_text())
    assert (stated.subject.licence, stated.dependencies[0].licence) == ("llama2", "llama2")
    merged = json.loads(files["provenance/bom.cdx.json"].read_text())["metadata"]["component"]
    assert merged["licenses"] == [{"license": {"name": "llama2"}}]
    assert "license: llama2\n" in files["provenance/README.md"].read_text()


def test_a_server_s_version_is_attested_too(server: Registry, evidence: Make, key: SigningKey, tmp_path: Path) -> None:
    register(server, "quickstart", evidence(salt="server"), complete(tmp_path, key))
    found = records(server)
    verify(download(server, "quickstart", tmp_path / "down"), found / "model.sig", found / "public_key.pem")
