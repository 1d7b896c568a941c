"""The same merge by units, one output file each: the same bytes, done twice or not, and a clear word where not."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import widen
from tests.build import family
from widen.dispatched import Done
from widen.errors import EnvironmentFault, InputsRefused
from widen.manifest import Manifest, Recipe
from widen.units import Fragment, Unit, do_unit

RECIPE = Recipe("r", "0")
SHARDS = 12_000


def in_turn(units: Sequence[Unit], done: Done) -> None:
    for unit in units:
        done(unit, do_unit(unit))


def shuffled_and_twice(units: Sequence[Unit], done: Done) -> None:
    order = [*units, *units]
    random.Random(0).shuffle(order)
    told: set[str] = set()
    for unit in order:
        fragment = do_unit(unit)
        if str(unit) not in told:
            told.add(str(unit))
            done(unit, fragment)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return family(tmp_path / "in")


def merge(models: list[Path], out: Path, dispatch: Callable | None = None, **more) -> Manifest:
    asked = widen.Settings(shard_bytes=SHARDS, **more.pop("settings", {}))
    return widen.merge(models[0], models[1:], out, asked, recipe=RECIPE, dispatch=dispatch, **more)


def record(folder: Path) -> dict:
    return json.loads((folder / "widen-manifest.json").read_text())


@pytest.mark.parametrize("dispatch", [in_turn, shuffled_and_twice])
@pytest.mark.parametrize("method", ["widen", "ties"])
def test_units_make_the_manifest_and_the_bytes_of_one_process(
    models: list[Path], tmp_path: Path, dispatch: Callable, method: str
) -> None:
    own = {} if method == "widen" else {"method": "ties", "models": ({"weight": 0.5, "density": 0.5},) * 2}
    merge(models, tmp_path / "here", settings=own, file_digests=True)
    merge(models, tmp_path / "units", dispatch, settings=own, file_digests=True)
    assert record(tmp_path / "units") == record(tmp_path / "here")
    assert len(record(tmp_path / "here")["files"]) > 4
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "units" / path.name).read_bytes()
    assert {path.name for path in (tmp_path / "units").iterdir()} == {p.name for p in (tmp_path / "here").iterdir()}


def test_an_update_is_merged_by_as_few_units_as_it_needs(models: list[Path], tmp_path: Path) -> None:
    seen: list[Unit] = []

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        seen.extend(units)
        in_turn(units, done)

    merge(models, tmp_path / "out", dispatch)
    count, name = len(seen), "model.layers.1.mlp.up_proj.weight"
    weights = load_file(models[1] / "model.safetensors")
    weights[name] = weights[name] * 1.5
    save_file(weights, models[1] / "model.safetensors", {"format": "pt"})
    seen.clear()
    again = merge(models, tmp_path / "out", dispatch)
    assert [unit.file for unit in seen if unit.work == "merge"] == [again.tensors[name].file]
    assert {unit.work for unit in seen} == {"name", "merge"}
    assert again.reuse.computed == {"changed in tuned": [name]} or list(again.reuse.computed.values()) == [[name]]
    assert count > 2
    fresh = merge(models, tmp_path / "fresh")
    assert fresh.digest == again.digest


def test_a_merge_that_lost_its_coordinator_goes_on_with_the_finished_units(models: list[Path], tmp_path: Path) -> None:
    expected = merge(models, tmp_path / "expected").digest
    done_before: list[str] = []

    def interrupted(units: Sequence[Unit], done: Done) -> None:
        for unit in units[:3]:
            do_unit(unit)
            done_before.append(unit.file)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(models, tmp_path / "out", interrupted)
    merged: list[str] = []

    def counted(units: Sequence[Unit], done: Done) -> None:
        merged.extend(unit.file for unit in units if unit.work == "merge")
        in_turn(units, done)

    assert merge(models, tmp_path / "out", counted).digest == expected
    assert not set(merged) & set(done_before)


def test_a_unit_that_was_killed_leaves_nothing_in_the_output(models: list[Path], tmp_path: Path) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        left = Path(units[0].folder) / ".units" / "killed"
        left.mkdir(parents=True)
        (left / units[0].file).write_bytes(b"half")
        in_turn(units, done)

    merge(models, tmp_path / "out", dispatch)
    assert not (tmp_path / "out" / ".units").exists()
    assert not (tmp_path / "out" / ".finished").exists()


def test_inputs_that_are_not_finite_are_named_and_nothing_is_published(models: list[Path], tmp_path: Path) -> None:
    weights = load_file(models[2] / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, models[2] / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputsRefused, match=r"model\.norm\.weight"):
        merge(models, tmp_path / "out", in_turn)
    assert not (tmp_path / "out").exists()


def test_a_node_with_other_files_is_told(models: list[Path], tmp_path: Path) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            sources = tuple((name, str(models[1]) if name == "base" else place) for name, place in unit.job.sources)
            stranger = replace(unit, job=replace(unit.job, sources=sources[:-1], plan=unit.job.plan))
            done(unit, do_unit(stranger))

    with pytest.raises(EnvironmentFault, match="sees other checkpoints than the coordinator"):
        merge(models, tmp_path / "out", dispatch)


def test_a_node_that_read_other_bytes_is_refused(models: list[Path], tmp_path: Path) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            made = do_unit(unit)
            other = {name: tuple(f"{digest[:-1]}_" for digest in sides) for name, sides in made.digests.items()}
            done(unit, made)
            done(unit, replace(made, digests=other))

    with pytest.raises(InputsRefused, match="has other bytes on another node"):
        merge(models, tmp_path / "out", dispatch)


def test_a_node_without_the_outputs_folder_is_told(models: list[Path], tmp_path: Path) -> None:
    def elsewhere(units: Sequence[Unit], done: Done) -> None:
        done(units[0], do_unit(replace(units[0], folder=str(tmp_path / "nowhere" / "staging"))))

    def unshared(units: Sequence[Unit], done: Done) -> None:
        made: Fragment = do_unit(units[0])
        shutil.move(Path(units[0].folder) / units[0].file, tmp_path / "their-disk")
        done(units[0], made)

    with pytest.raises(EnvironmentFault, match=r"does not see .*nowhere"):
        merge(models, tmp_path / "out", elsewhere)
    with pytest.raises(EnvironmentFault, match=r"here is no file; the output's folder .* all nodes share"):
        merge(models, tmp_path / "out", unshared)
    assert not (tmp_path / "out").exists()
