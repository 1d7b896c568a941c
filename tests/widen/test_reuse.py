"""A re-merge takes over what is still the same, says why it computes the rest, and gives the same bytes."""

import errno
import json
import os
import shutil
import sqlite3
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import widen
from tests.build import family
from widen.checkpoint import Checkpoint
from widen.contents import Contents
from widen.digests import FileDigest, hash_file
from widen.manifest import Manifest, Recipe
from widen.progress import Silent

RECIPE = Recipe("r", "0")
SHARDS = 12_000
OLD = 10**9


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A base and two models whose files rest, so that digests may be kept."""
    folders = family(tmp_path / "in")
    for folder in folders:
        rest(folder)
    return folders


def rest(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (OLD, OLD))


def merge(models: list[Path], out: Path, resources: widen.Resources | None = None, **more) -> Manifest:
    asked = widen.Settings(**{"shard_bytes": SHARDS} | more.pop("settings", {}))
    resources = resources or widen.Resources(cache=out.parent / "cache")
    return widen.merge(models[0], models[1:], out, asked, recipe=RECIPE, any_settings=True, resources=resources, **more)


def update(folder: Path, *names: str) -> None:
    """A new version of a model in which the named tensors changed."""
    weights = load_file(folder / "model.safetensors")
    for name in names:
        weights[name] = weights[name] * 1.5
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    os.utime(folder / "model.safetensors", (OLD + 1, OLD + 1))


def same_as_fresh(models: list[Path], out: Path, **more) -> None:
    """Everything but the record of how it came about equals a merge from nothing."""
    fresh = merge(models, out.parent / "fresh", widen.Resources(), **more)
    found = Manifest.load(out)
    assert found.files == fresh.files
    assert found.tensors == fresh.tensors
    assert found.damage(out) == []


NAME = "model.layers.1.mlp.down_proj.weight"


def test_an_update_of_one_tensor_computes_that_tensor_only(models: list[Path], tmp_path: Path) -> None:
    first = merge(models, tmp_path / "out")
    assert first.reuse.reused == 0
    assert list(first.reuse.computed) == ["no earlier output"]
    update(models[1], NAME)
    second = merge(models, tmp_path / "out")
    assert dict(second.reuse.computed) == {"changed in m1": [NAME]}
    assert second.reuse.reused == len(second.tensors) - 1
    assert second.tensors[NAME] != first.tensors[NAME]
    same_as_fresh(models, tmp_path / "out")


def test_only_the_updated_model_is_measured(models: list[Path], tmp_path: Path) -> None:
    notes = Listening()
    merge(models, tmp_path / "out")
    update(models[1], NAME)
    merge(models, tmp_path / "out", progress=notes)
    assert "statistics of m2: 0 tensors measured, 1 known" in notes.heard
    assert "computed: 1 tensors, changed in m1" in notes.heard
    assert not [note for note in notes.heard if note.startswith("statistics of m1")]


class Listening(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)


def test_untouched_files_are_linked_not_written(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "out")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("model-*")}
    update(models[1], NAME)
    second = merge(models, tmp_path / "out")
    after = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("model-*")}
    assert [name for name in before if before[name] != after[name]] == [second.tensors[NAME].file]


def test_tensors_move_between_files_when_the_shard_size_changes(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "out")
    second = merge(models, tmp_path / "out", settings={"shard_bytes": 30_000})
    assert second.reuse.reused == len(second.tensors)
    same_as_fresh(models, tmp_path / "out", settings={"shard_bytes": 30_000})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"t": 0.5}, "t changed from 1.0"),
        ({"s": 0.9}, "s changed from 1.0"),
        ({"out_dtype": "float32"}, "stored in another type or shape"),
    ],
)
def test_other_settings_reuse_no_tensor_but_all_statistics(change, reason, models, tmp_path: Path) -> None:
    notes = Listening()
    count = len(merge(models, tmp_path / "out").tensors)
    second = merge(models, tmp_path / "out", settings=change, progress=notes)
    assert {reason: len(names) for reason, names in second.reuse.computed.items()} == {reason: count}
    assert {f"statistics of m{k}: 0 tensors measured, {count} known" for k in (1, 2)} <= set(notes.heard)
    same_as_fresh(models, tmp_path / "out", settings=change)


def test_a_changed_base_and_another_number_of_models_are_told(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "out")
    update(models[0], NAME)
    assert dict(merge(models, tmp_path / "out").reuse.computed) == {"changed in base": [NAME]}
    assert list(merge(models[:2], tmp_path / "out").reuse.computed) == ["2 models became 1"]


def test_an_output_of_another_arithmetic_is_not_reused(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "out")
    path = tmp_path / "out" / "widen-manifest.json"
    content = json.loads(path.read_text())
    content["engine"]["arithmetic"] = "widen-float64/0"
    path.write_text(json.dumps(content))
    assert list(merge(models, tmp_path / "out").reuse.computed) == ["engine arithmetic changed from widen-float64/0"]


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm", ["a bit in a whole file", "a bit in a touched file", "no file", "a cut file", "a torn header"]
)
def test_what_was_damaged_is_computed_again(harm: str, models: list[Path], tmp_path: Path) -> None:
    first = merge(models, tmp_path / "out")
    update(models[1], NAME)
    touched = first.tensors[NAME].file
    other = next(name for name in sorted(first.files) if name.startswith("model-") and name != touched)
    path = tmp_path / "out" / (touched if "touched" in harm else other)
    if "bit" in harm:
        flip(path)
    elif harm == "no file":
        path.unlink()
    elif harm == "a cut file":
        os.truncate(path, path.stat().st_size - 10)
    else:
        flip(path, 3)
    second = merge(models, tmp_path / "out")
    assert "damaged in the earlier output" in second.reuse.computed
    assert second.reuse.reused > 0
    same_as_fresh(models, tmp_path / "out")


class Stopping(Silent):
    """Presses Ctrl-C when a share of a merge is done."""

    def __init__(self, share: float) -> None:
        self.share = share

    @contextmanager
    def stage(self, label: str, total: int):
        left = total * self.share if label == "merge" else float("inf")

        def advance(size: int) -> None:
            nonlocal left
            left -= size
            if left < 0:
                raise KeyboardInterrupt

        yield advance


def interrupted(models: list[Path], out: Path, **more) -> list[Path]:
    with pytest.raises(KeyboardInterrupt):
        merge(models, out, widen.Resources(threads=1, cache=out.parent / "cache"), progress=Stopping(0.6), **more)
    return sorted(path for path in out.parent.glob(f".{out.name}.staging-*") if path.is_dir())


def test_an_interrupted_merge_goes_on_from_its_finished_files(models: list[Path], tmp_path: Path) -> None:
    (left,) = interrupted(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    finished = list((left / ".finished").glob("*.json"))
    assert finished
    manifest = merge(models, tmp_path / "out")
    assert manifest.reuse.reused >= len(finished)
    assert list(manifest.reuse.computed) == ["not finished by the interrupted run"]
    assert not list(tmp_path.glob(".out*"))
    same_as_fresh(models, tmp_path / "out")


def test_an_interruption_lets_the_files_that_are_being_finished_be_finished(
    models: list[Path], tmp_path: Path, monkeypatch
) -> None:
    whole = set()

    def slowly(path: Path) -> FileDigest:
        whole.add(path.name)
        time.sleep(0.2)
        return hash_file(path)

    monkeypatch.setattr("widen.output.hash_file", slowly)
    (left,) = interrupted(models, tmp_path / "out")
    assert whole
    assert {path.stem for path in (left / ".finished").glob("*.json")} == whole


def test_other_settings_never_pick_up_an_interrupted_merge(models: list[Path], tmp_path: Path) -> None:
    assert interrupted(models, tmp_path / "out")
    manifest = merge(models, tmp_path / "out", settings={"s": 0.5})
    assert manifest.reuse.reused == 0
    assert not list(tmp_path.glob(".out*"))
    same_as_fresh(models, tmp_path / "out", settings={"s": 0.5})


def test_a_damaged_finished_file_is_not_picked_up(models: list[Path], tmp_path: Path) -> None:
    (left,) = interrupted(models, tmp_path / "out")
    for record in (left / ".finished").glob("*.json"):
        flip(left / record.stem)
    assert merge(models, tmp_path / "out").reuse.reused == 0
    same_as_fresh(models, tmp_path / "out")


def test_a_torn_record_of_a_finished_file_is_as_good_as_none(models: list[Path], tmp_path: Path) -> None:
    (left,) = interrupted(models, tmp_path / "out")
    for record in (left / ".finished").glob("*.json"):
        record.write_text(record.read_text()[:40])
    assert merge(models, tmp_path / "out").reuse.reused == 0


def test_a_damaged_measurement_is_made_again(models: list[Path], tmp_path: Path) -> None:
    count = len(merge(models, tmp_path / "out").tensors)
    with sqlite3.connect(tmp_path / "cache" / "statistics" / "measured.sqlite") as kept:
        rows = kept.execute("SELECT key, sums FROM measured ORDER BY key").fetchall()
        assert len(rows) == 2 * count
        harmed = [(sums[:-1] + bytes([sums[-1] ^ 1]), key) for key, sums in rows[::2]]
        kept.executemany("UPDATE measured SET sums = ? WHERE key = ?", harmed)
        kept.execute("UPDATE measured SET summary = '{}' WHERE key = ?", (rows[1][0],))
    kept.close()
    notes = Listening()
    merge(models, tmp_path / "out", settings={"t": 0.5}, progress=notes)
    told = [note.split(": ")[1] for note in notes.heard if note.startswith("statistics")]
    assert sum(int(one.split()[0]) for one in told) == count + 1
    same_as_fresh(models, tmp_path / "out", settings={"t": 0.5})


def test_a_file_that_is_no_database_is_made_anew(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache" / "statistics").mkdir(parents=True)
    (tmp_path / "cache" / "statistics" / "measured.sqlite").write_bytes(b"not a database " * 100)
    merge(models, tmp_path / "out")
    notes = Listening()
    merge(models, tmp_path / "other", settings={"t": 0.5}, progress=notes)
    assert len([note for note in notes.heard if note.startswith("statistics")]) == 2


def test_a_cache_that_cannot_be_made_is_told(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(widen.EnvironmentFault, match=r"cache .* cannot be made"):
        merge(models, tmp_path / "out", widen.Resources(cache=tmp_path / "file" / "cache"))


def test_an_output_of_the_manifest_before_this_one_is_still_ours(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "out")
    path = tmp_path / "out" / "widen-manifest.json"
    content = json.loads(path.read_text()) | {"schema": "widen-manifest/1"}
    del content["reuse"]
    for one in content["inputs"]:
        del one["tensors"]
        one["digest"] = "0" * 64  # it was made of files then
    path.write_text(json.dumps(content))
    assert list(merge(models, tmp_path / "out").reuse.computed) == ["changed in base, m1, m2"]
    same_as_fresh(models, tmp_path / "out")


def test_tensors_are_copied_where_the_kernel_cannot(models: list[Path], tmp_path: Path, monkeypatch) -> None:
    def cannot(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", cannot)
    merge(models, tmp_path / "out")
    second = merge(models, tmp_path / "out", settings={"shard_bytes": 30_000})
    assert second.reuse.reused == len(second.tensors)
    same_as_fresh(models, tmp_path / "out", settings={"shard_bytes": 30_000})


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    threads=st.integers(1, 16),
    memory=st.sampled_from([1, 1 << 20, 1 << 26, 1 << 34]),
    shards=st.integers(2_000, 100_000),
    stop=st.none() | st.floats(0, 1),
    updated=st.booleans(),
)
def test_no_way_of_running_changes_a_tensor(threads, memory, shards, stop, updated, models, tmp_path: Path) -> None:
    expected = merge(models, tmp_path / "expected", widen.Resources()).tensors
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    resources = widen.Resources(threads=threads, memory=memory, cache=tmp_path / "cache")
    asked = {"settings": {"shard_bytes": shards}}
    if updated:
        merge([models[0], models[2], models[1]], tmp_path / "out", resources, **asked)
    if stop is not None:
        with suppress(KeyboardInterrupt):
            merge(models, tmp_path / "out", resources, progress=Stopping(stop), **asked)
    found = merge(models, tmp_path / "out", resources, **asked).tensors
    assert {name: one.sha256 for name, one in found.items()} == {name: one.sha256 for name, one in expected.items()}


def test_a_model_in_other_files_is_the_same_input(models: list[Path], tmp_path: Path) -> None:
    from tests.build import write_checkpoint

    first = merge(models, tmp_path / "out")
    weights = load_file(models[1] / "model.safetensors")
    shutil.rmtree(models[1])
    write_checkpoint(models[1], weights, shards=3)
    assert merge(models, tmp_path / "out").inputs == first.inputs


def test_a_tensor_that_is_stored_wider_is_another_input(models: list[Path], tmp_path: Path) -> None:
    merge(models, tmp_path / "out")
    weights = load_file(models[1] / "model.safetensors")
    weights[NAME] = weights[NAME].to(torch.float32)
    (models[1] / "model.safetensors").unlink()
    save_file(weights, models[1] / "model.safetensors", {"format": "pt"})
    assert dict(merge(models, tmp_path / "out").reuse.computed) == {"changed in m1": [NAME]}
    same_as_fresh(models, tmp_path / "out")


def test_two_that_look_at_one_file_keep_what_both_found(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(family(tmp_path)[0])
    os.utime(checkpoint.folder / "model.safetensors", (1e9, 1e9))  # at rest, else nothing is kept
    first, second = Contents(tmp_path / "cache"), Contents(tmp_path / "cache")
    one, other, *_ = checkpoint.tensors
    first.of(checkpoint, one)
    second.of(checkpoint, other)
    first.save()
    second.save()
    later = Contents(tmp_path / "cache")
    assert later.known(checkpoint, one)
    assert later.known(checkpoint, other)
