"""Models scored side by side by real processes: a serial run's bytes, whatever dies, and nobody left behind."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate import EvaluateSettings, evaluate
from tasks.scoring import Unit, score_away
from tasks.side_by_side import Scorers, all_scored, beside, divided
from tasks.slots import VISIBLE, Slots, environments
from widen.errors import EnvironmentFault, InputsRefused, RecipeError

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"
TASKS = ("app_en", "app_id", "bpb_en", "bpb_id")
FEW = EvaluateSettings(TASKS, QUICKSTART / "evaluation", batch_size=8, limit=12, threads=1)
MODELS = ("base", "tagger-v1", "indonesian")


def plainly(work: Any, *arguments: Any) -> Any:
    return work.fn(*arguments)


def models(cache: Path, settings: EvaluateSettings = FEW) -> list[Unit]:
    return [Unit(name, QUICKSTART / "checkpoints" / name, f"digest of {name}", settings, cache) for name in MODELS]


def scored(place: Path, slots: int, asked: list[Unit]) -> dict[str, bytes]:
    """The scorecards and samples of all models, by file."""

    def body(scorers: Scorers) -> None:
        all_scored(scorers, divided(asked, scorers.slots), lambda _: None)

    beside(environments(slots, (), 1), plainly, body)
    return published(place, asked)


def published(place: Path, asked: list[Unit]) -> dict[str, bytes]:
    for one in asked:
        unseen = place / "a folder that is not read"
        evaluate.fn(one.model, unseen, one.digest, one.settings, one.cache, place / "cards" / f"{one.model}.json")
    return {path.name: path.read_bytes() for path in sorted((place / "cards").iterdir())}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes, one model after the other."""
    place = tmp_path_factory.mktemp("serial")
    return scored(place, 1, models(place / ".widen" / "scorecards"))


@pytest.mark.slow
def test_three_slots_make_the_bytes_of_one(
    serial: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert scored(tmp_path, 3, models(tmp_path / ".widen" / "scorecards")) == serial
    assert len(serial) == 2 * len(MODELS)
    for name in MODELS:  # told in the processes, heard here
        assert f"{name}: evaluating" in caplog.text
        assert f"{name}: bpb_id asked in" in caplog.text
    assert active_children() == []


@pytest.mark.slow
def test_a_model_in_parts_is_the_same(serial: dict[str, bytes], tmp_path: Path) -> None:
    cache = tmp_path / ".widen" / "scorecards"
    asked = models(cache)
    parts = [replace(one, tasks=(task,)) for one in asked for task in reversed(TASKS)]
    with_two = environments(2, (), 1)
    beside(with_two, plainly, lambda scorers: all_scored(scorers, parts, lambda _: None))
    assert published(tmp_path, asked) == serial


def process_at_work() -> int:
    until = time.monotonic() + 60
    while not (found := active_children()):
        assert time.monotonic() < until
        time.sleep(0.01)
    pid = found[0].pid
    assert pid is not None
    return pid


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
def test_a_process_killed_in_mid_task_is_told_and_only_that_task_is_asked_again(
    serial: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache = tmp_path / ".widen" / "scorecards"
    (asked,) = [one for one in models(cache) if one.model == "base"]
    slots = Slots([{}])
    try:
        work = threading.Thread(target=slots.run, args=(asked,))
        work.start()
        wait_for(lambda: len(list(cache.glob("*.jsonl"))) == 1)
        os.kill(process_at_work(), signal.SIGKILL)
        work.join()
    finally:
        slots.close()
    told = f"{asked}: its process was ended by SIGKILL (out of memory?); it is done again in a fresh one"
    assert told in caplog.text
    assert "base: evaluating app_id, bpb_en, bpb_id (app_en: at hand)" in caplog.text
    assert published(tmp_path, [asked]).items() <= serial.items()


@pytest.mark.slow
def test_a_process_that_dies_again_is_an_error_by_model_and_tasks(tmp_path: Path) -> None:
    asked = replace(models(tmp_path / ".widen" / "scorecards")[0], tasks=("app_en",))
    slots, ended = Slots([{}]), threading.Event()

    def reap() -> None:
        while not ended.is_set():
            for one in active_children():
                one.kill()
            time.sleep(0.05)

    reaper = threading.Thread(target=reap)
    reaper.start()
    try:
        with pytest.raises(EnvironmentFault, match=r"score base: app_en: its process was ended by SIGKILL.*2 times"):
            slots.run(asked)
    finally:
        ended.set()
        reaper.join()
        slots.close()


@pytest.mark.slow
def test_what_a_unit_refuses_ends_all_with_the_same_error(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(QUICKSTART / "checkpoints" / "base", damaged)
    (damaged / "model.safetensors").unlink()
    asked = models(tmp_path / ".widen" / "scorecards")
    asked[1] = replace(asked[1], folder=damaged)
    with pytest.raises(InputsRefused) as alone:
        scored(tmp_path, 1, asked[1:2])
    with pytest.raises(InputsRefused) as beside_others:
        scored(tmp_path, 2, asked)
    assert str(alone.value) == str(beside_others.value)
    assert str(alone.value).startswith("tagger-v1: expected a causal language model in safetensors")
    assert active_children() == []


CLUSTER = """
import sys
from pathlib import Path
from flows.environment import prefect_server, prepare
from tests.tasks.test_side_by_side import models, published
from tasks.side_by_side import all_scored, divided, on_cluster
from tasks.cluster import Runner, Share

if __name__ == "__main__":
    place = Path(sys.argv[2])
    (place / ".widen").mkdir(parents=True)
    prepare(place)
    asked = models(place / ".widen" / "scorecards")
    with prefect_server():
        runner = Runner(sys.argv[1], None, Share(1))
        on_cluster(runner, None, lambda them: all_scored(them, divided(asked, 2), print))
    published(place, asked)
"""


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_clusters_nodes_make_the_same_bytes(runner: str, serial: dict[str, bytes], tmp_path: Path) -> None:
    script, place = tmp_path / "script.py", tmp_path / "there"
    script.write_text(CLUSTER)
    ours = ("PREFECT_", "HF_", "WIDEN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment = kept | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, str(script), runner, str(place)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "score base: app_en" in done.stdout
    assert {path.name: path.read_bytes() for path in sorted((place / "cards").iterdir())} == serial


ENDLESS = """
import os, time
from pathlib import Path

def wait(docs):
    Path(__file__).with_name("begun").write_text(str(os.getpid()))
    time.sleep(3600)
"""
PARENT = """
import sys
from dataclasses import replace
from pathlib import Path
from tasks.side_by_side import all_scored, beside
from tests.tasks.test_side_by_side import models, plainly

if __name__ == "__main__":
    place = Path(sys.argv[1])
    asked = models(place / ".widen" / "scorecards")[0]
    unit = replace(asked, settings=replace(asked.settings, include_path=place / "evaluation", tasks=("app_en",)))
    beside([{}, {}], plainly, lambda them: all_scored(them, [unit], print))
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("ctrl_c")
def test_a_process_in_the_middle_of_a_task_ends_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    folder, script = tmp_path / "evaluation", tmp_path / "script.py"
    shutil.copytree(QUICKSTART / "evaluation", folder)
    with (folder / "app_en.yaml").open("a") as task:
        task.write("process_docs: !function endless.wait\n")
    (folder / "endless.py").write_text(ENDLESS)
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL) as parent:
        begun = folder / "begun"
        wait_for(lambda: begun.exists() and begun.read_text())
        parent.send_signal(number)
    wait_for(lambda: not Path(f"/proc/{begun.read_text()}").exists())


def test_a_node_without_the_cache_returns_what_it_kept(serial: dict[str, bytes], tmp_path: Path) -> None:
    here = models(tmp_path / "here")[0]
    there = replace(here, cache=tmp_path / "not" / "seen")
    answers = score_away(there, there.settings.measured_by())
    assert not there.cache.exists()
    here.cache.mkdir()
    for name, content in answers.files.items():
        (here.cache / name).write_bytes(content)
    assert published(tmp_path, [here]).items() <= serial.items()


def test_a_node_that_sees_or_measures_otherwise_is_told(tmp_path: Path) -> None:
    asked = models(tmp_path)[0]
    harness = asked.settings.measured_by()
    with pytest.raises(EnvironmentFault, match=r"base: the node \S+ finds no folder at .*under the same path"):
        score_away(replace(asked, folder=tmp_path / "gone"), harness)
    with pytest.raises(EnvironmentFault, match=r"include_path: the node \S+ finds no folder at"):
        score_away(replace(asked, settings=replace(FEW, include_path=tmp_path / "gone")), harness)
    with pytest.raises(EnvironmentFault, match=r"base: the node \S+ measures by lm-eval.*the coordinator by another"):
        score_away(asked, "another")


def test_a_mistake_in_the_tasks_is_told_before_any_process(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'app_en'"):
        scored(tmp_path, 2, models(tmp_path, replace(FEW, tasks=("app_em",))))


def test_what_two_models_share_is_asked_once(tmp_path: Path) -> None:
    base = models(tmp_path)[0]
    (unit,) = divided([base, replace(base, model="merged")], 1)
    assert unit == replace(base, tasks=TASKS)
    both = divided([base, replace(base, model="merged")], 4)
    assert sorted(task for one in both for task in one.tasks) == sorted(TASKS)
    assert {one.model for one in both} == {"base"}


def test_each_slot_has_gpus_of_its_own() -> None:
    assert environments(2, (), 1) == [{}, {}]
    assert environments(3, ("0", "2", "GPU-5"), 1) == [{VISIBLE: "0"}, {VISIBLE: "2"}, {VISIBLE: "GPU-5"}]
    assert environments(2, ("0", "1", "2", "3"), 2) == [{VISIBLE: "0,1"}, {VISIBLE: "2,3"}]
    assert environments(3, ("0", "1"), 1) == [{VISIBLE: "0"}, {VISIBLE: "1"}, {VISIBLE: "0"}]
    assert environments(1, ("0",), 2) == [{VISIBLE: "0"}]
