"""What is measured is shared by processes that work at the same time."""

import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

import widen
from tests.build import family
from widen.engine import Engine
from widen.plan import TensorPlan
from widen.profile import Profile
from widen.progress import silent
from widen.statistics import DATABASE
from widen.workbench import open_engine, planned


@pytest.fixture
def tensors(tmp_path: Path) -> Iterator[tuple[TensorPlan, ...]]:
    with planned(family(tmp_path / "in"), widen.Settings(), (), widen.Resources()) as (plan, _):
        yield plan.tensors


def opened(folder: Path) -> AbstractContextManager[Engine]:
    return open_engine(widen.Resources("cpu", 1, cache=folder), silent, Profile())


def keys(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "statistics" / DATABASE)) as database:
        return database.execute("SELECT count(*) FROM measured").fetchone()[0]


def test_who_measures_keeps_nobody_waiting(tensors: tuple[TensorPlan, ...], tmp_path: Path) -> None:
    with opened(tmp_path / "cache") as engine:
        engine.measure(tensors[0])
        with closing(sqlite3.connect(tmp_path / "cache" / "statistics" / DATABASE, timeout=0)) as other, other:
            other.execute("UPDATE measured SET used = used")


def test_what_was_just_measured_is_known_at_once_and_kept_at_the_end(
    tensors: tuple[TensorPlan, ...], tmp_path: Path
) -> None:
    with opened(tmp_path / "cache") as engine:
        found = engine.measure(tensors[0])
        known = engine.recall(tensors[0])
        assert known is not None
        assert [one.digest for one in known] == [one.digest for one in found]
    assert keys(tmp_path / "cache") == len(found)


def test_many_measurements_are_kept_before_the_end(
    tensors: tuple[TensorPlan, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("widen.statistics.PENDING_BYTES", 1)
    with opened(tmp_path / "cache") as engine:
        engine.measure(tensors[0])
        assert keys(tmp_path / "cache") == len(tensors[0].models)


def test_two_that_measure_the_same_keep_what_both_found(tensors: tuple[TensorPlan, ...], tmp_path: Path) -> None:
    with opened(tmp_path / "cache") as one, opened(tmp_path / "cache") as other:
        one.measure(tensors[0])
        other.measure(tensors[0])
        other.measure(tensors[1])
    assert keys(tmp_path / "cache") == 2 * len(tensors[0].models)
