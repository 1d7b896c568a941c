"""The demo's version, checked with the official tools alone; and what a run takes from its environment for it."""

import hashlib
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement

from flows.recipe import load_recipe
from flows.road import Road, plainly
from flows.stations import source_record
from registry.attest.keys import generate
from registry.errors import RegistryError
from registry.store import Registry
from registry.versions import Version, download, resolve
from tasks.fetch import Fetched
from tests.flows.conftest import ROOT, Ran

RECIPE = """\
name: r
sources:
  base: {repo: ../hub, path: base, rev: v1, license: MIT}
  chat: {repo: ../hub, path: chat, rev: v1}
merge: {merge_method: widen, base_model: base, models: [{model: chat}]}
"""


@pytest.fixture(scope="module")
def version(demo: Ran) -> Version:
    return resolve(Registry.at(None, demo.workspace), "quickstart@champion").version


@pytest.fixture(scope="module")
def model(demo: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registered checkpoint, downloaded."""
    return download(Registry.at(None, demo.workspace), "quickstart@champion", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def records(demo: Ran, version: Version) -> Path:
    (found,) = (demo.workspace / ".widen" / "registry").rglob("artifacts/provenance")
    return Path(found)


def test_the_demo_s_key_is_its_owner_s_alone_and_signed_the_version(demo: Ran, version: Version) -> None:
    keys = demo.folder / "keys"
    assert stat.S_IMODE((keys / "signing_key.pem").stat().st_mode) == 0o600
    fingerprint = hashlib.sha256((keys / "public_key.pem").read_bytes()).hexdigest()
    assert version.tag("signature") == fingerprint
    assert f"signed by the key {fingerprint}" in demo.out
    secret = (keys / "signing_key.pem").read_text().splitlines()[1]
    assert secret not in demo.out + demo.err
    held = [path for path in demo.folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert held == [keys / "signing_key.pem"]


def test_model_signing_s_command_accepts_the_downloaded_folder(demo: Ran, model: Path, records: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(model)]
    command += ["--signature", str(records / "model.sig"), "--public_key", str(demo.folder / "keys" / "public_key.pem")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Verification succeeded\n"), done.stderr


def test_the_statement_is_in_toto_s_and_slsa_s_and_names_the_signed_model(version: Version, records: Path) -> None:
    text = (records / "statement.json").read_text()
    Statement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement())).validate()
    held = json.loads(text)
    json_format.ParseDict(held["predicate"], provenance_pb2.Provenance())
    assert held["subject"][0]["digest"]["sha256"] == version.tag("root_digest")
    named = {one["name"]: one for one in held["predicate"]["buildDefinition"]["resolvedDependencies"]}
    commit = named["base"]["digest"]["gitCommit"]
    assert named["tagger"]["uri"] == f"git+file:../hub@{commit}#checkpoints/tagger"
    original = ROOT / "examples" / "quickstart" / "checkpoints" / "tagger-v1" / "model.safetensors"
    expected = hashlib.sha256(original.read_bytes()).hexdigest()
    assert named["tagger/model.safetensors"]["digest"]["sha256"] == expected
    for one in held["predicate"]["runDetails"]["byproducts"]:
        assert hashlib.sha256((records.parent / one["name"]).read_bytes()).hexdigest() == one["digest"]["sha256"]


def test_bill_and_card_are_valid(records: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str((records / "bom.cdx.json").read_text()) is None
    card = ModelCard.load(records / "README.md")
    assert (card.data.license, len(card.data.eval_results)) == ("apache-2.0", 4)
    assert card.data.base_model[0] == "../hub/checkpoints/base"


@pytest.fixture
def road(tmp_path: Path) -> Road:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return Road(load_recipe(tmp_path / "r.yaml"), tmp_path, "cpu", plainly)


def test_the_key_comes_from_the_environment(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WIDEN_SIGNING_KEY", raising=False)
    assert road.signing_key is None
    private = generate(tmp_path / "keys")
    for setting in (str(private), private.read_text()):
        monkeypatch.setenv("WIDEN_SIGNING_KEY", setting)
        assert road.signing_key is not None
        assert road.signing_key.public_pem == (tmp_path / "keys" / "public_key.pem").read_text()
    monkeypatch.setenv("WIDEN_SIGNING_KEY_PASSWORD", "needless")
    with pytest.raises(RegistryError, match="WIDEN_SIGNING_KEY_PASSWORD"):
        _ = road.signing_key


def test_the_recipe_s_licence_comes_before_the_checkpoint_s_own(road: Road, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: llama2\n---\n")
    found = {
        name: source_record(road, Fetched(name, tmp_path, name, "../hub", "v1", "c" * 40, None)).license
        for name in ("base", "chat")
    }
    assert found == {"base": "MIT", "chat": "llama2"}
