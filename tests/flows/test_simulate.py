"""`widen simulate`: what it is told, what it prints and draws, and what it refuses; no weight is read."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from flows.amounts import parse_amounts
from flows.cli import app
from flows.simulate_options import NODE, STORAGE, parse_nodes
from tests.build import changed, llama_weights, write_checkpoint
from widen.errors import RecipeError, WidenError


def simulate(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["simulate", *(str(one) for one in arguments)])
    if isinstance(done.exception, WidenError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(printed: str) -> list[list[str]]:
    """The table's lines as words."""
    return [line.split() for line in printed.splitlines() if re.match(r" +\d+ ", line)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    weights = llama_weights()
    write_checkpoint(place / "base", weights)
    write_checkpoint(place / "chat", changed(weights, 1, 0.1))
    file = place / "recipe.yaml"
    file.write_text(json.dumps({
        "merge_method": "widen", "base_model": str(place / "base"), "models": [{"model": str(place / "chat")}],
    }))  # fmt: skip
    return file


def test_a_size_is_told_by_number_of_nodes_with_what_bounds_it(tmp_path: Path) -> None:
    picture = tmp_path / "curve.svg"
    printed = simulate(
        "--size", "7b", "--nodes", "1-4", "--node", "cpus=8,network=1GB,price=3.6", "--shard-size", "250MB",
        "--cache", tmp_path / "cache", "--draw", picture,
    )  # fmt: skip
    found = rows(printed)
    assert [row[0] for row in found] == ["1", "2", "4"]
    assert [row[1] for row in found] == ["2", "4", "8"]
    assert "network in" in printed
    assert re.search(r"reads 40\.4 GB, writes 13\.5 GB; \d\d units", printed)
    assert "a reference machine" in printed
    assert "useful      " in printed
    costs = [float(row[-1]) for row in found]
    seconds = [float(row[2]) for row in found]
    assert costs == [
        pytest.approx(3.6 * count * took / 3600, abs=0.006) for count, took in zip([1, 2, 4], seconds, strict=True)
    ]
    drawn = picture.read_text()
    assert simulate("--size", "7b", "--nodes", "1-4", "--node", "cpus=8,network=1GB,price=3.6", "--shard-size", "250MB",
                    "--cache", tmp_path / "cache", "--draw", picture)  # fmt: skip
    assert picture.read_text() == drawn


def test_a_recipe_is_read_by_its_headers(recipe: Path, tmp_path: Path) -> None:
    files = list(recipe.parent.rglob("model.safetensors"))
    for path in files:  # weights that would be refused, had anybody read them
        head = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        with path.open("r+b") as file:
            file.seek(head)
            file.write(b"\xff" * (path.stat().st_size - head))
    printed = simulate(
        recipe, "--nodes", "1,3", "--cache", tmp_path / "cache", "--shard-size", "10KB", "--file-digests"
    )
    assert [row[0] for row in rows(printed)] == ["1", "3"]
    whole = sum(tensor.nbytes for tensor in llama_weights().values())
    assert f"reads {2 * whole / 1e9:.1f} GB" in printed
    assert "start-up" in printed


def test_rates_that_a_merge_left_are_taken(tmp_path: Path) -> None:
    from widen.outlook import RATES_FILE, REFERENCE_RATES

    asked = [
        "--size",
        "7b",
        "--nodes",
        "1",
        "--node",
        "network=100GB",
        "--storage",
        "read=1000GB,write=1000GB,latency=0",
    ]
    plain = rows(simulate(*asked, "--cache", tmp_path / "none"))
    (tmp_path / "here").mkdir()
    slower = {name: rate / 10 for name, rate in REFERENCE_RATES.items()}
    (tmp_path / "here" / RATES_FILE).write_text(json.dumps(slower))
    printed = simulate(*asked, "--cache", tmp_path / "here")
    assert "rates       of the last merge here" in printed
    assert _seconds(rows(printed)[0]) > 2 * _seconds(plain[0])


def _seconds(row: list[str]) -> float:
    return float(row[2]) * (60 if row[3] == "min" else 1)


def test_slow_and_lost_nodes_cost_time_and_reads(tmp_path: Path) -> None:
    asked = [
        "--size",
        "7b",
        "--nodes",
        "3",
        "--cache",
        str(tmp_path / "cache"),
        "--overhead",
        "start=1,worker=1,unit=0",
    ]
    plain, slow, lost = (rows(simulate(*asked, *more))[0] for more in ([], ["--slow", 0.1], ["--lost", 8]))
    assert _seconds(slow) > _seconds(plain)
    assert _seconds(lost) > _seconds(plain)
    assert float(lost[-6 + 1]) > float(plain[-6 + 1]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "a recipe or --size"),
        (["--size", "8b"], "'8b' is unknown; expected one of 7b, 13b"),
        (["--size", "7b", "--nodes", "0-4"], "--nodes '0-4'"),
        (["--size", "7b", "--nodes", "4-2"], "--nodes '4-2'"),
        (["--size", "7b", "--nodes", "1-"], "whole number, found ''"),
        (["--size", "7b", "--nodes", "1-1000000"], "from 1 to 4096"),
        (["--size", "7b", "--node", "cores=4"], "expected NAME=AMOUNT with one of cpus"),
        (["--size", "7b", "--node", "cpus=4,cpus=8"], "cpus is given twice"),
        (["--size", "7b", "--node", "cpus=4.5"], "whole number, found '4.5'"),
        (["--size", "7b", "--node", "network=fast"], "expected a number with KB"),
        (["--size", "7b", "--node", "price=nan"], "at least 0, found 'nan'"),
        (["--size", "7b", "--node", "cpus=0"], "cpus must be"),
        (["--size", "7b", "--storage", "latency=-1"], "at least 0, found '-1'"),
        (["--size", "7b", "--unit", "cpus=32"], "does not fit a node of 16"),
        (["--size", "7b", "--unit", "cpus=0"], "at least 1, found 0"),
        (["--size", "7b", "--unit", "gpus=1", "--node", "gpus=1"], "python -m bench.gpu_kernels"),
        (["--size", "7b", "--inputs", "tape"], "--inputs 'tape'"),
        (["--size", "7b", "--draw", "curve.txt"], "ends in one of .svg"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_cannot_be_asked_is_refused_in_words(arguments: list[str], told: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(told)):
        simulate(*arguments)


@given(st.text(max_size=40))
def test_hostile_text_is_refused_or_read(text: str) -> None:
    for parse in (
        parse_nodes,
        lambda one: parse_amounts("--node", one, NODE),
        lambda one: parse_amounts("--s", one, STORAGE),
    ):
        try:
            found: Any = parse(text)
        except RecipeError as error:
            assert "expected" in str(error) or "twice" in str(error)
        else:
            assert all(found) if isinstance(found, list) else isinstance(found, dict)


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_a_range_of_nodes_doubles_between_its_ends(one: int, other: int) -> None:
    first, last = sorted((one, other))
    found = parse_nodes(f"{first}-{last}")
    assert (found[0], found[-1]) == (first, last)
    assert found == sorted(set(found))
    assert all(after <= 2 * before for before, after in pairwise(found))
