"""The bench itself, on models of no size: it runs, and what it leaves agrees with itself."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ENTRANTS = ["widen-cold", "widen-first", "widen-other", "widen-unchanged", "widen-update"]


@pytest.mark.slow
def test_one_command_leaves_table_figures_and_picture(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "--folder", str(tmp_path), "--size", "tiny", "--rounds", "1"]
    done = subprocess.run([*command, "--peers", "none"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "tiny" / "result.json").read_bytes())
    assert list(result["rounds"][0]) == ["floor", *ENTRANTS]
    floor = median(one["floor"]["seconds"] for one in result["rounds"])
    first = median(one["widen-first"]["seconds"] for one in result["rounds"])
    for name in ENTRANTS:
        line, seconds = result["entrants"][name], median(one[name]["seconds"] for one in result["rounds"])
        start = median(one[name]["start"] for one in result["rounds"])
        assert line["seconds"] == seconds > 0 < start
        assert line["over_floor"] == seconds / floor
        assert line["over_floor_without_start"] == (seconds - start) / floor
        assert line["over_first"] == seconds / first
        assert f"| {line['caption']} | {seconds:.2f} (" in done.stdout
    assert result["command"].endswith("--size tiny --rounds 1 --peers none")
    assert result["machine"]["processors"] >= 1
    assert "mergekit: not in this run" in done.stdout
    assert (tmp_path / "tiny" / "result.md").read_text() == done.stdout
    assert (tmp_path / "tiny" / "result.svg").read_text().count("<svg") == 1
    assert (tmp_path / "tiny" / "result.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tiny" / "work").glob("out*")) == []
