"""Scoring side by side as its user meets it: in a real flow, ended by Ctrl-C and by a kill, and how many at once."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from flows.road import Road, plainly
from flows.scoring import slots_of
from tests.flows.conftest import ROOT, run_widen

TASKS = "app_en, bpb_id"


@pytest.fixture
def place(workspace: Path, tmp_path: Path) -> Path:
    """The demo's workspace beside its hub, with few documents a task."""
    shutil.copytree(workspace.parent, tmp_path / "demo", symlinks=True)
    recipe = tmp_path / "demo" / workspace.name / "recipes" / "quickstart.yaml"
    text = recipe.read_text().replace("limit: null", "limit: 40")
    recipe.write_text(text.replace("[app_en, app_id, bpb_en, bpb_id]", f"[{TASKS}]"))
    return recipe.parents[1]


def descendants(pid: int) -> set[int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def scoring(pids: set[int]) -> set[int]:
    """Those that are slots: processes which multiprocessing spawned and that live."""
    found = set()
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"spawn_main" in command:
            found.add(pid)
    return found


def ended_at_work(number: signal.Signals, folder: Path, home: Path) -> tuple[int, str]:
    """`widen run` with two slots, ended as its first task is asked; its code and what it said, once no slot is left."""
    ours = ("PREFECT_", "MLFLOW_", "HF_", "WIDEN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "WIDEN_SLOTS": "2"}
    command = [sys.executable, "-m", "flows", "run", "recipes/quickstart.yaml"]
    told = folder / "said"
    with told.open("wb") as file:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=file, start_new_session=True)
    try:
        wait_for(lambda: "asked in" in told.read_text() or process.poll() is not None)
        slots = scoring(descendants(process.pid))
        assert len(slots) == 2, told.read_text()
        process.send_signal(number)
        process.wait(60)
        wait_for(lambda: not scoring(slots))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a kill leaves Prefect's temporary server
    return process.returncode, told.read_text()


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def task_runs(folder: Path) -> list[tuple[str, str]]:
    database = sqlite3.connect(folder / ".widen" / "prefect" / "prefect.db")
    return database.execute("select name, state_type from task_run order by start_time").fetchall()


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
def test_a_flow_ended_by_ctrl_c_leaves_nobody_and_goes_on_where_it_was(place: Path, tmp_path: Path) -> None:
    code, said = ended_at_work(signal.SIGINT, place, tmp_path)
    assert code == 130, said
    assert "Traceback" not in said.split("asked in")[-1], said
    asked = re.findall(r"\w+: \w+ asked in", said)
    assert asked
    done = run_widen("run", "recipes/quickstart.yaml", cwd=place, home=tmp_path, WIDEN_SLOTS="2")
    assert done.returncode in (0, 4), done.stderr  # as few documents decide
    assert not [one for one in asked if one in done.stderr]
    runs = task_runs(place)
    finished = [name for name, state in runs if state == "COMPLETED"]
    assert {f"score {model}: {TASKS}" for model in ("indonesian", "merged")} <= set(finished)
    assert sum(name.startswith("evaluate") for name in finished) == 4
    assert len(list((place / "runs/quickstart/scorecards").glob("*.json"))) == 4


@pytest.mark.slow
def test_a_run_that_is_killed_takes_its_processes_along(place: Path, tmp_path: Path) -> None:
    code, _ = ended_at_work(signal.SIGKILL, place, tmp_path)
    assert code == -signal.SIGKILL


def test_slots_are_the_settings_else_the_recipes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WIDEN_SLOTS", raising=False)
    road = Road.open(place / "recipes" / "quickstart.yaml", place, "cpu", plainly)
    assert slots_of(road) == 2
    threads = road.evaluation.threads
    monkeypatch.setenv("WIDEN_SLOTS", "5")
    assert slots_of(road) == 5
    assert road.evaluation.threads == threads  # what a score may depend on follows the recipe alone
