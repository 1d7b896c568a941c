"""An update from the event to its end, on a real server with a worker and the daemon; in this order."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.assets import asset, workspace_files
from flows.hub import make_hub
from tasks.ledger import read_ledger
from tasks.updates import Ledger
from tasks.workspace import create_workspace
from tests.flows.conftest import ROOT
from tests.flows.machine import PREFECT, asked_of, bare_environment, prefect_server, quick, running

pytestmark = pytest.mark.slow
PATIENCE = 240.0


@dataclass
class Machine:
    """A hub, a workspace that follows it, a Prefect server and a worker."""

    place: Path
    environment: dict[str, str]
    server: ExitStack = field(default_factory=ExitStack)

    @property
    def hub(self) -> Path:
        return self.place / "hub"

    @property
    def workspace(self) -> Path:
        return self.place / "workspace"

    @property
    def ledger(self) -> Ledger:
        return read_ledger(self.workspace, "quickstart")

    def start_server(self) -> None:
        self.server.enter_context(prefect_server(self.environment, self.place / "server.log"))

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Its flow runs that began, the oldest first."""
        found = asked_of(self.environment, "/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "limit": 200})
        begun = [one for one in found if one["start_time"] is not None]
        return sorted(begun, key=lambda one: str(one["start_time"]))

    def worked(self) -> list[dict[str, Any]]:
        """The re-merges that had something to do: on a slow machine one may be asked for twice, and ends at once."""
        idle = ("Unchanged", "Superseded")
        return [one for one in self.runs("remerge") if one["state"]["name"] not in idle]

    def until(self, what: Callable[[], Any]) -> Any:
        """What it answers as soon as that is true."""
        deadline = time.monotonic() + PATIENCE
        while not (found := what()):
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)
        return found

    def state(self) -> tuple[str, str] | None:
        """The newest update and how far it came."""
        ledger = self.ledger
        if ledger.update is None or ledger.outcome is None:
            return None
        return ledger.update.id, ledger.outcome.state

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        recipe = self.workspace / "recipes" / "quickstart.yaml"
        content = yaml.safe_load(recipe.read_text())
        change(content)
        recipe.write_text(yaml.safe_dump(content))

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-6000:]}" for log in sorted(self.place.glob("*.log")))

    def git(self, *arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=self.workspace, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    place = tmp_path_factory.mktemp("machine")
    settings = {"WIDEN_WATCH_SECONDS": "1", "WIDEN_QUIET_SECONDS": "1"}
    made = Machine(place, bare_environment(place) | settings)
    make_hub(made.hub, asset("examples/quickstart"))
    tasks = asset("examples/quickstart/evaluation")
    files = workspace_files("quickstart") | {f"evaluation/{one.name}": one.read_text() for one in tasks.iterdir()}
    recipe = quick(files["recipes/quickstart.yaml"])
    for name, source in recipe["sources"].items():
        source["rev"] = "v*" if name == "tagger" else "v1"
    create_workspace(made.workspace, files | {"recipes/quickstart.yaml": yaml.safe_dump(recipe)})
    with made.server:
        made.start_server()
        for command in (["work-pool", "create", "widen", "--type", "process"], ["deploy", "--all"]):
            subprocess.run([*PREFECT, *command], cwd=made.workspace, env=made.environment, check=True)
        with running([*PREFECT, "worker", "start", "--pool", "widen"], made.environment, place / "worker.log"):
            yield made


@pytest.fixture(scope="module")
def daemon(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """`widen watch`, which alone looks: the backstop rests."""
    pause = [*PREFECT, "deployment", "schedule", "pause", "--all"]
    subprocess.run(pause, cwd=machine.workspace, env=machine.environment, check=True)
    command = [sys.executable, "-m", "flows", "watch", "--workspace", str(machine.workspace)]
    with running(command, machine.environment, machine.place / "watch.log") as process:
        yield process


def test_an_event_starts_one_run_and_the_first_champion_is_promoted(
    machine: Machine, daemon: subprocess.Popen[bytes]
) -> None:
    update, _ = machine.until(lambda: (found := machine.state()) and found[1] == "promoted" and found)
    machine.until(lambda: len(machine.worked()) == 1)
    (run,) = machine.worked()
    assert run["parameters"] == {"update": update, "workspace": str(machine.workspace), "device": "auto"}
    assert machine.ledger.outcome is not None
    assert machine.ledger.outcome.flow_run == run["id"]
    machine.until(lambda: machine.worked()[0]["state"]["name"] == "Promoted")
    assert machine.git("branch", "--show-current") == "main"
    assert machine.git("log", "-1", "--format=%s", "main") == "Set up a widen workspace"
    assert update in machine.git("log", "-1", "--format=%(trailers:key=Widen-Update)", "follow/quickstart")


def test_what_the_gate_refuses_is_held_with_its_reason_and_not_tried_again(
    machine: Machine, daemon: subprocess.Popen[bytes]
) -> None:
    machine.edit(lambda recipe: recipe["gates"]["absolute"][0].update(ceiling=0.1))
    machine.until(lambda: (found := machine.state()) and found[1] == "held")
    machine.until(lambda: machine.worked()[-1]["state"]["name"] == "Held")
    last = machine.worked()[-1]
    assert "the gate says FAIL" in last["state"]["message"]
    machine.until(lambda: [one for one in events(machine) if one["event"] == "widen.held"])
    (held,) = [one for one in events(machine) if one["event"] == "widen.held"]
    assert held["resource"]["widen.workspace"] == str(machine.workspace)
    assert "FAIL" in held["payload"]["reason"]
    assert Path(held["payload"]["report"]).is_file()
    time.sleep(3)  # three looks
    machine.until(lambda: len(machine.worked()) == 2)
    assert machine.worked()[-1]["id"] == last["id"]


def events(machine: Machine) -> list[dict[str, Any]]:
    asked = {"filter": {"event": {"prefix": ["widen."]}, "order": "ASC"}, "limit": 50}
    found: list[dict[str, Any]] = asked_of(machine.environment, "/events/filter", asked)["events"]
    return found


def test_a_run_of_what_ended_or_is_old_ends_at_once(machine: Machine) -> None:
    done, _ = machine.state() or ("", "")
    for update, name in ((done, "Unchanged"), ("quickstart-000000000000", "Superseded")):
        command = ["deployment", "run", "remerge/remerge", "--param", f"update={update}", "--watch"]
        asked = subprocess.run([*PREFECT, *command], env=machine.environment, capture_output=True, text=True)
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert f"'{name}'" in asked.stdout


CROWD = """
import sys, time
from pathlib import Path
from prefect import flow
import widen.backend
from flows.gpu_slot import gpu_slot
from flows.recipe import load_recipe
from flows.road import Road, orchestrated
widen.backend._has_nvidia_device = lambda: True

@flow
def one():
    with gpu_slot(Road(load_recipe(Path(sys.argv[1])), Path("."), "auto", orchestrated)):
        began = time.time()
        time.sleep(3)
        print("held", began, time.time())
one()
"""


def test_two_runs_do_not_compute_on_the_accelerator_at_once(machine: Machine) -> None:
    command = [sys.executable, "-c", CROWD, str(ROOT / "recipes" / "quickstart.yaml")]
    runs = [
        subprocess.Popen(command, env=machine.environment, cwd=machine.place, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    spans = []
    for run in runs:
        out, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == 0
        spans += [tuple(map(float, line.split()[1:])) for line in out.splitlines() if line.startswith("held")]
    (_, first_ended), (second_began, _) = sorted(spans)
    assert first_ended <= second_began
