"""Upstream moves, and nobody is at a keyboard: real hub, servers, worker and watch, through good days and bad ones.

The tests tell one story on one machine, whose first merge is the champion before they begin; each holds alone too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.flows.team import NAME, Team, team_at_work

pytestmark = pytest.mark.slow
V1 = {"tagger": "v1", "indonesian": "v1"}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team_at_work(tmp_path_factory.mktemp("team"), WIDEN_BACKSTOP_SECONDS=40) as team:
        assert team.settled(V1).state == "promoted"
        yield team


def champion(team: Team) -> int:
    version: int = team.history()[-1]["to_version"]
    return version


def done(team: Team) -> list[dict[str, Any]]:
    """The runs that did something."""
    return [one for one in team.runs() if one["state"]["name"] in ("Promoted", "Held")]


def test_an_event_started_one_run_and_its_page_alone_tells_the_story(team: Team) -> None:
    update, outcome = team.ledger.update, team.ledger.outcome
    assert update is not None
    assert outcome is not None
    (run,) = team.runs()
    assert run["id"] == outcome.flow_run
    assert run["state"]["name"] == "Promoted"
    assert run["parameters"] == {"update": update.id, "workspace": str(team.workspace), "device": "auto"}
    assert [entry["to_version"] for entry in team.history()] == [1]
    assert team.git("branch", "--show-current") == "main"
    assert team.git("log", "-1", "--format=%s", "main") == "Set up a widen workspace"
    assert update.id in team.git("log", "-1", "--format=%(trailers:key=Widen-Update)", f"follow/{NAME}")

    found = team.artifacts()
    assert set(found) == {
        "measure", "validation", "merge", "evaluation", "scores", "gate", "verdict", "report",
    }  # fmt: skip
    scored = {row["model"] for row in json.loads(found["scores"]["data"])}
    assert scored == {"base", "tagger", "indonesian", "merged"}
    assert {row["verdict"] for row in json.loads(found["gate"]["data"])} == {"✓ PASS"}
    assert {row["model"] for row in json.loads(found["validation"]["data"])} == {"tagger", "indonesian"}
    assert found["evaluation"]["data"] == 100
    assert found["evaluation"]["description"] == "scored: 8 of 8 tasks of all models"
    assert "there was no champion" in found["verdict"]["data"]
    assert str(team.workspace / "runs" / NAME / "report.html") in found["verdict"]["data"]
    assert {one["flow_run_id"] for one in found.values()} == {run["id"]}


def test_upstream_moves_and_nobody_is_at_a_keyboard(team: Team) -> None:
    first = team.artifacts()["gate"]["id"]
    said = len(team.log("worker"))
    better = team.publish("tagger", "tagger-v2", 1.0)
    outcome = team.settled({"tagger": better, "indonesian": "v1"})
    assert outcome.state == "promoted", outcome
    assert [entry["to_version"] for entry in team.history()] == [1, 2]
    assert "statistics of indonesian: 0 tensors measured, 56 known" in team.log("worker")[said:]
    assert outcome.flow_run is not None
    assert "56 computed: changed in tagger" in team.said(outcome.flow_run)
    told = team.git("log", "--notes=widen", "--format=%s%n%b%N", f"follow/{NAME}")
    assert better in told
    assert '"promoted"' in told
    changed = team.git("diff", "--name-only", f"follow/{NAME}~1", f"follow/{NAME}")
    assert changed.split() == ["sources/tagger.dvc"]
    story = team.artifacts()["verdict"]["data"]
    assert "**What moved** since version 1" in story
    assert "because changed in tagger" in story
    assert team.artifacts()["gate"]["id"] != first  # both stay: the key's history

    noise = team.publish("tagger", "tagger-v1", -1.0)
    outcome = team.settled({"tagger": noise})
    assert outcome.state == "held"
    assert champion(team) == 2
    last = team.runs()[-1]
    assert last["state"]["name"] == "Held"
    assert "is not promoted: the gate says" in last["state"]["message"]
    (held,) = team.wait("the word of it", lambda: team.events("widen.held"))
    assert held["resource"]["widen.workspace"] == str(team.workspace)
    assert "the gate says" in held["payload"]["reason"]
    assert Path(held["payload"]["report"]).is_file()
    assert team.artifacts()["gate"]["description"] in {
        f"{verdict}: {NAME} version 3" for verdict in ("FAIL", "INCONCLUSIVE")
    }
    assert f"`widen promote {NAME}/3 --override 'WHY'`" in team.artifacts()["verdict"]["data"]
    status = team.widen("status")
    assert "held" in status
    assert "app_en" in status

    ran, asked = len(done(team)), team.log("watch").count("asked for a run")
    team.publish_readme()
    team.checks(6)
    assert team.log("watch").count("asked for a run") == asked

    first = team.publish("tagger", "tagger-v2", 0.95)
    second = team.publish("indonesian", "indonesian", 0.98)
    outcome = team.settled({"tagger": first, "indonesian": second})
    assert outcome.state == "promoted", outcome
    assert champion(team) == outcome.version
    assert len(done(team)) == ran + 1


def test_the_schedule_finds_what_a_dead_watch_and_a_dead_server_missed(team: Team) -> None:
    ran = len(done(team))
    team.supervisor("stop", "watch")
    team.supervisor("stop", "prefect")
    tag = team.publish("tagger", "tagger-v2", 0.9)
    team.supervisor("start", "prefect")
    assert team.settled({"tagger": tag}).state == "promoted"
    assert [one for one in team.runs("watch") if one["auto_scheduled"] and one["state"]["type"] == "COMPLETED"]
    team.supervisor("start", "watch")
    team.checks(3)
    assert len(done(team)) == ran + 1


def test_an_update_while_the_server_is_away_is_asked_for_again(team: Team) -> None:
    ran = len(done(team))
    team.supervisor("stop", "prefect")
    tag = team.publish("tagger", "tagger-v2", 0.85)
    team.wait("a word of the watch", lambda: "not asked for yet" in team.log("watch"))
    team.supervisor("start", "prefect")
    assert team.settled({"tagger": tag}).state == "promoted"
    team.checks(3)
    assert len(done(team)) == ran + 1


def test_a_worker_killed_in_the_merge_is_followed_by_one_that_goes_on(team: Team) -> None:
    ran, entries = len(done(team)), len(team.history())
    tag = team.publish("tagger", "tagger-v2", 0.8)
    team.state({"tagger": tag}, "running")
    runner = int(team.wait("the run's process", lambda: holder(team)))
    staging = Path(team.workspace, "merged")
    deadline = time.monotonic() + 120
    while not list(staging.glob(".*staging*")):
        assert time.monotonic() < deadline, team.ledger
    os.kill(runner, signal.SIGKILL)
    for pid in team.supervisor("pid", "worker").split():
        with suppress(ProcessLookupError):
            os.killpg(int(pid), signal.SIGKILL)
    left = list(staging.glob(".*staging*"))
    outcome = team.settled({"tagger": tag})
    assert outcome.state == "promoted"
    assert outcome.attempts == 2
    assert left
    assert not list(staging.glob(".*staging*"))
    assert len(done(team)) == ran + 1
    assert len(team.history()) == entries + 1
    assert [one["state"]["name"] for one in team.runs() if one["state"]["type"] == "CRASHED"]
    assert not [one for one in team.runs() if one["state"]["type"] == "RUNNING"]


def holder(team: Team) -> str | None:
    """The process that holds the workspace."""
    with suppress(OSError, ValueError):
        return str(json.loads((team.workspace / ".widen" / "run.json").read_bytes())["process"])
    return None


def test_a_hub_that_is_away_is_told_and_nothing_runs_when_it_is_back(team: Team) -> None:
    asked = team.log("watch").count("asked for a run")
    away = team.hub.with_name("away")
    team.hub.rename(away)
    team.wait("the watch to notice", lambda: {one.state for one in team.ledger.looks.values()} == {"unreachable"})
    assert "unreachable" in team.widen("status")
    team.widen("status", "--check", code=4)
    away.rename(team.hub)
    team.wait("the watch to find it", lambda: "unreachable" not in {one.state for one in team.ledger.looks.values()})
    team.checks(2)
    assert team.log("watch").count("asked for a run") == asked


def test_a_registry_that_is_away_at_registration_costs_no_second_merge(team: Team) -> None:
    entries = len(team.history())
    gate = team.workspace / "runs" / NAME / "gate.json"
    before = gate.stat().st_mtime_ns
    tag = team.publish("tagger", "tagger-v2", 0.75)
    team.state({"tagger": tag}, "running")
    while gate.stat().st_mtime_ns == before:
        time.sleep(0.005)
    runner = int(str(holder(team)))
    os.kill(runner, signal.SIGSTOP)
    team.supervisor("stop", "mlflow")
    os.kill(runner, signal.SIGCONT)
    outcome = team.state({"tagger": tag}, "failed")
    assert outcome.transient
    assert "registry" in outcome.reason
    merged = team.workspace / "merged" / NAME / "model.safetensors"
    stamp = merged.stat().st_mtime_ns
    team.supervisor("start", "mlflow")
    outcome = team.settled({"tagger": tag})
    assert outcome.state == "promoted"
    assert merged.stat().st_mtime_ns == stamp
    assert len(team.history()) == entries + 1


def test_a_full_disk_holds_nothing_up_for_good(team: Team) -> None:
    entries = len(team.history())
    merged = team.workspace / "merged"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(merged)], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        tag = team.publish("tagger", "tagger-v2", 0.7)
        outcome = team.state({"tagger": tag}, "failed")
        assert outcome.transient
        assert "No space left" in outcome.reason or "disk" in outcome.reason
        assert len(team.history()) == entries
    finally:
        subprocess.run(["umount", "-l", str(merged)], check=True)
    assert team.settled({"tagger": tag}).state == "promoted"
    assert len(team.history()) == entries + 1


def test_a_run_of_what_ended_or_is_old_ends_at_once(team: Team) -> None:
    update = team.ledger.update
    assert update is not None
    deployment = team.prefect("deployments/name/remerge/remerge")["id"]
    for identity, name in ((update.id, "Unchanged"), (f"{NAME}-000000000000", "Superseded")):
        asked = {"parameters": {"update": identity, "workspace": str(team.workspace)}}
        run = team.prefect(f"deployments/{deployment}/create_flow_run", asked)["id"]
        state = team.wait(
            f"the end of {identity}",
            lambda run=run: (found := team.prefect(f"flow_runs/{run}")["state"])["type"] == "COMPLETED" and found,
        )
        assert state["name"] == name


CROWD = """
import sys, time
from pathlib import Path
from flows.environment import prepare
workspace = Path(sys.argv[1])
prepare(workspace)
from prefect import flow
import widen.backend
from flows.gpu_slot import gpu_slot
from flows.road import Road
widen.backend._has_nvidia_device = lambda: True

@flow
def one():
    with gpu_slot(Road.open(Path("recipes/quickstart.yaml"), workspace, "auto")):
        began = time.time()
        time.sleep(3)
        print("held", began, time.time())
one()
"""


def test_two_runs_do_not_compute_on_the_accelerator_at_once(team: Team) -> None:
    command = [sys.executable, "-c", CROWD, str(team.workspace)]
    runs = [
        subprocess.Popen(command, env=team.environment, cwd=team.folder, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    spans = []
    for run in runs:
        out, _ = run.communicate(timeout=240)
        assert run.returncode == 0
        spans += [tuple(map(float, line.split()[1:])) for line in out.splitlines() if line.startswith("held")]
    (_, first_ended), (second_began, _) = sorted(spans)
    assert first_ended <= second_began
