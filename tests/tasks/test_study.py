"""A search on disk, by the real Optuna and its real storage: resumed after a kill it goes on as if nothing had been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.search_space import Choices, Range, grid_size
from tasks.study import open_search
from widen.errors import EnvironmentFault

ROOT = Path(__file__).parents[2]
SPACE = {
    "a": Range(0.0, 1.0),
    "b": Choices((0.1, 0.5)),
    "n": Range(1, 64, log=True, whole=True),
    "f": Choices((True, False)),
}
GRID = {"a": Choices((1.0, 2.0, 3.0)), "f": Choices((True, False))}


def value_of(parameters: dict) -> float:
    return -abs(float(parameters["a"]) - 0.3) - float(parameters["b"])


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of many searches: making it takes longer than using it."""
    return tmp_path_factory.mktemp("studies") / "study.db"


def run(storage: Path, name: str, trials: int, count: int = 99, space: dict = SPACE, seed: int = 0) -> list[tuple]:
    """`count` trials at most; every finished one."""
    with open_search(storage, name, space, seed, trials) as search:
        for _ in range(count):
            asked = search.ask()
            if asked is None:
                break
            search.tell(asked, value_of(asked.parameters) if "b" in asked.parameters else 0.0)
        return [(one.number, dict(one.parameters), one.value) for one in search.finished()]


def test_interrupted_or_not_the_trials_are_the_same(storage: Path, tmp_path: Path) -> None:
    whole = run(storage, "ties", 8)
    assert [number for number, *_ in whole] == list(range(8))
    assert len({parameters["a"] for _, parameters, _ in whole}) == 8
    for _ in range(2):  # three trials, and three more
        run(tmp_path / "parts.db", "ties", 8, 3)
    assert run(tmp_path / "parts.db", "ties", 8) == whole


def test_values_stay_in_their_ranges_and_short(storage: Path) -> None:
    for _, parameters, _ in run(storage, "ties", 8):
        assert 0.0 <= parameters["a"] <= 1.0
        assert parameters["a"] == float(f"{parameters['a']:.4g}")
        assert isinstance(parameters["n"], int)
        assert parameters["b"] in (0.1, 0.5)
        assert isinstance(parameters["f"], bool)


def test_a_grid_is_tried_once_each(storage: Path) -> None:
    assert grid_size(GRID) == 6
    assert grid_size(SPACE) is None
    assert len(run(storage, "grid", 6, 4, GRID)) == 4
    found = run(storage, "grid", 6, space=GRID)
    points = {(one["a"], one["f"]) for _, one, _ in found}
    assert (len(found), len(points)) == (6, 6)


def test_more_trials_go_on_where_fewer_ended(storage: Path) -> None:
    few = run(storage, "more", 2)
    assert run(storage, "more", 4)[:2] == few


def test_another_space_or_seed_or_name_is_another_search(storage: Path) -> None:
    first = run(storage, "sce", 2)
    assert run(storage, "sce", 2, space=SPACE | {"a": Range(0.0, 0.5)}) != first
    assert run(storage, "sce", 2, seed=1) != first
    assert run(storage, "della", 2) != first
    assert run(storage, "sce", 2) == first


def ahead(storage: Path, name: str, trials: int, space: dict = SPACE, stop: int = 99) -> list[tuple]:
    """As `run`, but with every point asked for as early as the search gives it; after `stop` told, none is told."""
    told = 0
    with open_search(storage, name, space, 0, trials) as search:
        while out := list(iter(search.ask, None)):
            for asked in out:
                if told < stop:
                    search.tell(asked, value_of(asked.parameters) if "b" in asked.parameters else 0.0)
                    told += 1
            if told == stop:
                break
        return [(one.number, dict(one.parameters), one.value) for one in search.finished()]


def test_points_asked_ahead_are_the_same(storage: Path, tmp_path: Path) -> None:
    assert ahead(tmp_path / "ahead.db", "ties", 8) == run(storage, "ties", 8)
    assert ahead(tmp_path / "ahead.db", "grid", 6, GRID) == run(storage, "grid", 6, space=GRID)
    with open_search(tmp_path / "ahead.db", "more", SPACE, 0, 8) as search:
        first = list(iter(search.ask, None))
        assert [one.number for one in first] == list(range(5))  # the sixth follows from what they come to
        search.give_up(first[3], "the model overflows")
        assert search.ask() is None
        assert [(one.number, one.reason) for one in search.finished()] == [(3, "the model overflows")]


def test_points_that_were_out_at_a_kill_come_first(storage: Path, tmp_path: Path) -> None:
    assert len(ahead(tmp_path / "killed.db", "ties", 8, stop=2)) == 2  # three more were asked for
    assert run(tmp_path / "killed.db", "ties", 8, count=1)[2][0] == 2
    assert ahead(tmp_path / "killed.db", "ties", 8) == run(storage, "ties", 8)


def test_what_was_given_up_is_not_asked_again(storage: Path) -> None:
    with open_search(storage, "given up", GRID, 0, 6) as search:
        asked = search.ask()
        assert asked is not None
        search.give_up(asked, "the model overflows")
    found = run(storage, "given up", 6, space=GRID)
    assert [value is None for *_, value in found] == [True, False, False, False, False, False]
    with open_search(storage, "given up", GRID, 0, 6) as search:  # and why is still known
        assert [one.reason for one in search.finished()] == ["the model overflows", *[None] * 5]


def test_another_basis_is_another_study_of_the_same_points(storage: Path) -> None:
    whole = run(storage, "ties", 8)
    with open_search(storage, "ties", SPACE, 0, 8, "sha256 of another recipe's settings") as search:
        assert not search.finished()
        asked = search.ask()
        assert asked is not None
        assert asked.parameters == whole[0][1]
        search.tell(asked, 1.0)
    assert run(storage, "ties", 8) == whole


def test_what_fails_between_the_studys_calls_is_told_as_its_own(storage: Path) -> None:
    with pytest.raises(OSError, match="no room for the merge"), open_search(storage, "full", GRID, 0, 6):
        raise OSError(28, "no room for the merge")


def test_steps_end_where_they_reach(storage: Path) -> None:
    space = {"a": Range(0.0, 1.0, step=0.3), "b": Choices((0.1,))}
    tried = {parameters["a"] for _, parameters, _ in run(storage, "steps", 8, space=space)}
    assert tried <= {0.0, 0.3, 0.6, 0.9}
    assert len(tried) > 1


def test_a_file_that_is_no_study_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, and somebody may want it")
    with pytest.raises(EnvironmentFault, match=r"study\.db: the search cannot be kept there"):
        run(tmp_path / "study.db", "ties", 2)
    assert "somebody" in (tmp_path / "study.db").read_text()


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.study import open_search
from tests.tasks.test_study import GRID, SPACE, value_of

with open_search(Path(sys.argv[1]), "ties", SPACE, 0, 5) as search:
    for number in range(5):
        asked = search.ask()
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        search.tell(asked, value_of(asked.parameters))
"""


def test_a_kill_between_ask_and_tell_loses_nothing(storage: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "study.db")], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -signal.SIGKILL
    assert run(tmp_path / "study.db", "ties", 5) == run(storage, "ties", 8)[:5]
