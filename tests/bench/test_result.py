"""From raw figures to ratios, table and picture."""

from pathlib import Path
from typing import Any

import pytest

from bench.entrants import Entrant
from bench.methods import EACH, configuration
from bench.plot import plot
from bench.rounds import choose
from bench.summary import floor_medians, summarise
from bench.table import table

CAPTIONS = {"widen-first": "widen, first merge", "mergekit-ties": "mergekit, ties"}


def floor(read: float, write: float, fsync: float) -> dict[str, float]:
    return {"read": read, "write": write, "fsync": fsync, "seconds": read + write + fsync}


def sample(seconds: float, start: float) -> dict[str, float]:
    return {"seconds": seconds, "start": start, "cpu": 2 * seconds, "peak": 1e9}


ROUNDS = [
    {"floor": floor(1, 1, 0), "widen-first": sample(9, 1), "mergekit-ties": sample(40, 8)},
    {"floor": floor(1, 2, 1), "widen-first": sample(8, 2), "mergekit-ties": sample(44, 9)},
    {"floor": floor(3, 2, 0), "widen-first": sample(30, 3), "mergekit-ties": sample(48, 7)},
]


def test_ratios_are_of_medians() -> None:
    lines = summarise(ROUNDS, CAPTIONS)
    assert list(lines) == list(CAPTIONS)
    assert lines["widen-first"] == {
        "caption": "widen, first merge", "seconds": 9, "start": 2, "cpu": 18, "peak": 1e9, "least": 8, "most": 30,
        "over_floor": 9 / 4, "over_floor_without_start": 7 / 4, "over_first": 1,
    }  # fmt: skip
    assert lines["mergekit-ties"]["over_first"] == 44 / 9


def test_without_a_first_merge_nothing_is_set_beside_it() -> None:
    lines = summarise(ROUNDS, {"mergekit-ties": "mergekit, ties"})
    assert lines["mergekit-ties"]["over_first"] is None
    assert lines["mergekit-ties"]["over_floor"] == 11


def test_the_floor_is_told_in_its_parts() -> None:
    assert floor_medians(ROUNDS) == {"read": 1, "write": 2, "fsync": 0, "seconds": 4}


def result() -> dict[str, Any]:
    return {
        "device": "cpu",
        "machine": {
            "processor": "AMD EPYC", "processors": 2, "memory_bytes": 24 << 30,
            "file_system": "ext4", "kernel": "Linux 6",
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0", "mergekit": "0.1.5"},
        "models": {
            "count": 3, "parameters": 439e6, "tensors": 291, "input_bytes": 2.64e9, "output_bytes": 0.88e9,
            "updated_tensors": 14, "updated_share": 0.041,
        },
        "absent": {"another": "not installed"},
        "floor": floor_medians(ROUNDS),
        "entrants": summarise(ROUNDS, CAPTIONS),
        "gpu": None,
        "rounds": ROUNDS,
    }  # fmt: skip


def test_the_table_tells_figures_machine_and_what_is_missing() -> None:
    told = table(result())
    assert "| byte floor (read 1.00, write 2.00, fsync 0.00) | 4.00 | | 1.0 | 1.0 | | | |" in told
    assert "| widen, first merge | 9.00 (8.00 to 30.00) | 2.00 | 2.2 | 1.8 | 1.00 | 18.0 | 1.00 GB |" in told
    assert "| mergekit, ties | 44.00 (40.00 to 48.00) | 8.00 | 11.0 | 9.0 | 4.89 | 88.0 | 1.00 GB |" in told
    assert "3 models of 0.439 billion parameters, bfloat16; reads 2.64 GB, writes 0.88 GB." in told
    assert "14 of 291 tensors (4.1% of the bytes)" in told
    assert "2 x AMD EPYC, 24 GiB, ext4, Linux 6; python 3.11.7, torch 2.13.0, mergekit 0.1.5." in told
    assert told.endswith("another: not installed")
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}


def test_the_picture_names_every_entrant_machine_and_size(tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        plot(result(), tmp_path / "result")
    drawn = (tmp_path / "result.svg").read_text(encoding="utf-8")
    for text in (
        *CAPTIONS.values(),
        "9 s = 2.2 floors, 1.00 GB",
        "byte floor, 4 s",
        "0.439 billion",
        "2 x AMD EPYC, 24 GiB",
    ):
        assert text in drawn
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


# Who takes part


def entrant(name: str, *needs: str) -> Entrant:
    return Entrant(name, name, "python", "module", [], lambda: None, Path("out"), name, needs)


ENTRANTS = [
    entrant("widen-cold"),
    entrant("widen-first", "widen-cold"),
    entrant("mergekit-ties"),
    entrant("mergekit-sce"),
]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], ["widen-cold", "widen-first", "mergekit-ties", "mergekit-sce"]),
        (["widen-first"], ["widen-cold", "widen-first"]),
        (["mergekit-ties"], ["mergekit-ties"]),
        (["mergekit", "widen-cold"], ["widen-cold", "mergekit-ties", "mergekit-sce"]),
    ],
    ids=" ".join,
)
def test_only_some_take_part_with_those_that_they_need(words: list[str], chosen: list[str]) -> None:
    assert [one.name for one in choose(ENTRANTS, words)] == chosen


def test_a_word_that_names_nobody_is_an_error() -> None:
    with pytest.raises(SystemExit, match="--only mergkit: expected the beginning of widen-cold, widen-first"):
        choose(ENTRANTS, ["widen", "mergkit"])


@pytest.mark.parametrize("method", EACH)
def test_mergekit_gets_the_models_that_its_method_takes(method: str) -> None:
    content = configuration(method, "base", ["tuned", "pretrained"])
    named = [entry["model"] for entry in content["models"]]
    assert named == {
        "linear": ["base", "tuned", "pretrained"],
        "karcher": ["base", "tuned", "pretrained"],
        "slerp": ["base", "tuned"],
        "passthrough": ["tuned"],
    }.get(method, ["tuned", "pretrained"])  # fmt: skip
    assert content.get("base_model") == (None if method in ("linear", "karcher", "passthrough") else "base")
    assert content["dtype"] == "bfloat16"
