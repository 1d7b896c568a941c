"""Merges into a storage: the same files, published by one object; overtaken or refused, readers see one."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import widen
from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from tests.remote.conftest import BUCKET, Line, client, family, keys
from tests.remote.outputs import ONE, OTHER, OUT, SMALL, Heard, contents, current, tensors_of
from widen.checkpoint import Checkpoint
from widen.errors import EnvironmentFault, InputsRefused, OutputExists
from widen.manifest import Manifest
from widen.progress import Silent
from widen.remote.cache import RemoteCache


def test_the_files_are_those_of_a_local_merge_and_the_folder_opens_as_one(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    local = widen.merge(base, models, tmp_path / "local", SMALL, recipe=ONE)
    remote = widen.merge(base, models, OUT, SMALL, recipe=ONE, resources=widen.Resources(cache=tmp_path / "cache"))
    assert remote.to_json() == local.to_json()
    folder = current(bucket)["folder"]
    for path in (tmp_path / "local").iterdir():
        assert bucket.Object(f"out/{folder}/{path.name}").get()["Body"].read() == path.read_bytes(), path.name
    assert len([key for key in keys(bucket, f"out/{folder}/widen-finished/") if key.endswith(".json")]) > 3
    opened = Checkpoint.open(OUT)
    assert opened.name == "out"
    assert contents(opened) == tensors_of(local)
    assert Manifest.load(opened.folder).to_json() == local.to_json()
    assert list((tmp_path / "cache" / "remote" / "scratch").iterdir()) == []
    assert widen.merge(opened, models, tmp_path / "next").digest == (
        widen.merge(tmp_path / "local", models, tmp_path / "next-local").digest
    )


def test_what_is_published_and_the_same_is_left_alone(bucket: Any, line: Line, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    cache = widen.Resources(cache=tmp_path / "cache")
    first = widen.merge(base, models, OUT, SMALL, recipe=ONE, resources=cache)
    line.asked.clear()
    heard = Heard()
    assert widen.merge(base, models, OUT, SMALL, recipe=ONE, resources=cache, progress=heard) == first
    assert [one for one in line.asked if one[0] not in ("GET", "HEAD")] == []
    assert any("is unchanged" in note for note in heard.notes)
    damaged = next(
        key for key in keys(bucket, "out/") if key.endswith("00001-of-00010.safetensors") or "-00001-" in key
    )
    bucket.put_object(Key=damaged, Body=b"damaged")
    assert tensors_of(widen.merge(base, models, OUT, SMALL, recipe=ONE, resources=cache)) == tensors_of(first)
    assert contents(Checkpoint.open(OUT)) == tensors_of(first)


@pytest.mark.slow
def test_other_settings_take_its_place_and_two_folders_stay(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    cache = widen.Resources(cache=tmp_path / "cache")
    folders = []
    for t in (1.0, 0.5, 0.7, 1.0):
        settings = widen.Settings(shard_bytes=12_000, t=t)
        local = widen.merge(base, models, tmp_path / f"local-{len(folders)}", settings, recipe=ONE)
        remote = widen.merge(base, models, OUT, settings, recipe=ONE, resources=cache)
        assert tensors_of(remote) == tensors_of(local) == contents(Checkpoint.open(OUT))
        folders.append(current(bucket)["folder"])
        there = {key.split("/")[1] for key in keys(bucket, "out/")} - {"widen-current.json"}
        assert there == set(folders[-2:])
    assert len(set(folders)) == 4, "a folder that was published is never written to again"


@pytest.mark.slow
def test_an_update_copies_within_the_storage_what_did_not_change(bucket: Any, line: Line, tmp_path: Path) -> None:
    weights = llama_weights(0)
    base = write_checkpoint(tmp_path / "base", weights)
    model = changed(weights, 1, 0.1)
    cache = widen.Resources(cache=tmp_path / "cache")
    widen.merge(base, [write_checkpoint(tmp_path / "a" / "m", model)], OUT, SMALL, recipe=ONE, resources=cache)
    model["lm_head.weight"] = model["lm_head.weight"] * 2
    update = write_checkpoint(tmp_path / "b" / "m", model)
    line.asked.clear()
    remote = widen.merge(base, [update], OUT, SMALL, recipe=ONE, resources=cache)
    assert line.of_weights("GET") == [], "nothing of the earlier output came here"
    local = widen.merge(base, [update], tmp_path / "local", SMALL, recipe=ONE)
    assert remote.files == local.files
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)
    assert remote.reuse.reused == len(local.tensors) - sum(len(names) for names in remote.reuse.computed.values()) > 0
    assert "changed in m" in remote.reuse.computed


def test_what_this_recipe_did_not_make_is_left_untouched(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    bucket.put_object(Key="out/notes.txt", Body=b"mine")
    with pytest.raises(OutputExists, match=r"s3://models/out holds notes.txt and was not made by this recipe"):
        widen.merge(base, models, OUT, recipe=ONE)
    assert keys(bucket, "out/") == ["out/notes.txt"]
    bucket.objects.delete()
    widen.merge(base, models, OUT, recipe=ONE)
    before = {one.key: one.e_tag for one in bucket.objects.all()}
    with pytest.raises(OutputExists, match="made by another recipe: one 111111111111, not other 222222222222"):
        widen.merge(base, models, OUT, recipe=OTHER)
    assert {one.key: one.e_tag for one in bucket.objects.all()} == before


def test_inputs_that_are_refused_publish_nothing(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = torch.nan
    sick = write_checkpoint(tmp_path / "sick", weights, LLAMA | {"num_hidden_layers": 1})
    first = widen.merge(base, models, OUT, SMALL, recipe=ONE)
    with pytest.raises(InputsRefused, match=r"model.layers.0.mlp.up_proj.weight"):
        widen.merge(base, [models[0], sick], OUT, SMALL, recipe=ONE, resources=widen.Resources(threads=5))
    assert [key for key in keys(bucket, "out/") if key.endswith("claim.json")] == []
    assert contents(Checkpoint.open(OUT)) == tensors_of(first)


@pytest.mark.slow
def test_two_writers_at_once_the_last_counts_and_says_so(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")

    class Overtaken(Heard):
        def stage(self, label: str, total: int) -> Any:
            if label == "merge":
                widen.merge(base, models, OUT, widen.Settings(t=0.5), recipe=ONE)
            return super().stage(label, total)

    heard = Overtaken()
    slow = widen.merge(base, models, OUT, SMALL, recipe=ONE, progress=heard)
    assert [note for note in heard.notes if "another merge was published meanwhile" in note]
    assert contents(Checkpoint.open(OUT)) == tensors_of(slow)


@pytest.mark.slow
def test_a_folder_that_somebody_is_at_work_in_stays_and_one_of_the_dead_goes(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    living, dead = "out/widen-merge-aa/", "out/widen-merge-bb/"
    bucket.put_object(Key=f"{living}widen-claim.json", Body=json.dumps({"at": time.time() - 600}).encode())
    bucket.put_object(Key=f"{dead}widen-claim.json", Body=json.dumps({"at": time.time() - 90_000}).encode())
    bucket.put_object(Key=f"{dead}model.safetensors", Body=b"half")
    begun = client().create_multipart_upload(Bucket=BUCKET, Key=f"{dead}other.safetensors")["UploadId"]
    kept = client().create_multipart_upload(Bucket=BUCKET, Key=f"{living}other.safetensors")["UploadId"]
    widen.merge(base, models, OUT, recipe=ONE)
    assert keys(bucket, dead) == []
    assert keys(bucket, living) == [f"{living}widen-claim.json"]
    uploads = client().list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert [one["UploadId"] for one in uploads] == [kept] != [begun]


@pytest.mark.slow
def test_a_missing_file_stops_the_publication(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")

    class Removing(Silent):
        def stage(self, label: str, total: int) -> Any:
            if label == "send the last files":
                for one in bucket.objects.filter(Prefix="out/"):
                    if one.key.endswith(".safetensors"):
                        one.delete()
            return super().stage(label, total)

    first = widen.merge(base, models, f"s3://{BUCKET}/other", recipe=ONE)
    with pytest.raises(EnvironmentFault, match="somebody removed or replaced it meanwhile; nothing was published"):
        widen.merge(base, models, OUT, SMALL, recipe=ONE, progress=Removing(), resources=widen.Resources(threads=1))
    assert "out/widen-current.json" not in keys(bucket, "out/")
    assert contents(Checkpoint.open(f"s3://{BUCKET}/other")) == tensors_of(first)


@pytest.mark.slow
def test_a_reader_that_follows_the_publications_sees_one_model_or_the_other(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    settings = [widen.Settings(shard_bytes=12_000, t=t) for t in (1.0, 0.5)]
    known = [tensors_of(widen.merge(base, models, tmp_path / f"{k}", one)) for k, one in enumerate(settings)]
    resources = widen.Resources(cache=tmp_path / "cache")
    widen.merge(base, models, OUT, settings[0], recipe=ONE, resources=resources)
    done, failed = threading.Event(), list[Exception]()

    def write() -> None:
        try:
            for turn in range(1, 9):
                widen.merge(base, models, OUT, settings[turn % 2], recipe=ONE, resources=resources)
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failed.append(error)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [0, 0]
    while not done.is_set():
        try:
            found = contents(Checkpoint.open(OUT, cache=RemoteCache(tmp_path / "reader")))
        except (InputsRefused, EnvironmentFault):
            continue  # it was superseded twice while it was read
        seen[known.index(found)] += 1
    writer.join()
    assert failed == []
    assert min(seen) > 0, seen
