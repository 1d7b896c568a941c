"""`widen compare` as its user runs it: real checkpoints, the real harness, Optuna's and MLflow's own storage."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.recipe import load_recipe
from registry.store import Registry, asking
from tests.flows.conftest import ROOT, run_widen

SECTION = """
compare:
  methods: [linear, ties]
  search: {ties: {weight: {low: 0.3, high: 1.0}}}
  trials: 2
"""
CANDIDATES = 2 + 2
AHEAD = """
compare:
  methods: [linear, ties]
  search: {linear: {weight.tagger: {low: 0.3, high: 1.0}}, ties: {density: [0.3, 0.7]}}
  trials: 6
"""


@pytest.fixture
def place(workspace: Path, tmp_path: Path) -> Path:
    """The demo's workspace beside its hub, with few documents a task and a comparison asked for."""
    shutil.copytree(workspace.parent, tmp_path / "demo", symlinks=True)
    folder = tmp_path / "demo" / workspace.name
    recipe = folder / "recipes" / "quickstart.yaml"
    text = (
        recipe.read_text()
        .replace("limit: null", "limit: 24")
        .replace("[app_en, app_id, bpb_en, bpb_id]", "[app_en, bpb_id]")
    )
    recipe.write_text(text + SECTION)
    return folder


def killed_after(said: str, folder: Path, home: Path, slots: int) -> None:
    """The command in a process of its own, killed as soon as it has said something."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "HF_"))}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "WIDEN_SLOTS": str(slots)}
    command = [sys.executable, "-m", "flows", "compare", "recipes/quickstart.yaml"]
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if said in line:
                time.sleep(0.05)  # into the middle of what comes next
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL


def candidates_of(folder: Path) -> dict[str, str]:
    """The runs of candidates in the workspace's registry: name and status."""
    with asking(Registry.at(None, folder)) as client:
        experiment = client.get_experiment_by_name("quickstart.compare")
        runs = client.search_runs([experiment.experiment_id])
        parents = [one for one in runs if "widen.comparison" in one.data.tags]
        assert len(parents) == 1
        assert client.search_registered_models() == []
        children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
        assert len(children) == len(runs) - 1
        assert parents[0].info.status == "FINISHED"
        return {one.info.run_name: one.info.status for one in children}


@pytest.mark.slow
def test_killed_resumed_and_run_again(place: Path, tmp_path: Path) -> None:
    home, winner = tmp_path / "home", tmp_path / "winner.yaml"
    killed_after("compare: ties, trial 1: keeps", place, home, 1)

    done = run_widen("compare", "recipes/quickstart.yaml", "--write", winner, cwd=place, home=home, WIDEN_SLOTS="1")
    assert done.returncode == 0, done.stderr
    # what was said is done; one trial is left, and the winner is merged again for the gate
    assert re.findall(r"compare: (.*): keeps", done.stderr) == ["ties, trial 2"]
    assert "2 merges made, 2 times a model was scored" in done.stdout
    result = json.loads((place / "runs/quickstart/compare/comparison.json").read_text())
    rows = result["methods"]
    assert {row["method"]: len(row["trials"]) for row in rows} == {"linear": 1, "ties": 3}
    assert [row["objective"]["value"] for row in rows] == sorted(
        [row["objective"]["value"] for row in rows], reverse=True
    )
    assert all(row["objective"]["lower"] < row["objective"]["value"] < row["objective"]["upper"] for row in rows)
    assert rows[0]["standing"] == "winner"
    assert {name: set(counts) for name, counts in result["documents"].items()} == {
        side: {"app_en/acc", "bpb_id/bits_per_byte"} for side in ("selection", "gate")
    }
    assert sum(counts["app_en/acc"] for counts in result["documents"].values()) == 24
    assert len(candidates_of(place)) == CANDIDATES
    assert set(candidates_of(place).values()) == {"FINISHED"}
    assert {path.name for path in (place / "runs/quickstart/compare").iterdir()} == {
        "comparison.json", "comparison.png", "comparison.svg", "gate.json",
    }  # fmt: skip

    # the winner is a recipe, and what it says is what was compared
    written = load_recipe(winner)
    assert written.merge.merge_method == rows[0]["method"]
    assert written.name == "quickstart"
    assert not (place / ".widen/compare/candidate").exists()
    assert not (place / "merged").exists()

    before = (place / "runs/quickstart/compare/comparison.svg").read_bytes()
    again = run_widen("compare", "recipes/quickstart.yaml", cwd=place, home=home)
    assert again.returncode == 0, again.stderr
    assert f"nothing to merge or score: all {CANDIDATES} candidates are at hand" in again.stdout
    assert "keeps" not in again.stderr
    assert "merge:" not in again.stderr
    assert (place / "runs/quickstart/compare/comparison.svg").read_bytes() == before
    assert json.loads((place / "runs/quickstart/compare/comparison.json").read_text()) == result
    assert len(candidates_of(place)) == CANDIDATES


@pytest.mark.slow
def test_two_slots_and_one_that_were_killed_come_to_the_same(place: Path, tmp_path: Path) -> None:
    """Six trials: five that two slots may try ahead, one that follows from all before; and a grid of two."""
    recipe, home = place / "recipes" / "quickstart.yaml", tmp_path / "home"
    recipe.write_text(recipe.read_text().replace(SECTION, AHEAD))
    other = tmp_path / "other" / place.name
    shutil.copytree(place.parent, other.parent, symlinks=True)
    killed_after("compare: linear, trial 2: keeps", place, home, 2)
    results = []
    for folder, slots in ((place, 2), (other, 1)):
        done = run_widen("compare", "recipes/quickstart.yaml", cwd=folder, home=home, WIDEN_SLOTS=str(slots))
        assert done.returncode == 0, done.stderr
        assert ("at most 3 lie on the disk" in done.stderr) == (slots == 2)
        assert not (folder / ".widen/compare/candidate").exists()
        results.append((folder / "runs/quickstart/compare/comparison.json").read_bytes())
    assert results[0] == results[1]
    assert {row["method"]: len(row["trials"]) for row in json.loads(results[0])["methods"]} == {"linear": 7, "ties": 3}
    assert len(candidates_of(place)) == len(candidates_of(other)) == 7 + 3


@pytest.mark.slow
def test_mistakes_are_told_before_any_work(place: Path, tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("mine")
    rows = [
        (["--methods", "widen,tis"], 2, "--methods: unknown merge method `tis`; the nearest known is `ties`"),
        (["--write", tmp_path / "there.yaml"], 2, "it exists, and is left as it is"),
    ]
    for options, code, told in rows:
        done = run_widen("compare", "recipes/quickstart.yaml", *options, cwd=place, home=tmp_path)
        assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert not (place / ".widen/compare").exists()
    assert (tmp_path / "there.yaml").read_text() == "mine"
