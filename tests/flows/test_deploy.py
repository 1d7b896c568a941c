"""The deployment in prefect.yaml: a real server, a process pool and a worker, from a workspace to a champion."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.assets import asset, workspace_files
from flows.hub import make_hub
from tasks.ledger import read_ledger
from tasks.workspace import create_workspace
from tests.flows.machine import PREFECT, asked_of, bare_environment, prefect_server, quick, running

pytestmark = pytest.mark.slow


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """The quickstart's workspace, beside its hub."""
    make_hub(tmp_path / "hub", asset("examples/quickstart"))
    tasks = asset("examples/quickstart/evaluation")
    evaluation = {f"evaluation/{file.name}": file.read_text() for file in tasks.iterdir()}
    files = workspace_files("quickstart") | evaluation
    files["recipes/quickstart.yaml"] = yaml.safe_dump(quick(files["recipes/quickstart.yaml"]))
    return create_workspace(tmp_path / "workspace", files)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return bare_environment(tmp_path)


@pytest.fixture
def prefect(environment: dict[str, str], workspace: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """prefect(*arguments) -> its output, run in the workspace against a real server."""

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [*PREFECT, *arguments], cwd=workspace, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    with prefect_server(environment, tmp_path / "server.log"):
        yield call


def inspected(environment: Mapping[str, str], flow: str) -> dict[str, Any]:
    """A deployment that is named as its flow; `prefect deployment inspect` fails on one with a trigger."""
    found: dict[str, Any] = asked_of(environment, f"/deployments/name/{flow}/{flow}")
    return found


def test_a_worker_runs_the_deployed_pipeline_to_a_registered_champion(
    prefect: Callable[..., str], environment: dict[str, str], workspace: Path, tmp_path: Path
) -> None:
    prefect("work-pool", "create", "widen", "--type", "process")
    prefect("deploy", "--all")
    first = inspected(environment, "merge")
    prefect("deploy", "--all")
    assert inspected(environment, "merge")["id"] == first["id"]
    assert first["parameters"] == {
        "recipe": "recipes/quickstart.yaml",
        "workspace": str(workspace),
        "device": "auto",
    }
    assert not first["pull_steps"]
    require_trigger_and_schedule(environment, workspace)

    worker, log = [*PREFECT, "worker", "start", "--pool", "widen"], tmp_path / "worker.log"
    with running(worker, environment, log):
        watched = prefect("deployment", "run", "merge/merge", "--watch", "--watch-timeout", "540")
        assert "finished successfully in 'Completed'" in watched, log.read_text()
        looked = prefect("deployment", "run", "watch/watch", "--watch", "--watch-timeout", "540")
        assert "finished successfully in 'Completed'" in looked, log.read_text()

    assert (workspace / "merged" / "quickstart" / "widen-manifest.json").is_file()
    assert {path.name for path in (workspace / "sources").glob("*.dvc")} == {
        "base.dvc",
        "indonesian.dvc",
        "tagger.dvc",
    }
    registered = json.loads((workspace / "runs" / "quickstart" / "registered.json").read_text())
    assert champion(workspace, environment) == str(registered["version"])
    assert not (tmp_path / "home" / ".prefect").exists()

    # The watch takes a run that it did not ask for as an answer, and asks for none.
    ledger = read_ledger(workspace, "quickstart")
    assert {name: one.state for name, one in ledger.looks.items()} == {
        "base": "fixed",
        "tagger": "same",
        "indonesian": "same",
    }
    assert ledger.outcome is not None
    assert (ledger.outcome.state, ledger.outcome.version) == ("promoted", registered["version"])
    assert asked_of(environment, "/flow_runs/count", {"flows": {"name": {"any_": ["remerge"]}}}) == 0


def require_trigger_and_schedule(environment: Mapping[str, str], workspace: Path) -> None:
    """One trigger after two deployments, of this workspace alone, with the event's field still to be filled in."""
    (trigger,) = asked_of(environment, "/automations/filter", {})
    assert trigger["trigger"]["match"] == {
        "prefect.resource.id": "widen.recipe.*",
        "widen.workspace": str(workspace),
    }
    assert trigger["actions"][0]["parameters"]["update"] == {
        "__prefect_kind": "jinja",
        "template": "{{ event.payload['update'] }}",
    }
    (schedule,) = inspected(environment, "watch")["schedules"]
    assert (schedule["active"], schedule["schedule"]["interval"]) == (True, 300)
    assert inspected(environment, "remerge")["parameters"] == {"workspace": str(workspace), "device": "auto"}


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
