"""A team in one folder: a hub, a workspace that follows it, and the services that `widen up` keeps running."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from flows.assets import asset, workspace_files
from flows.hub import make_hub, next_tag, publish_text, release
from tasks.ledger import read_ledger
from tasks.updates import DONE, Ledger, Outcome
from tasks.workspace import create_workspace
from tests.flows.conftest import ROOT
from tests.flows.machine import free_ports

NAME = "quickstart"
CHECKPOINTS = asset("examples/quickstart/checkpoints")
PATIENCE = 300.0  # seconds; a test that waits so long has failed


def followed(recipe: str) -> str:
    """The quickstart's recipe, following every release, with half of the tasks and a gate that decides fast."""
    asked = yaml.safe_load(recipe)
    for source in asked["sources"].values():
        source["rev"] = "v*"
    asked["evaluate"] |= {"tasks": ["app_en", "bpb_id"], "limit": 200}
    asked["gates"] = {
        "absolute": [{"task": "app_en", "metric": "acc", "floor": 0.4}],
        "parents": [{"task": "bpb_id", "metric": "bits_per_byte", "owner": "indonesian", "keep": 0.5}],
        "champion": [{"task": "bpb_id", "metric": "bits_per_byte", "margin": 0.5}],
    }
    return yaml.safe_dump(asked)


def _answer(request: urllib.request.Request) -> Any:
    """What the server says; one that is busy (503) is asked again, as Prefect's own client does."""
    for pause in (1, 2, 4, 8):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(pause)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@dataclass
class Team:
    """The machine. Nothing here starts a run: that is the services' own work."""

    folder: Path
    settings: dict[str, str]
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        make_hub(self.hub, asset("examples/quickstart"))
        tasks = asset("examples/quickstart/evaluation")
        evaluation = {f"evaluation/{file.name}": file.read_text() for file in tasks.iterdir()}
        files = workspace_files(NAME) | evaluation
        files[f"recipes/{NAME}.yaml"] = followed(files[f"recipes/{NAME}.yaml"])
        create_workspace(self.workspace, files)
        (self.folder / "home").mkdir()
        ours = ("PREFECT_", "MLFLOW_", "HF_", "WIDEN_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environment = kept | {"HOME": str(self.folder / "home"), "PYTHONPATH": str(ROOT)} | self.settings

    @property
    def hub(self) -> Path:
        """The upstream repository."""
        return self.folder / "hub"

    @property
    def workspace(self) -> Path:
        """What follows it."""
        return self.folder / "workspace"

    @property
    def ledger(self) -> Ledger:
        """What the workspace knows of its recipe."""
        return read_ledger(self.workspace, NAME)

    def widen(self, *arguments: object, code: int = 0) -> str:
        """The output of the command, which must end with `code`."""
        command = [sys.executable, "-P", "-m", "flows", *map(str, arguments), "--workspace", str(self.workspace)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def supervisor(self, *arguments: str) -> str:
        """What `supervisorctl` says."""
        command = [sys.executable, "-P", "-m", "supervisor.supervisorctl", "-c", "supervisord.conf", *arguments]
        folder = self.workspace / ".widen" / "services"
        return subprocess.run(command, cwd=folder, env=self.environment, capture_output=True, text=True).stdout

    def log(self, service: str) -> str:
        """What a service wrote."""
        return (self.workspace / ".widen" / "services" / "logs" / f"{service}.log").read_text()

    # Upstream

    def publish(self, checkpoint: str, of: str, share: float) -> str:
        """Release `checkpoint` as the quickstart's `of`, gone `share` of the way from the base; returns the tag."""
        source, out = CHECKPOINTS / of, self.folder / "made"
        out.mkdir(exist_ok=True)
        for file in sorted(source.iterdir()):
            (out / file.name).write_bytes(file.read_bytes())
        base, there = (load_file(place / "model.safetensors") for place in (CHECKPOINTS / "base", source))
        moved = {name: torch.lerp(base[name].float(), one.float(), share).bfloat16() for name, one in there.items()}
        save_file(moved, out / "model.safetensors", metadata={"format": "pt"})
        tag = next_tag(self.hub)
        release(self.hub, tag, checkpoint, out)
        return tag

    def publish_readme(self) -> str:
        """Release a commit that touches no checkpoint; returns the tag."""
        tag = next_tag(self.hub)
        publish_text(self.hub, tag, "README.md", f"Release {tag}.\n")
        return tag

    # What came of it

    def wait(self, what: str, found: Callable[[], Any]) -> Any:
        """What `found` returns as soon as that is something."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if value := found():
                return value
            time.sleep(0.2)
        told = "\n".join(f"--- {name}\n{self.log(name)[-3000:]}" for name in ("watch", "worker"))
        pytest.fail(f"waited {PATIENCE:.0f} s for {what}; {self.ledger}\n{told}")

    def settled(self, tags: dict[str, str]) -> Outcome:
        """How the update ended in which each source has the tag in `tags`, once Prefect knows that its run did."""
        outcome: Outcome = self.wait(f"an end of {tags}", lambda: self._ended(tags, DONE))
        self.wait("the end of its run", lambda: all(one["state"]["type"] != "RUNNING" for one in self.runs()))
        return outcome

    def state(self, tags: dict[str, str], *states: str) -> Outcome:
        """The outcome of the update of these tags once it has one of `states`."""
        return self.wait(f"{states} of {tags}", lambda: self._ended(tags, frozenset(states)))

    def _ended(self, tags: dict[str, str], states: frozenset[str]) -> Outcome | None:
        update, outcome = self.ledger.update, self.ledger.outcome
        if update is None or outcome is None or outcome.state not in states:
            return None
        return outcome if all(update.pins[name].ref == tag for name, tag in tags.items()) else None

    def checks(self, count: int) -> None:
        """Let the watch look `count` times more."""
        for _ in range(count):
            last = self.ledger.checked_at
            self.wait("a check", lambda last=last: self.ledger.checked_at != last)

    def prefect(self, path: str, body: object = None) -> Any:
        """An answer of Prefect's API; without a body it is asked by GET."""
        lines = (self.workspace / ".widen" / "services" / "credentials").read_text().splitlines()
        password = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")["WIDEN_PASSWORD"]
        headers = {
            "Authorization": "Basic " + b64encode(f"widen:{password}".encode()).decode(),
            "Content-Type": "application/json",
        }
        address = f"http://127.0.0.1:{self.settings['WIDEN_PREFECT_PORT']}/api/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers)
        return _answer(request)

    def artifacts(self) -> dict[str, Any]:
        """The newest artifact of each key of the recipe, by the key without the recipe's name."""
        wanted = {"artifacts": {"key": {"like_": f"{NAME}-%"}}, "sort": "CREATED_DESC", "limit": 200}
        newest: dict[str, Any] = {}
        for one in self.prefect("artifacts/filter", wanted):
            newest.setdefault(one["key"].removeprefix(f"{NAME}-"), one)
        return newest

    def events(self, event: str) -> list[dict[str, Any]]:
        """The events of a name, oldest first."""
        wanted = {"filter": {"event": {"prefix": [event]}, "order": "ASC"}, "limit": 50}
        found: list[dict[str, Any]] = self.prefect("events/filter", wanted)["events"]
        return found

    def git(self, *arguments: str) -> str:
        """What git says in the workspace."""
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.workspace, check=True, capture_output=True, text=True).stdout.strip()

    def runs(self, flow: str = "remerge") -> list[dict[str, Any]]:
        """The runs of a flow that were not given up before they began, oldest first."""
        wanted = {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        found = [one for one in self.prefect("flow_runs/filter", wanted) if one["state"]["type"] != "SCHEDULED"]
        return [one for one in found if one["state"]["name"] != "Superseded"]

    def said(self, flow_run: str) -> str:
        """What a flow run logged."""
        wanted = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return "\n".join(one["message"] for one in self.prefect("logs/filter", wanted))

    def history(self) -> list[dict[str, Any]]:
        """The entries of the champion's history."""
        entries: list[dict[str, Any]] = json.loads(self.widen("history", NAME, "--json"))["entries"]
        return entries


@contextmanager
def team_at_work(folder: Path, **settings: object) -> Iterator[Team]:
    """A team whose services run; all of them are ended afterwards."""
    prefect, mlflow = free_ports(2)
    chosen = {
        "WIDEN_PREFECT_PORT": prefect,
        "WIDEN_MLFLOW_PORT": mlflow,
        "WIDEN_REGISTRY": f"http://127.0.0.1:{mlflow}",
        "WIDEN_WATCH_SECONDS": 2,
        "WIDEN_QUIET_SECONDS": 4,
        "WIDEN_RETRY_SECONDS": 5,
        **settings,
    }
    team = Team(folder, {name: str(value) for name, value in chosen.items()})
    try:
        team.widen("up")
        yield team
    finally:
        team.widen("down")
