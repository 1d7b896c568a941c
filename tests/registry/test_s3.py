"""Artifacts on S3: a real server that speaks it, a real MLflow server before it, and a registry without one."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry import collection
from registry.collection import collect
from registry.errors import RegistryError
from registry.promotion import promote
from registry.registration import Evidence, register
from registry.restoration import restore
from registry.store import Registry, asking
from registry.versions import download, held_folder
from registry.weights import RECORD
from tests.registry.conftest import free_port, mlflow_server
from tests.registry.test_gc import LATER, NOTHING, files, tag

pytestmark = pytest.mark.slow
Make = Callable[..., Evidence]
BUCKET = "models"
KEYS = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def moto(log: Path, **environment: str) -> Iterator[str]:
    """The address of an S3 server in a process group of its own."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield _waited(f"http://127.0.0.1:{port}", process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _waited(address: str, process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return address
    raise RuntimeError(log.read_text())


@pytest.fixture(scope="module", autouse=True)
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The environment of a machine with credentials for an S3 server that has one bucket."""
    with pytest.MonkeyPatch.context() as patch, moto(tmp_path_factory.mktemp("s3") / "log") as address:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
            patch.setenv(name, address)
        client().create_bucket(Bucket=BUCKET)
        yield address


def client() -> Any:
    import boto3

    return boto3.client("s3")


def objects() -> set[str]:
    """The names of all objects in the bucket."""
    return {one["Key"] for one in client().list_objects_v2(Bucket=BUCKET).get("Contents", [])}


def model_files(keys: set[str]) -> list[str]:
    return sorted(key.rpartition("/")[2] for key in keys if "/models/" in key)


@pytest.fixture(scope="module")
def served(s3: str, tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Registry]:
    """A real MLflow server whose artifacts lie in the bucket; this machine's clients hold no credentials for it."""
    home = tmp_path_factory.mktemp("served")
    (home / "mlflow.db").write_bytes(empty_store.read_bytes())
    with mlflow_server(home, f"sqlite:///{home / 'mlflow.db'}", 1, f"s3://{BUCKET}/served") as registry:
        yield registry


@pytest.fixture
def direct(local: Registry) -> Registry:
    """A SQLite registry whose files lie in the bucket."""
    return Registry(local.uri, local.artifact_root, f"s3://{BUCKET}/direct")


@pytest.fixture(params=["served", "direct"])
def registry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(collection, "SETTLING", 0.2)
    found: Registry = request.getfixturevalue(request.param)
    return found


def test_registered_promoted_freed_and_restored(registry: Registry, evidence: Make, tmp_path: Path) -> None:
    before = objects()
    first, second = (evidence(salt=f"{one}") for one in "ab")
    for one in (first, second):
        register(registry, "m", one)
    promote(registry, "m", 2, second.decision, by="Ada", reason="better")
    assert held_folder(registry, "m@champion") is None
    (tmp_path / "down").mkdir()
    found = download(registry, "m@champion", tmp_path / "down")
    assert (found / "model.safetensors").read_bytes() == (second.folder / "model.safetensors").read_bytes()
    whole = objects() - before
    assert model_files(whole).count("model.safetensors") == 2
    (done,) = collect(registry, ["m"], NOTHING, LATER)
    assert (done.version, done.left, done.gained) == (1, None, done.removed)
    gone = whole - objects()
    assert model_files(gone) == sorted(files(registry, "m/2") - RECORD)
    assert model_files(objects() - before).count("model.safetensors") == 1
    assert (files(registry, "m/1"), (tag(registry, "m/1") or "").split()[-1]) == (RECORD, "bytes")
    restore(registry, "m/1", first.folder)
    assert objects() - before == whole
    (tmp_path / "again").mkdir()
    found = download(registry, "m/1", tmp_path / "again")
    assert (found / "model.safetensors").read_bytes() == (first.folder / "model.safetensors").read_bytes()


def no_half_version(registry: Registry) -> None:
    with asking(registry) as held:
        assert held.search_model_versions("name = 'm'") == []
        models = held.search_logged_models([str(one.experiment_id) for one in held.search_experiments()])
        assert {str(one.status) for one in models} <= {"FAILED"}


def test_a_missing_bucket_is_named_and_no_half_version_stays(local: Registry, evidence: Make) -> None:
    absent = Registry(local.uri, local.artifact_root, "s3://no-such-bucket/here")
    with pytest.raises(
        RegistryError, match="bucket no-such-bucket: there is no such bucket: make it, or correct"
    ) as told:
        register(absent, "m", evidence())
    assert "\n" not in str(told.value)
    no_half_version(absent)


def test_a_storage_that_is_away_is_named(direct: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RegistryError, match=rf"bucket {BUCKET}: nobody answers at http://127.0.0.1:\d+: start") as told:
        register(direct, "m", evidence())
    assert "\n" not in str(told.value)
    no_half_version(direct)


def test_refused_credentials_are_named(
    direct: Registry, evidence: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with moto(tmp_path / "strict", INITIAL_NO_AUTH_ACTION_COUNT="1") as address:
        for name in ("AWS_ENDPOINT_URL", "MLFLOW_S3_ENDPOINT_URL"):
            monkeypatch.setenv(name, address)
        client().create_bucket(Bucket=BUCKET)  # the one call that this server takes from anybody
        with pytest.raises(RegistryError, match=f"bucket {BUCKET}: access denied, the key is unknown") as told:
            register(direct, "m", evidence())
    assert "\n" not in str(told.value)
    no_half_version(direct)


def test_a_server_whose_bucket_is_missing_is_told_apart_from_one_that_is_away(
    s3: str, tmp_path: Path, empty_store: Path, evidence: Make
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with mlflow_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", 1, "s3://no-such-bucket/x") as registry:
        with pytest.raises(RegistryError, match="the server answers and its storage of artifacts does not") as told:
            register(registry, "m", evidence())
        assert "\n" not in str(told.value)
        no_half_version(registry)


def test_the_place_of_a_models_files_does_not_change_unnoticed(
    direct: Registry, local: Registry, evidence: Make
) -> None:
    register(local, "m", evidence())
    with pytest.raises(RegistryError, match=f"which cannot change to s3://{BUCKET}/direct"):
        register(direct, "m", evidence(salt="second"))


def test_an_address_that_is_neither_folder_nor_bucket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="expected a folder or s3://BUCKET/PREFIX"):
        Registry.at(None, tmp_path, "gs://bucket/x")
    assert Registry.at(None, tmp_path, "s3://b/p/").bucket == "s3://b/p"
    assert Registry.at(None, tmp_path, "shared").artifact_root == tmp_path / "shared"
