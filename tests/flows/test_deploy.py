"""The deployment in prefect.yaml: a real server, a process pool and a worker, from a workspace to a champion."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from flows.assets import asset, workspace_files
from flows.hub import make_hub
from tasks.workspace import create_workspace

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def quick(recipe: str) -> str:
    """The quickstart's recipe with fewer questions, and a gate that so few can decide."""
    asked = yaml.safe_load(recipe)
    asked["evaluate"] |= {"tasks": ["bpb_en"], "limit": 40}
    asked["gates"] = {"absolute": [{"task": "bpb_en", "metric": "bits_per_byte", "ceiling": 4.0}]}
    return yaml.safe_dump(asked)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The quickstart's workspace, beside its hub."""
    make_hub(tmp_path / "hub", asset("examples/quickstart"))
    tasks = asset("examples/quickstart/evaluation")
    evaluation = {f"evaluation/{file.name}": file.read_text() for file in tasks.iterdir()}
    files = workspace_files("quickstart") | evaluation
    files["recipes/quickstart.yaml"] = quick(files["recipes/quickstart.yaml"])
    return create_workspace(tmp_path / "workspace", files)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine with an empty HOME where the project is importable, and the address of a server to be started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "home").mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return inherited | {
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
    }


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; afterwards the whole group is ended, which may outlive one SIGTERM."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"no server at {url}: {log.read_text()}")


@pytest.fixture
def prefect(environment: dict[str, str], workspace: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """prefect(*arguments) -> its output, run in the workspace against a real server."""
    url = environment["PREFECT_API_URL"]
    port = url.split(":")[2].removesuffix("/api")

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [*PREFECT, *arguments], cwd=workspace, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    log = tmp_path / "server.log"
    with running([*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port], environment, log) as server:
        wait_for_health(url, server, log)
        yield call


def inspected(prefect: Callable[..., str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(prefect("deployment", "inspect", "merge/merge", "--output", "json"))
    return found


def test_a_worker_runs_the_deployed_pipeline_to_a_registered_champion(
    prefect: Callable[..., str], environment: dict[str, str], workspace: Path, tmp_path: Path
) -> None:
    prefect("work-pool", "create", "widen", "--type", "process")
    prefect("deploy", "--all")
    first = inspected(prefect)
    prefect("deploy", "--all")
    assert inspected(prefect)["id"] == first["id"]
    assert first["parameters"] == {
        "recipe": "recipes/quickstart.yaml",
        "workspace": str(workspace),
        "device": "auto",
    }
    assert not first["pull_steps"]

    worker, log = [*PREFECT, "worker", "start", "--pool", "widen"], tmp_path / "worker.log"
    with running(worker, environment, log):
        watched = prefect("deployment", "run", "merge/merge", "--watch", "--watch-timeout", "540")
    assert "finished successfully in 'Completed'" in watched, log.read_text()

    assert (workspace / "merged" / "quickstart" / "widen-manifest.json").is_file()
    assert {path.name for path in (workspace / "sources").glob("*.dvc")} == {
        "base.dvc",
        "indonesian.dvc",
        "tagger.dvc",
    }
    registered = json.loads((workspace / "runs" / "quickstart" / "registered.json").read_text())
    assert champion(workspace, environment) == str(registered["version"])
    assert not (tmp_path / "home" / ".prefect").exists()


def champion(workspace: Path, environment: Mapping[str, str]) -> str:
    """The version that the registry's `champion` alias points to, read by MLflow itself in a fresh process."""
    code = (
        "import sys; from mlflow import MlflowClient; "
        "print(MlflowClient(sys.argv[1]).get_model_version_by_alias('quickstart', 'champion').version)"
    )
    uri = f"sqlite:///{workspace}/.widen/registry/mlflow.db"
    done = subprocess.run([sys.executable, "-c", code, uri], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]
