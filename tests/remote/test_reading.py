"""Checkpoints read from a storage: the same merge as from a disk, nothing read twice, nothing read that has changed."""

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import widen
from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from tests.remote.conftest import Line, family, upload
from tests.vocabularies import byte_level, write_model
from widen.api import outlook
from widen.checkpoint import Checkpoint
from widen.dispatched import Done
from widen.errors import InputsRefused, WidenError
from widen.manifest import Manifest, Recipe
from widen.progress import Silent
from widen.remote import file as remote_file
from widen.remote.cache import RemoteCache
from widen.remote.store import Store
from widen.units import Unit, do_unit
from widen.vocabulary.request import TokenizerRequest

PEFT = Path(__file__).parents[1] / "peft"
GOLDEN = Path(__file__).parents[1] / "golden"
ONE = Recipe("one", "1" * 64)
SLOW = pytest.mark.slow
Inputs = tuple[Path, list[Path], widen.Settings]


def by_shards(folder: Path) -> Inputs:
    weights = llama_weights(0)
    base = write_checkpoint(folder / "base", weights)
    models = [write_checkpoint(folder / f"m{k}", changed(weights, k, 0.1), shards=k + 1) for k in (1, 2)]
    return base, models, widen.Settings(shard_bytes=12_000)


def unaligned(folder: Path) -> Inputs:
    """Headers of a length that no type divides, as other writers make them: an odd number of bytes before a tensor."""
    base, *models = family(folder)
    for one in (base, *models):
        path = one / "model.safetensors"
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = data[8 : 8 + length].rstrip() + b" "
        header += b" " * (1 - len(header) % 2)
        path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return base, models, widen.Settings()


def tied(folder: Path) -> Inputs:
    case = GOLDEN / "qwen2-tied-bias-f32-three"
    shutil.copytree(case, folder, dirs_exist_ok=True)
    return folder / "base", [folder / f"model-{k}" for k in (1, 2, 3)], widen.Settings()


def gpt2(folder: Path) -> Inputs:
    shutil.copytree(PEFT / "gpt2", folder / "gpt2")
    weights = load_file(PEFT / "gpt2" / "model.safetensors")
    config = json.loads((PEFT / "gpt2" / "config.json").read_text())
    return folder / "gpt2", [write_checkpoint(folder / "other", changed(weights, 1, 0.1), config)], widen.Settings()


def adapters(folder: Path) -> Inputs:
    shutil.copytree(PEFT / "llama", folder / "llama")
    for name in ("plain", "saved"):
        shutil.copytree(
            PEFT / name, folder / name, ignore=lambda *_: ["merged-float32.safetensors", "merged-float64.safetensors"]
        )
    weights, config = (
        load_file(PEFT / "llama" / "model.safetensors"),
        json.loads((PEFT / "llama" / "config.json").read_text()),
    )
    chat = write_checkpoint(folder / "chat", changed(weights, 1, 0.1), config)
    composed = [["llama"], ["chat", "plain"], ["saved"]]
    return folder / "llama", [chat, folder / "plain", folder / "saved"], widen.Settings(composed=composed)


def vocabularies(folder: Path) -> Inputs:
    config = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    said = ["the cat sat on the mat", "kucing itu duduk"]
    weights = llama_weights(0, torch.float32, config)
    base = write_model(folder / "base", weights, byte_level(said[:1]), config, seed=0)
    other = write_model(folder / "other", changed(weights, 1, 0.1), byte_level(said), config, seed=1)
    return base, [other], widen.Settings(tokenizer=TokenizerRequest("union"))


LAYOUTS = [unaligned, *(pytest.param(one, marks=SLOW) for one in (by_shards, tied, gpt2, adapters, vocabularies))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_merge_from_a_storage_is_the_one_from_a_disk(
    layout: Callable[[Path], Inputs], bucket: Any, tmp_path: Path
) -> None:
    base, models, settings = layout(tmp_path / "in")
    local = widen.merge(base, models, tmp_path / "local", settings, recipe=ONE, file_digests=True)
    urls = [upload(bucket, one, f"in/{one.name}") for one in (base, *models)]
    cache = widen.Resources(cache=tmp_path / "cache", remote_cache=40_000)
    out = tmp_path / "remote"
    remote = widen.merge(urls[0], urls[1:], out, settings, recipe=ONE, file_digests=True, resources=cache)
    assert remote.to_json() == local.to_json()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()
    }


def test_what_is_known_is_not_read_again(bucket: Any, line: Line, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    urls = [upload(bucket, one, one.name) for one in (base, *models)]
    cache = widen.Resources(cache=tmp_path / "cache", remote_cache=1)
    first = widen.merge(urls[0], urls[1:], tmp_path / "out", file_digests=True, resources=cache)
    read = sum(size for _, _, size in line.of_weights("GET"))
    weights = sum((one / "model.safetensors").stat().st_size for one in (base, *models))
    assert weights <= read
    line.asked.clear()
    assert widen.merge(urls[0], urls[1:], tmp_path / "out", file_digests=True, resources=cache) == first
    assert line.of_weights("GET") == []


def test_opening_and_planning_read_headers_alone(
    bucket: Any, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_file, "FIRST_BYTES", 512)
    base, *models = family(tmp_path / "in")
    urls = [upload(bucket, one, one.name) for one in (base, *models)]
    cache = widen.Resources(cache=tmp_path / "cache")
    found, problems = outlook(urls[0], urls[1:], resources=cache)
    local, _ = outlook(base, models)
    assert (found.read, found.write, problems) == (local.read, local.write, [])
    assert found.disk == found.write + found.read
    assert sum(size for _, _, size in line.of_weights("GET")) < sum(
        8 + struct.unpack("<Q", (one / "model.safetensors").read_bytes()[:8])[0] + 600 for one in (base, *models)
    )
    line.asked.clear()
    outlook(urls[0], urls[1:], resources=cache)
    assert [one for one in line.asked if one[0] == "GET" and "list-type" not in one[1]] == []


def test_where_weights_are_looked_for_there_are_no_zeros(bucket: Any, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_weights(0), shards=2)
    opened = Checkpoint.open(upload(bucket, base, "base"), cache=RemoteCache(tmp_path / "cache"))
    assert opened.name == "base"
    assert opened.place == "s3://models/base"
    assert list(opened.folder.glob("*.safetensors")) == []
    assert {path.stat().st_size for path in opened.folder.glob("headers/*.safetensors")} == {
        path.stat().st_size for path in base.glob("*.safetensors")
    }
    for name in opened.tensors:
        assert opened.span(name).tobytes() == Checkpoint.open(base).span(name).tobytes()


def put_other(bucket: Any, folder: Path, key: str) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    bucket.put_object(Key=key, Body=bytes(data))


class Replacing(Silent):
    """Does something as soon as a stage begins."""

    def __init__(self, label: str, act: Callable[[], None]) -> None:
        self.label, self.act = label, act

    def stage(self, label: str, total: int) -> Any:
        if label == self.label:
            self.act()
        return super().stage(label, total)


@pytest.mark.parametrize(
    "when", ["before it is read", *(pytest.param(one, marks=SLOW) for one in ("after it was read", "removed"))]
)
def test_an_object_that_is_replaced_meanwhile_is_refused(when: str, bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    urls = [upload(bucket, one, one.name) for one in (base, *models)]
    cache = widen.Resources(cache=tmp_path / "cache")
    if when == "after it was read":  # every byte is on this machine by now
        widen.merge(urls[0], urls[1:], tmp_path / "first", resources=cache)

    def replace() -> None:
        if when == "removed":
            bucket.Object("m2/model.safetensors").delete()
        else:
            put_other(bucket, models[1], "m2/model.safetensors")

    with pytest.raises(InputsRefused, match=r"s3://models/m2/model.safetensors changed while it was"):
        widen.merge(urls[0], urls[1:], tmp_path / "out", resources=cache, progress=Replacing("merge", replace))
    assert not (tmp_path / "out").exists()


@SLOW
def test_an_update_is_seen_and_only_what_it_changed_is_computed(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    urls = [upload(bucket, one, one.name) for one in (base, *models)]
    cache = widen.Resources(cache=tmp_path / "cache")
    widen.merge(urls[0], urls[1:], tmp_path / "out", resources=cache)
    put_other(bucket, models[1], "m2/model.safetensors")
    again = widen.merge(urls[0], urls[1:], tmp_path / "out", resources=cache)
    assert sum(len(names) for names in again.reuse.computed.values()) == 1
    assert list(again.reuse.computed) == ["changed in m2"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda one: one.joinpath("model.safetensors").write_bytes(one.joinpath("model.safetensors").read_bytes()[:-5]),
         "base: s3://models/base/model.safetensors is truncated or corrupt"),
        (lambda one: one.joinpath("model.safetensors").write_bytes(b"short"), "is truncated or not safetensors"),
        (lambda one: one.joinpath("model.safetensors").write_bytes(b""), "is truncated or not safetensors"),
        (lambda one: one.joinpath("model.safetensors").rename(one / "pytorch_model.bin"),
         "s3://models/base holds pickle weights .pytorch_model.bin."),
        (lambda one: one.joinpath("model.safetensors").unlink(), "s3://models/base has neither model.safetensors nor"),
        (lambda one: one.joinpath("config.json").unlink(), "s3://models/base has no config.json"),
        (lambda one: one.joinpath("config.json").write_text("{"), "s3://models/base/config.json is not valid JSON"),
        (lambda one: one.joinpath("widen-current.json").write_text('{"folder": "../other"}'),
         "is not what a merge publishes"),
    ],
    ids=["truncated", "short", "empty", "pickle", "no weights", "no config", "no JSON", "no pointer"],
)  # fmt: skip
def test_what_cannot_be_trusted_is_refused_by_its_address(
    damage: Callable[[Path], object], told: str, bucket: Any, tmp_path: Path
) -> None:
    base = write_checkpoint(tmp_path / "base", llama_weights(0))
    damage(base)
    url = upload(bucket, base, "base")
    with pytest.raises(InputsRefused, match=told) as refusal:
        Checkpoint.open(url, cache=RemoteCache(tmp_path / "cache"))
    assert str(tmp_path) not in str(refusal.value)


def test_an_index_cannot_reach_out_of_the_folder(bucket: Any, tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", llama_weights(0), shards=2)
    index = json.loads((base / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "../../../elsewhere.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputsRefused, match="outside the checkpoint's folder; it was not opened"):
        Checkpoint.open(upload(bucket, base, "base"), cache=RemoteCache(tmp_path / "cache"))


@SLOW
def test_a_merge_in_a_storage_tells_where_it_came_from(bucket: Any, tmp_path: Path) -> None:
    """The parents' manifest is read there as on a disk, and believed only about its own weights."""
    base, *models = family(tmp_path / "in")
    widen.merge(base, models, tmp_path / "parent", recipe=ONE)
    local = widen.merge(base, [tmp_path / "parent"], tmp_path / "local", recipe=ONE)
    url = upload(bucket, tmp_path / "parent", "parent")
    assert widen.merge(base, [url], tmp_path / "remote", recipe=ONE).to_json() == local.to_json()
    put_other(bucket, tmp_path / "parent", "parent/model.safetensors")
    assert widen.merge(base, [url], tmp_path / "other", recipe=ONE).inputs[1].merge is None


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_other_storages_do_as_well(scheme: str, tmp_path: Path) -> None:
    import fsspec

    base, *models = family(tmp_path / "in")
    local = widen.merge(base, models, tmp_path / "local", recipe=ONE)
    files = fsspec.filesystem(scheme)
    root = f"{tmp_path}/there" if scheme == "file" else "/there"
    for one in (base, *models):
        files.put(str(one), f"{root}/{one.name}", recursive=True)
    urls = [f"{scheme}://{root}/{one.name}" for one in (base, *models)]
    out = f"{scheme}://{root}/out"
    cache = widen.Resources(cache=tmp_path / "cache")
    assert widen.merge(urls[0], urls[1:], out, recipe=ONE, resources=cache).to_json() == local.to_json()
    opened = Checkpoint.open(urls[2])
    put = bytearray((models[1] / "model.safetensors").read_bytes())
    put[-1] ^= 1
    files.pipe_file(f"{root}/m2/model.safetensors", bytes(put))
    with pytest.raises(InputsRefused, match="changed while it was"):
        widen.merge(urls[0], [urls[1], opened], tmp_path / "other")
    shutil.rmtree(tmp_path / "there", ignore_errors=True)
    if scheme == "memory":
        files.rm(root, recursive=True)
    assert Manifest.load(tmp_path / "local").to_json() == local.to_json()


def test_a_storage_that_tells_nothing_of_its_objects_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    files.pipe_file("/plain/config.json", b"{}")
    real = type(files).ls
    monkeypatch.setattr(
        type(files), "ls", lambda *told, **asked: [{**one, "created": None} for one in real(*told, **asked)]
    )
    with pytest.raises(WidenError, match="neither a tag nor a time"):
        Checkpoint.open("memory:///plain", cache=RemoteCache(tmp_path))
    files.rm("/plain", recursive=True)


@pytest.mark.parametrize("scheme", ["s3", "file", "memory"])
def test_a_range_of_another_object_than_the_one_opened_is_refused(scheme: str, bucket: Any, tmp_path: Path) -> None:
    """Also where its length is the same, and before anybody asks again at the end of a merge."""
    place = {"s3": "s3://models/there", "file": f"file://{tmp_path}/there", "memory": "memory:///there"}[scheme]
    folder = Store(place)
    identity = folder.write("x.safetensors", b"0" * 5000)
    got = bytearray(5000)

    def put(place: int, piece: bytes) -> None:
        got[place : place + len(piece)] = piece

    folder.read("x.safetensors", 0, 5000, identity, put)
    assert bytes(got) == b"0" * 5000
    folder.write("x.safetensors", b"1" * 5000)
    with pytest.raises(InputsRefused, match=r"there/x.safetensors changed while it was read"):
        folder.read("x.safetensors", 10, 90, identity, put)
    folder.remove("x.safetensors")
    with pytest.raises(InputsRefused, match=r"there/x.safetensors changed while it was read"):
        folder.read("x.safetensors", 10, 90, identity, put)
    assert (folder.look("x.safetensors"), folder.listing(), folder.read_all("x.safetensors")) == (None, {}, None)


@SLOW
def test_units_on_other_nodes_read_it_themselves(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    settings = widen.Settings(shard_bytes=20_000)
    local = widen.merge(base, models, tmp_path / "local", settings, recipe=ONE, file_digests=True)
    urls = [upload(bucket, one, one.name) for one in (base, *models)]
    sent: list[Unit] = []

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            sent.append(unit)
            done(unit, do_unit(unit))

    cache = widen.Resources(cache=tmp_path / "cache")
    out = tmp_path / "out"
    remote = widen.merge(
        urls[0], urls[1:], out, settings, recipe=ONE, file_digests=True, resources=cache, dispatch=dispatch
    )
    assert remote.to_json() == local.to_json()
    assert {place for unit in sent for _, place in unit.job.sources} == set(urls)
