"""What no run used for long goes from the engine's caches; what a living run holds never does."""

import fcntl
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import widen
from tests.build import family
from widen.checkpoint import Checkpoint
from widen.staging import lock_of
from widen.statistics import DATABASE
from widen.trimming import DAY, LARGEST, Leftover, left_by_kills, unused

NOW = time.time()
OLD = 10**9


def merged(folder: Path) -> Path:
    """A merge with its caches; their folder."""
    models = family(folder / "in")
    for path in folder.rglob("*.*"):
        os.utime(path, (OLD, OLD))
    again(folder, models)
    return folder / "cache"


def again(folder: Path, models: list[Path]) -> None:
    widen.merge(models[0], models[1:], folder / "out", resources=widen.Resources(cache=folder / "cache"))


def rows(cache: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(cache / "statistics" / DATABASE)) as held:
        return held.execute("SELECT key, used FROM measured ORDER BY rowid").fetchall()


def age(cache: Path, days: int, count: int) -> None:
    """Make the first `count` measurements older."""
    with closing(sqlite3.connect(cache / "statistics" / DATABASE)) as held, held:
        held.execute("UPDATE measured SET used = used - ? WHERE rowid <= ?", (days, count))


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def take(found: list[Leftover]) -> int:
    return sum(one.remove() for one in found if one.remove is not None)


def test_measurements_go_by_their_last_use(tmp_path: Path) -> None:
    cache = merged(tmp_path)
    every = rows(cache)
    assert list(unused(cache, 30, NOW)) == []
    age(cache, 60, 10)
    before = snapshot(cache)
    (found,) = unused(cache, 30, NOW)
    assert found.what.startswith("statistics of 10 tensors")
    assert found.bytes > 0
    assert snapshot(cache) == before
    take([found])
    assert [key for key, _ in rows(cache)] == [key for key, _ in every[10:]]
    assert list(unused(cache, 30, NOW)) == []


def test_what_a_merge_used_is_young_again(tmp_path: Path) -> None:
    cache = merged(tmp_path)
    age(cache, 60, 10)
    shutil.rmtree(tmp_path / "out")
    again(tmp_path, [tmp_path / "in" / name for name in ("base", "m1", "m2")])
    assert list(unused(cache, 30, NOW)) == []
    assert {used for _, used in rows(cache)} == {int(NOW) // DAY}


def test_beyond_the_bound_the_oldest_go(tmp_path: Path) -> None:
    cache = merged(tmp_path)
    every = rows(cache)
    age(cache, 3, 5)
    with closing(sqlite3.connect(cache / "statistics" / DATABASE)) as held:
        whole = held.execute("SELECT SUM(length(sums) + length(summary)) FROM measured").fetchone()[0]
    (found,) = unused(cache, 30, NOW, largest=whole - 1)
    assert found.what.startswith("statistics of 1 tensors")
    take([found])
    assert [key for key, _ in rows(cache)] == [key for key, _ in every[1:]]
    assert list(unused(cache, 30, NOW, LARGEST)) == []


def test_a_cache_of_before_days_were_kept_is_taken_over_as_used_today(tmp_path: Path) -> None:
    cache = merged(tmp_path)
    with closing(sqlite3.connect(cache / "statistics" / DATABASE)) as held, held:
        held.execute("ALTER TABLE measured DROP COLUMN used")
    assert list(unused(cache, 0.5, NOW)) == []  # nothing is known of it yet
    again(tmp_path, [tmp_path / "in" / name for name in ("base", "m1", "m2")])
    assert {used for _, used in rows(cache)} == {int(NOW) // DAY}


def test_remembered_digests_go_unless_they_are_read(tmp_path: Path) -> None:
    cache = merged(tmp_path)
    entries = sorted((cache / "contents").glob("*.json"))
    for path in entries:
        os.utime(path, (NOW - 60 * DAY, NOW - 60 * DAY))
    (found,) = unused(cache, 30, NOW)
    assert found.bytes == sum(path.stat().st_size for path in entries)
    again(tmp_path, [tmp_path / "in" / name for name in ("base", "m1", "m2")])
    assert list(unused(cache, 30, NOW)) == []
    take([found])
    assert list((cache / "contents").glob("*.json")) == []


def staging(workspace: Path, name: str, days: float = 2) -> Path:
    folder = workspace / "merged" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    lock_of(folder).touch()
    for path in (*folder.iterdir(), folder, lock_of(folder)):
        os.utime(path, (NOW - days * DAY, NOW - days * DAY))
    return folder


def test_what_was_fetched_of_a_storage_goes_unless_it_is_read(tmp_path: Path) -> None:
    models = [f"file://{path}" for path in family(tmp_path / "in")]
    resources = widen.Resources(cache=tmp_path / "cache")
    widen.merge(models[0], models[1:], tmp_path / "out", resources=resources)
    fetched = sorted((tmp_path / "cache" / "remote" / "blobs").glob("*.blob"))
    assert len(fetched) == 63
    assert list(unused(tmp_path / "cache", 30, NOW)) == []
    for path in fetched:
        os.utime(path, (OLD, OLD))
    with_one = Checkpoint.open(models[0], cache=resources.remote)
    with_one.span("lm_head.weight")
    (found,) = [one for one in unused(tmp_path / "cache", 30, NOW) if "storages" in one.what]
    assert found.what == "62 ranges of models in storages, not used for 30 days"
    take([found])
    assert len(sorted((tmp_path / "cache" / "remote" / "blobs").glob("*.blob"))) == 1


def test_what_a_killed_run_left_goes_and_what_a_living_one_holds_does_not(tmp_path: Path) -> None:
    dead, living = staging(tmp_path, ".r.staging-dead"), staging(tmp_path, ".r.staging-living")
    young = staging(tmp_path, ".r.staging-young", days=0)
    lock = os.open(lock_of(living), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    found = list(left_by_kills(tmp_path, NOW))
    assert [(one.what, one.bytes) for one in found] == [("left by a killed run: merged/.r.staging-dead", 1000)]
    assert take(found) == 1000
    assert (dead.exists(), living.exists(), young.exists()) == (False, True, True)
    os.close(lock)


def test_a_model_written_whole_for_scoring_goes(tmp_path: Path) -> None:
    folder = tmp_path / ".widen/composed/base+tone"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 1000)
    for path in (folder / "model.safetensors", folder, folder.parent):
        os.utime(path, (NOW - 2 * DAY, NOW - 2 * DAY))
    assert take(left_by_kills(tmp_path, NOW)) == 1000
    assert not folder.parent.exists()


def test_one_that_came_to_life_between_look_and_removal_stays(tmp_path: Path) -> None:
    folder = staging(tmp_path, ".r.staging-x")
    found = list(left_by_kills(tmp_path, NOW))
    lock = os.open(lock_of(folder), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert take(found) == 0
    assert folder.exists()
    os.close(lock)


def test_a_linked_file_gains_nothing(tmp_path: Path) -> None:
    folder = staging(tmp_path, ".r.staging-x", days=0)
    os.link(folder / "model.safetensors", tmp_path / "kept")
    os.utime(folder, (NOW - 2 * DAY, NOW - 2 * DAY))
    (found,) = left_by_kills(tmp_path, NOW + 2 * DAY)
    assert found.bytes == 0


def test_a_lock_whose_folder_was_never_made_goes(tmp_path: Path) -> None:
    folder = staging(tmp_path, ".r.staging-x")
    shutil.rmtree(folder)
    assert take(left_by_kills(tmp_path, NOW)) == 0
    assert list(folder.parent.iterdir()) == []
