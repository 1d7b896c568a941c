"""Measuring a command: its time, its memory with its children's, its failure; and the floor."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.floor import measure_floor
from bench.machine import file_system, machine
from bench.measure import family, run

HOLD = "block = bytearray({size}); block[::4096] = b'x' * len(block[::4096]); import time; time.sleep(0.3)"
START = Path(__file__).parents[2] / "bench" / "start.py"


def test_memory_of_children_counts() -> None:
    alone = run([sys.executable, "-c", HOLD.format(size=40_000_000)])
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD.format(size=60_000_000)!r}])"
    both = run([sys.executable, "-c", f"block = bytearray(40_000_000); {child}"])
    assert 40_000_000 < alone.anonymous_peak < 90_000_000
    assert 100_000_000 < both.anonymous_peak < 200_000_000


def test_time_is_told_in_wall_and_cpu() -> None:
    slept = run([sys.executable, "-c", "import time; time.sleep(0.5); print('done')"])
    assert slept.output == "done\n"
    assert slept.cpu_seconds > 0
    assert slept.seconds - slept.cpu_seconds > 0.4


def test_a_command_that_fails_ends_the_bench_with_its_output() -> None:
    with pytest.raises(SystemExit, match="ended with 3:\nwhy"):
        run([sys.executable, "-c", "import sys; print('why', flush=True); sys.exit(3)"])


def test_the_environment_reaches_the_command() -> None:
    code = "import os; print(os.environ['BENCH_WORD'], 'PATH' in os.environ)"
    assert run([sys.executable, "-c", code], {"BENCH_WORD": "hello"}).output == "hello True\n"


def test_a_family_is_a_process_and_its_descendants() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = family(process.pid)
        process.communicate(b"\n")
    assert found[0] == process.pid
    assert len(found) == 2
    assert family(process.pid) == [process.pid]


def test_the_floor_reads_writes_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3_000_000))
    floor = measure_floor([source, source], tmp_path / "floor.bin", 9_000_001)
    assert min(floor.read, floor.write, floor.fsync) > 0
    assert floor.seconds == floor.read + floor.write + floor.fsync
    assert list(tmp_path.iterdir()) == [source]


def test_the_floor_writes_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr("bench.floor.os.fsync", lambda _: written.append((tmp_path / "floor.bin").read_bytes()))
    measure_floor([], tmp_path / "floor.bin", 9_000_001)
    assert len(written[0]) == 9_000_001
    assert written[0][:1000].count(0) < 100


def test_start_imports_what_was_recorded(tmp_path: Path) -> None:
    """The recorded program runs as itself, with its arguments."""
    (tmp_path / "program.py").write_text("import sys\nimport colorsys\nprint(sys.argv[1:], __name__)\n")
    record = [sys.executable, "-P", str(START), "record", str(tmp_path / "list"), "program", "one", "two"]
    done = subprocess.run(record, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("['one', 'two'] __main__\n", "")
    names = (tmp_path / "list").read_text().split()
    assert "colorsys" in names
    assert names[-1] == "program"
    (tmp_path / "program.py").write_text("print('imported as', __name__)\n")
    load = [sys.executable, "-P", str(START), "load", str(tmp_path / "list")]
    done = subprocess.run(load, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("imported as program\n", "")


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = machine(tmp_path)
    assert int(found["processors"]) >= 1
    assert int(found["memory_bytes"]) > 1 << 30
    assert found["file_system"] == file_system(tmp_path) != "unknown"
    assert file_system(Path("/proc")) == "proc"


def test_a_process_that_nobody_waits_for_is_counted_as_well() -> None:
    busy = "while True: pass"
    leave = f"import os, subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', '{busy}'])"
    found = run([sys.executable, "-c", f"{leave}; time.sleep(1.5); child.kill(); os._exit(0)"])
    assert found.family_seconds > found.cpu_seconds
