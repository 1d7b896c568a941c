"""Room on a disk for files that are yet to be sent: who finds too little waits for others, and is refused alone."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.remote.outputs import Heard
from widen.errors import EnvironmentFault
from widen.remote import room as rooms
from widen.remote.room import RESERVED, room

DISK = 100_000


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """On a disk of 100 kB."""

    def free(folder: Path) -> int:
        return DISK - sum(path.stat().st_blocks * 512 for path in folder.rglob("output-*/*"))

    monkeypatch.setattr(rooms, "free_space", free)
    monkeypatch.setattr("widen.staging.free_space", free)
    monkeypatch.setattr(rooms, "PAUSE_S", 0.01)
    return tmp_path / "scratch"


def waiting(parent: Path, size: int) -> tuple[threading.Thread, Heard, list[int]]:
    """A thread that wants room, and how many folders beside its own had some when it got it."""
    heard, got, told = Heard(), list[int](), threading.Event()
    tell = heard.note
    heard.note = lambda text: (tell(text), told.set())[0]  # type: ignore[method-assign]

    def want() -> None:
        with room(parent, size, heard):
            got.append(len(list(parent.glob(f"*/{RESERVED}"))) - 1)

    thread = threading.Thread(target=want, daemon=True)
    thread.start()
    assert told.wait(60)
    return thread, heard, got


@pytest.mark.parametrize("is_written", [False, True])
def test_who_finds_too_little_waits_until_others_have_ended(parent: Path, is_written: bool) -> None:
    with room(parent, 60_000, Heard()) as folder:
        if is_written:
            (folder / "file").write_bytes(b"x" * 60_000)
        thread, heard, got = waiting(parent, 60_000)
        assert got == []
    thread.join(60)
    assert got == [0]
    assert heard.notes == [f"{parent}: too little room for 0.00 GB until others at work there have ended"]
    assert list(parent.iterdir()) == []


def test_several_share_what_is_enough_for_them(parent: Path) -> None:
    heard = Heard()
    with room(parent, 40_000, heard) as first, room(parent, 40_000, heard) as second:
        (first / "file").write_bytes(b"x" * 36_000)
        assert first != second
    assert heard.notes == []


def test_what_nobody_else_holds_back_is_refused_at_once(parent: Path) -> None:
    with (
        pytest.raises(EnvironmentFault, match=r"scratch: what is written there needs 0.00 GB"),
        room(parent, DISK + 1, Heard()),
    ):
        pass


def test_who_waits_for_a_process_that_is_killed_goes_on(parent: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from widen.progress import silent
from widen.remote.room import room
with room(Path({str(parent)!r}), 60_000, silent):
    print("has it", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"has it\n"
        thread, _, got = waiting(parent, 60_000)
        os.kill(holder.pid, signal.SIGKILL)
    thread.join(60)
    assert got == [0]
    assert list(parent.iterdir()) == []
