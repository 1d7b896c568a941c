"""Ranges in a folder of this machine: parts that tile, a bound that holds, nothing in use removed, by any process."""

import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widen.remote.blobs import Blobs, Bytes
from widen.remote.ranges import fetch_parts, parts_of

MB = 1 << 20


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 40), st.integers(1, 1 << 40))
def test_parts_tile_the_range(start: int, size: int, part: int) -> None:
    part = max(part, size // 1000)  # no more than a thousand
    parts = parts_of(start, start + size, part or 1)
    assert sum(stop - first for first, stop in parts) == size
    assert [first for first, _ in parts[:1]] == [start] * bool(size)
    assert all(one[1] == other[0] for one, other in pairwise(parts))
    lengths = {stop - first for first, stop in parts}
    assert all(0 < length <= part for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1


def test_the_first_part_that_fails_is_told_and_none_goes_on_after() -> None:
    running, most = [], []

    def fetch(start: int, stop: int) -> None:
        running.append(start)
        if start == 0:
            running.remove(start)
            raise OSError("no such luck")
        most.append(stop - start)
        running.remove(start)

    with pytest.raises(OSError, match="no such luck"):
        fetch_parts(0, 100 << 20, fetch)
    assert running == []
    assert all(size <= 8 << 20 for size in most)


def bytes_of(number: int, size: int = MB) -> bytes:
    return np.random.default_rng(number).bytes(size)


def taken(blobs: Blobs, number: int, size: int = MB, fetched: list[int] | None = None) -> Bytes:
    def fill(descriptor: int) -> None:
        if fetched is not None:
            fetched.append(number)
        os.pwrite(descriptor, bytes_of(number, size), 0)

    found = blobs.take(str(number), size, fill)
    assert found.tobytes() == bytes_of(number, size)
    return found


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".blob", ".part"))


def test_what_is_there_is_not_fetched_again_and_cannot_be_written(tmp_path: Path) -> None:
    blobs, fetched = Blobs(tmp_path, 10 * MB), list[int]()
    first = taken(blobs, 1, fetched=fetched)
    assert not first.flags.writeable
    assert taken(Blobs(tmp_path, 10 * MB), 1, fetched=fetched).tobytes() == first.tobytes()
    assert fetched == [1]
    assert blobs.take("nothing", 0, lambda _: None).size == 0


def test_the_bound_holds_and_those_used_last_stay(tmp_path: Path) -> None:
    blobs, fetched = Blobs(tmp_path, 8 * MB), list[int]()
    for number in range(40):
        taken(blobs, number, fetched=fetched)
        taken(blobs, 0, fetched=fetched)
        assert held(tmp_path) <= 8 * MB
    assert fetched == list(range(40)), "the one that was used all the time never went"


def test_what_is_in_use_is_never_removed_and_goes_when_it_is_not(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 4 * MB)
    using = [taken(blobs, number) for number in range(10)]
    assert held(tmp_path) == 10 * MB, "exceeded by what is needed"
    assert [one.tobytes() for one in using] == [bytes_of(number) for number in range(10)]
    using.clear()
    taken(blobs, 11)
    assert held(tmp_path) <= 4 * MB


def test_another_process_keeps_what_it_uses_and_takes_its_share(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from widen.remote.blobs import Blobs
blobs = Blobs(Path({str(tmp_path)!r}), {8 * MB})
blobs.share
used = blobs.take("theirs", {MB}, lambda descriptor: os.pwrite(descriptor, b"x" * {MB}, 0))
print("ready", flush=True)
sys.stdin.readline()
assert used.tobytes() == b"x" * {MB}
"""
    blobs = Blobs(tmp_path, 8 * MB)
    assert blobs.share == 8 * MB
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        assert blobs.share == 4 * MB
        for number in range(20):
            taken(blobs, number)
        fetched: list[bytes] = []
        assert blobs.take("theirs", MB, lambda _: fetched.append(b"again")).tobytes() == b"x" * MB
        assert fetched == []
        other.stdin.write("\n")
    assert other.returncode == 0
    assert blobs.share == 8 * MB


def test_a_fetch_that_fails_or_is_killed_leaves_nothing_that_is_read(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, 8 * MB)

    def cut_short(descriptor: int) -> None:
        os.pwrite(descriptor, b"half", 0)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        blobs.take("1", MB, cut_short)
    assert held(tmp_path) == 0
    code = f"""
import os
from pathlib import Path
from widen.remote.blobs import Blobs
Blobs(Path({str(tmp_path)!r}), {8 * MB}).take("1", {MB}, lambda _: os.kill(os.getpid(), 9))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file() and path.suffix] == [".part"]
    taken(blobs, 1)


def test_threads_that_want_the_same_fetch_it_once(tmp_path: Path) -> None:
    blobs, fetched, failed = Blobs(tmp_path, 8 * MB), list[int](), list[Exception]()
    every = threading.Barrier(8)

    def want() -> None:
        try:
            using = [taken(blobs, number % 5, fetched=fetched) for number in range(10)]
            every.wait(60)  # until all have them: nobody may wait for another one's use to end
            using.clear()
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(fetched) == [0, 1, 2, 3, 4]


def test_a_file_of_another_length_is_fetched_again(tmp_path: Path) -> None:
    taken(Blobs(tmp_path, 8 * MB), 1)
    (path,) = (one for one in tmp_path.iterdir() if one.suffix == ".blob")
    path.write_bytes(b"short")
    taken(Blobs(tmp_path, 8 * MB), 1)


def test_a_crash_of_the_machine_forgets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    taken(Blobs(tmp_path, 8 * MB), 1, fetched=fetched)
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *told: real(path, *told) + ("x" if path.name == "boot_id" else "")
    )
    taken(Blobs(tmp_path, 8 * MB), 1, fetched=fetched)
    assert fetched == [1, 1]
