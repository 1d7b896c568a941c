"""Which runner, and what a unit takes: from the command line, else from the settings; a mistake is told by name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.merge import MergeOptions
from flows.runners import chosen, of_a_unit, parse_unit, remember, runner_of, spread_merge
from tasks.cluster import LOCAL, Runner, Share
from widen.errors import RecipeError

OPTIONS = MergeOptions(Path(), "cpu", None, None, None, None)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WIDEN_RUNNER", "WIDEN_RUNNER_ADDRESS", "WIDEN_UNIT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_unit_as_it_is_written() -> None:
    assert parse_unit("cpus=4, gpus=0.5,memory=32GB,nvme=1") == {
        "cpus": 4, "gpus": 0.5, "memory": 32_000_000_000, "nvme": 1.0,
    }  # fmt: skip
    assert parse_unit("") == {}


@pytest.mark.parametrize("text", ["cpus=0", "cpus=1.5", "cpus", "=1", "gpus=-1", "gpus=nan", "a=inf", "cpus=1,cpus=2"])
def test_a_unit_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"--unit.*(expected|is given twice)"):
        parse_unit(text)


@given(st.text())
def test_any_text_is_a_unit_or_a_clear_line(text: str) -> None:
    try:
        assert all(amount >= 0 for amount in parse_unit(text).values())
    except RecipeError as error:
        assert "--unit" in str(error)


def test_the_command_line_wins_over_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner_of(None, None, None, "cpu") == LOCAL
    monkeypatch.setenv("WIDEN_RUNNER", "dask")
    monkeypatch.setenv("WIDEN_RUNNER_ADDRESS", "tcp://head:8786")
    monkeypatch.setenv("WIDEN_UNIT", "cpus=8,fast=1")
    assert runner_of(None, None, None, "cpu") == Runner("dask", "tcp://head:8786", Share(8, 0.0, None, {"fast": 1.0}))
    told = runner_of("ray", "head:6379", "memory=1GB", "cuda")
    assert told == Runner("ray", "head:6379", Share(2, 1.0, 1_000_000_000, {}))
    remember("local", None, None)
    assert chosen(None) == "local"


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"--runner 'rya' is unknown; expected local, ray or dask"):
        chosen("rya")


def test_a_unit_has_as_many_threads_as_it_takes() -> None:
    options = of_a_unit(OPTIONS, Runner("ray", None, Share(3, 0, 1000)))
    assert (options.threads, options.memory) == (3, "500")
    assert of_a_unit(OPTIONS, LOCAL).memory is None


def test_a_profile_of_others_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"--profile: tells of this process's lanes, and --runner ray has others work"
    ):
        spread_merge(tmp_path / "r.yaml", tmp_path / "out", OPTIONS, tmp_path / "p.svg", ("ray", None, None))
