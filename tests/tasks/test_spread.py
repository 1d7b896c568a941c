"""Units handed out: what is lost is done again, what is slow twice, and what fails by itself ends all by its name."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Timer
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import CrashedRun

from tasks import spread as spreading
from tasks.cluster import Runner, Share, is_loss
from tasks.spread import ATTEMPTS, Units
from widen.errors import EnvironmentFault, InputsRefused


class Work:
    """Stands for a Prefect task on a runner: `ends` says what becomes of a unit at its n-th submission."""

    def __init__(self, ends: Callable[[int, int], Any]) -> None:
        self.ends, self.submitted = ends, list[int]()

    def with_options(self, task_run_name: str) -> "Work":
        return self

    def submit(self, unit: int) -> Future:
        self.submitted.append(unit)
        future: Future = Future()
        end = self.ends(unit, self.submitted.count(unit))
        if isinstance(end, Exception):
            future.set_exception(end)
        elif end is not None:
            future.set_result(end)
        return future


def run(ends: Callable[[int, int], Any], units: int = 4) -> tuple[Work, dict[int, Any]]:
    work, done = Work(ends), dict[int, Any]()
    out = Units(work, done.__setitem__)
    for unit in range(units):
        out.submit((unit,), f"unit {unit}")
    out.finish()
    return work, done


def test_every_unit_is_done_once_and_told_with_its_place() -> None:
    work, done = run(lambda unit, _: unit * 10)
    assert done == {0: 0, 1: 10, 2: 20, 3: 30}
    assert work.submitted == [0, 1, 2, 3]


def test_a_lost_unit_is_done_again() -> None:
    work, done = run(lambda unit, time: CrashedRun("node gone") if (unit, time) in ((1, 1), (1, 2), (3, 1)) else "made")
    assert done == dict.fromkeys(range(4), "made")
    assert sorted(work.submitted) == [0, 1, 1, 1, 2, 3, 3]


def test_a_unit_that_is_lost_again_and_again_fails_by_its_name() -> None:
    with pytest.raises(EnvironmentFault, match=rf"unit 2: its process was lost {ATTEMPTS} times.*node gone"):
        run(lambda unit, _: CrashedRun("node gone") if unit == 2 else "made")


def test_what_fails_by_itself_is_not_tried_again() -> None:
    submitted: list[int] = []

    def ends(unit: int, time: int) -> Any:
        submitted.append(time)
        return InputsRefused("model: tensor is not finite") if unit == 1 else "made"

    with pytest.raises(InputsRefused, match=r"^unit 1: model: tensor is not finite$"):
        run(ends)
    assert set(submitted) == {1}
    with pytest.raises(ZeroDivisionError):
        run(lambda unit, _: ZeroDivisionError() if unit == 1 else "made")


def test_a_node_without_prefects_server_is_told() -> None:
    with pytest.raises(EnvironmentFault, match=r"unit 0: its node does not reach Prefect's server.*PREFECT_API_URL"):
        run(lambda *_: RuntimeError("Failed to reach API at http://127.0.0.1:4200/api/"))


def test_a_node_without_the_package_is_told() -> None:
    with pytest.raises(EnvironmentFault, match=r"unit 0: its node lacks a package; install this version of widen"):
        run(lambda *_: RuntimeError("System error: No module named 'widen'"))


def test_the_last_units_are_done_a_second_time_where_they_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(spreading, "SILENCE_S", 0.05)
    monkeypatch.setattr(spreading.log, "warning", lambda told, *of: said.append(told % of))
    work, done = run(lambda unit, time: None if unit == 2 and time == 1 else f"made {time}")
    assert done == {0: "made 1", 1: "made 1", 2: "made 2", 3: "made 1"}
    assert work.submitted == [0, 1, 2, 3, 2]
    assert said[0].startswith("no unit ended for 0 s, 1 are out; ")
    assert said[1] == "unit 2 takes long; it is done elsewhere as well"


def test_ray_and_dask_say_that_a_process_is_gone() -> None:
    from distributed.scheduler import KilledWorker
    from ray.exceptions import NodeDiedError, RayTaskError, WorkerCrashedError

    last = SimpleNamespace(address="here")
    assert all(is_loss(one) for one in (WorkerCrashedError(), NodeDiedError("gone"), CrashedRun("")))
    assert is_loss(KilledWorker("unit", last, 3))
    assert not any(is_loss(one) for one in (RayTaskError("unit", "", ValueError()), ValueError(), InputsRefused("")))


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_cluster_that_is_not_there_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(key: str) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setattr(spreading, "_flow", lambda *_: refused)
    runner = Runner(name, "127.0.0.1:1", Share())  # type: ignore[arg-type]
    with pytest.raises(
        EnvironmentFault, match=f"--runner {name}: the cluster at 127.0.0.1:1 does not answer: no answer"
    ):
        spreading.spread(SimpleNamespace(name="unit"), [], [], runner, lambda *_: None)


def test_a_long_silence_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(spreading, "SILENCE_S", 0.02)
    monkeypatch.setattr(spreading.log, "warning", lambda told, *of: said.append(told % of))
    late: Future = Future()
    out = Units(SimpleNamespace(with_options=lambda **_: SimpleNamespace(submit=lambda: late)), lambda *_: None, False)
    out.submit((), "evaluation")
    Timer(0.3, late.set_result, [None]).start()
    out.finish()
    assert len(said) == 1
