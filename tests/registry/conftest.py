"""Real stores, a real server and a real checkpoint for the registry's tests."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from registry.decision import Decision
from registry.gate import Absolute, decide
from registry.lineage import MANIFEST, SourceRecord, build
from registry.promotion import promote
from registry.provenance import collect
from registry.registration import Evidence
from registry.scorecard import Document, Scorecard, TaskScores
from registry.store import Registry, asking
from registry.versions import DECISION, MERGED, VERDICT

CHECKPOINTS = Path(__file__).parents[2] / "examples" / "quickstart" / "checkpoints"

SOURCES = (
    SourceRecord("base", "checkpoints/base", "../hub", "v1", "c" * 40, "d" * 32),
    SourceRecord("tagger", "checkpoints/tagger", "../hub", "v1", "c" * 40, "e" * 32),
)


def task_scores(right: int, n: int) -> TaskScores:
    documents = tuple(Document(f"d{i:04}", "t", i < right) for i in range(n))
    return TaskScores("app_en", "acc", "none", "proportion", True, "1", "hash", documents)


def card(model: str, digest: str, right: int, n: int = 100) -> Scorecard:
    return Scorecard(model, digest, "lm-eval 0", (task_scores(right, n),))


def judged(merged: Scorecard, floor: float = 0.5) -> Decision:
    return decide((Absolute("app_en", "acc", floor=floor),), merged, card("base", "b" * 64, 40), {}, 0.05)


def add_version(
    registry: Registry, name: str, salt: str, floor: float = 0.5, against: str | None = None
) -> tuple[int, Decision]:
    """A version with the tags of a registered one and the decision on it, without files: fast."""
    digest = hashlib.sha256(salt.encode()).hexdigest()
    decision = replace(judged(card("merged", digest, 80), floor), against=against)
    tags = {MERGED: digest, DECISION: decision.digest(), VERDICT: decision.verdict.value}
    with asking(registry) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        made = client.create_model_version(name, "s3://nowhere/model", tags=tags)
    return int(made.version), decision


def write_manifest(folder: Path) -> dict[str, object]:
    """A manifest of the files in `folder`, as the merge writes one."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files[str(path.relative_to(folder))] = {"sha256": digest, "size": path.stat().st_size}
    inputs = [
        {"role": role, "name": name, "digest": letter * 64, "files": {"m": {"sha256": letter * 64, "size": 1}}}
        for role, name, letter in (("base", "base", "b"), ("model", "tagger", "c"))
    ]
    manifest: dict[str, object] = {
        "schema": "widen-manifest/1",
        "engine": {"name": "widen", "version": "0"},
        "recipe": {"name": "quickstart", "digest": "f" * 64},
        "method": "widen",
        "settings": {"t": 1.0, "s": 1.0, "out_dtype": "bfloat16"},
        "inputs": inputs,
        "files": files,
        "digest": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return manifest


Make = Callable[..., Evidence]


@pytest.fixture
def evidence(tmp_path: Path) -> Make:
    """A builder of evidence about a real checkpoint; `floor` above 0.6 or so makes the gate say no."""

    def make(floor: float = 0.5, right: int = 80, salt: str = "") -> Evidence:
        folder = tmp_path / f"merged{floor}-{right}-{salt}"
        shutil.copytree(CHECKPOINTS / "base", folder)
        folder.chmod(0o755)
        (folder / "salt.txt").write_text(salt)
        digest = str(write_manifest(folder)["digest"])
        scored = card("merged", digest, right)
        decision = judged(scored, floor)
        lineage = build(folder / MANIFEST, SOURCES, "name: quickstart\n", decision, collect(), "run-1", "{}")
        note = tmp_path / "note.json"
        note.write_text("{}")
        return Evidence(folder, lineage, decision, scored, {"scorecards/base.json": note, "validation.json": note})

    return make


@pytest.fixture(autouse=True)
def nothing_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Asked without an address, MLflow makes a database in the current folder: no test may leave one there."""
    here = tmp_path / "cwd"
    here.mkdir()
    monkeypatch.chdir(here)
    yield
    assert list(here.iterdir()) == []


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without content: migrating takes seconds, copying does not."""
    registry = Registry.at(None, tmp_path_factory.mktemp("empty"))
    with asking(registry, create=True) as client:
        client.search_registered_models()
    assert registry.database is not None
    return registry.database


@pytest.fixture
def local(empty_store: Path, tmp_path: Path) -> Registry:
    """A workspace's own registry, in a folder whose name needs quoting."""
    registry = Registry.at(None, tmp_path / "work space")
    assert registry.database is not None
    registry.database.parent.mkdir(parents=True)
    shutil.copyfile(empty_store, registry.database)
    return registry


@pytest.fixture(scope="session")
def promoted_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Decision]]:
    """A store in which versions 1, 2 and 3 of `m` were promoted in turn, and the decisions on them."""
    database = tmp_path_factory.mktemp("promoted") / "mlflow.db"
    shutil.copyfile(empty_store, database)
    registry, decisions = Registry(f"sqlite:///{database}"), []
    for salt in "abc":
        version, decision = add_version(registry, "m", salt)
        promote(registry, "m", version, decision, by="Ada", reason="the gate passed", flow_run=f"run {salt}")
        decisions.append(decision)
    return database, decisions


@pytest.fixture
def three(local: Registry, promoted_store: tuple[Path, list[Decision]]) -> list[Decision]:
    """Makes `local` a copy of `promoted_store`; the decisions."""
    assert local.database is not None
    shutil.copyfile(promoted_store[0], local.database)
    return promoted_store[1]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Registry]:
    """A real MLflow server on SQLite."""
    home = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, home / "mlflow.db")
    with mlflow_server(home, f"sqlite:///{home / 'mlflow.db'}", workers=1) as registry:
        yield registry


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a real PostgreSQL, outside of pytest's folders: started by root, it runs as another user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the user has no runtime folder
        import pgserver

    try:
        database = pgserver.get_server(tempfile.mkdtemp(prefix="widen-postgres-"), cleanup_mode="delete")
    except Exception as error:  # noqa: BLE001 - started by root it needs a user of its own, which not every machine allows
        pytest.skip(f"no PostgreSQL can be started here: {error}")
    try:
        yield database.get_uri()
    finally:
        database.cleanup()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Registry]:
    """A real MLflow server of two processes on PostgreSQL."""
    with mlflow_server(tmp_path_factory.mktemp("pgserver"), postgres, workers=2) as registry:
        yield registry


@contextmanager
def mlflow_server(home: Path, store: str, workers: int, artifacts: str | None = None) -> Iterator[Registry]:
    """A server in a process group of its own that is ended afterwards; `artifacts` is where it keeps files."""
    uri = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--workers", str(workers), "--host", "127.0.0.1"]
    command += ["--port", uri.rpartition(":")[2], "--backend-store-uri", store]
    command += ["--artifacts-destination", artifacts or str(home / "artifacts")]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(uri, process, home / "log")
        yield Registry(uri)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(uri: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(log.read_text())
