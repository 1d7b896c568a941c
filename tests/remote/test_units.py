"""A merge into a storage by units that share no disk: one process's bytes; twice, late or after a loss, done once."""

import json
import os
import pickle
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import widen
from tests.build import LLAMA, write_checkpoint
from tests.remote.conftest import BUCKET, KEY, SECRET, Line, client, family, keys, upload
from tests.remote.nodes import Nodes, process_of
from tests.remote.outputs import ONE, OUT, SMALL, contents, current, tensors_of
from widen.checkpoint import Checkpoint
from widen.dispatched import Dispatch, Done
from widen.errors import EnvironmentFault, InputsRefused
from widen.manifest import Manifest
from widen.remote import outbox
from widen.units import Unit, do_unit


def merge(
    models: Sequence[Path | str], dispatch: Dispatch | None, settings: widen.Settings = SMALL, **more: Any
) -> Manifest:
    return widen.merge(models[0], models[1:], OUT, settings, recipe=ONE, dispatch=dispatch, **more)


def stopping(nodes: Nodes, after: int) -> Dispatch:
    """A coordinator that is gone after so many units of the merge."""

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            if len(nodes.done) == after:
                raise KeyboardInterrupt
            done(unit, nodes.do(unit))

    return dispatch


def objects(bucket: Any) -> dict[str, tuple[str, Any]]:
    return {one.key: (one.e_tag, one.last_modified) for one in bucket.objects.filter(Prefix="out/")}


def test_units_publish_the_manifest_and_the_bytes_of_one_process(bucket: Any, tmp_path: Path) -> None:
    models = family(tmp_path / "in")
    local = widen.merge(models[0], models[1:], tmp_path / "local", SMALL, recipe=ONE, file_digests=True)
    urls = [upload(bucket, one, one.name) for one in models]

    def twice_in_any_order(units: Sequence[Unit], done: Done) -> None:
        order, told, nodes = [*units, *units], set[str](), Nodes(tmp_path / "nodes")
        random.Random(0).shuffle(order)
        for unit in order:
            made = nodes.do(unit)
            if str(unit) not in told:
                told.add(str(unit))
                done(unit, made)

    remote = merge(urls, twice_in_any_order, file_digests=True, resources=widen.Resources(cache=tmp_path / "here"))
    assert remote.to_json() == local.to_json()
    folder = current(bucket)["folder"]
    assert len(local.files) > 4
    for path in (tmp_path / "local").iterdir():
        assert bucket.Object(f"out/{folder}/{path.name}").get()["Body"].read() == path.read_bytes(), path.name
    left = [path for path in tmp_path.rglob("output-*") if path.is_dir()]
    assert left == []
    assert list((tmp_path / "here" / "remote").glob("blobs/*.blob")) == [], "no weight came to the coordinator"


def test_a_straggler_that_ends_after_the_publication_changes_nothing(bucket: Any, tmp_path: Path) -> None:
    models, nodes = family(tmp_path / "in"), Nodes(tmp_path / "nodes")
    merge(models, nodes)
    late, before = nodes.done[0], objects(bucket)
    with pytest.raises(
        EnvironmentFault, match=r"expected widen-claim.json .* that merge has ended, or the environment"
    ):
        nodes.do(late)
    assert objects(bucket) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_a_straggler_that_is_overtaken_while_it_works_sends_nothing(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """It saw the claim when it began; once its file is whole the claim is gone, and the file is there, or not."""
    nodes, taken, real = Nodes(tmp_path / "nodes"), list[dict[str, Any]](), outbox.write_files

    def overtaken(*arguments: Any) -> Any:
        for key in keys(bucket, "out/"):
            if key.endswith("claim.json") or (key.endswith(f"{nodes.done[0].file}.json") and not is_there):
                bucket.Object(key).delete()
        taken.append(objects(bucket))
        return real(*arguments)

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        nodes(units, done)
        monkeypatch.setattr(outbox, "write_files", overtaken)
        try:
            nodes.do(units[0])
        finally:
            assert objects(bucket) == taken[0]

    if is_there:
        merged = merge(family(tmp_path / "in"), dispatch)
        assert contents(Checkpoint.open(OUT)) == tensors_of(merged)
    else:
        with pytest.raises(EnvironmentFault, match=r"expected widen-claim.json"):
            merge(family(tmp_path / "in"), dispatch)


@pytest.mark.parametrize("claim", [None, b'{"at":1}', b"half a cl"], ids=["none", "of the dead", "unreadable"])
def test_without_a_living_claim_nothing_is_sent(bucket: Any, tmp_path: Path, claim: bytes | None) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        place = f"{units[0].folder.removeprefix(f's3://{BUCKET}/')}/widen-claim.json"
        client().delete_object(Bucket=BUCKET, Key=place)
        if claim is not None:
            client().put_object(Bucket=BUCKET, Key=place, Body=claim)
        do_unit(units[0])

    with pytest.raises(EnvironmentFault, match=r"expected widen-claim.json .* found none that is a day old or less"):
        merge(family(tmp_path / "in"), dispatch)
    assert [key for key in keys(bucket, "out/") if "safetensors" in key] == []


def test_other_bytes_of_the_same_inputs_are_refused_and_do_not_spoil_the_first(bucket: Any, tmp_path: Path) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        made = do_unit(units[0])
        done(units[0], made)
        record = f"{units[0].folder.removeprefix(f's3://{BUCKET}/')}/widen-finished/{units[0].file}.json"
        told = json.loads(bucket.Object(record).get()["Body"].read())
        told["digest"]["sha256"] = "0" * 64
        bucket.put_object(Key=record, Body=json.dumps(told).encode())
        before.update(objects(bucket))
        do_unit(units[0])

    before: dict[str, Any] = {}
    with pytest.raises(EnvironmentFault, match=r"expected SHA-256 000000000000, as another process made of the same"):
        merge(family(tmp_path / "in"), dispatch)
    assert objects(bucket) == before


def test_a_coordinator_that_is_gone_is_followed_by_one_that_makes_the_rest(bucket: Any, tmp_path: Path) -> None:
    models = family(tmp_path / "in")
    local = widen.merge(models[0], models[1:], tmp_path / "local", SMALL, recipe=ONE)
    old = merge(models, None, widen.Settings(t=0.5))
    urls, here = [upload(bucket, one, one.name) for one in models], widen.Resources(cache=tmp_path / "here")
    first, second = Nodes(tmp_path / "first"), Nodes(tmp_path / "second")
    with pytest.raises(KeyboardInterrupt):
        merge(urls, stopping(first, 3), resources=here)
    assert contents(Checkpoint.open(OUT)) == tensors_of(old)
    again = merge(urls, second, resources=here)
    assert {unit.file for unit in first.done}.isdisjoint(unit.file for unit in second.done)
    assert len(first.done) + len(second.done) == len([name for name in local.files if name.endswith(".safetensors")])
    assert again.files == local.files
    assert again.reuse.reused == sum(one.file in {unit.file for unit in first.done} for one in local.tensors.values())
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)
    assert list((tmp_path / "here" / "remote").glob("blobs/*.blob")) == [], "no weight came to the coordinator"


def test_other_settings_take_nothing_of_a_killed_merge(bucket: Any, tmp_path: Path) -> None:
    models, settings = family(tmp_path / "in"), widen.Settings(shard_bytes=12_000, t=0.5)
    with pytest.raises(KeyboardInterrupt):
        merge(models, stopping(Nodes(tmp_path / "first"), 3))
    second = merge(models, Nodes(tmp_path / "second"), settings)
    local = widen.merge(models[0], models[1:], tmp_path / "local", settings, recipe=ONE)
    assert second.to_json() == local.to_json()
    assert second.reuse.reused == 0


def test_a_lost_record_fails_the_merge_and_the_next_one_makes_that_file_again(bucket: Any, tmp_path: Path) -> None:
    models, second = family(tmp_path / "in"), Nodes(tmp_path / "second")
    urls, here = [upload(bucket, one, one.name) for one in models], widen.Resources(cache=tmp_path / "here")
    lost: list[str] = []

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units[:3]:
            made = Nodes(tmp_path / "first").do(unit)
            if unit is units[2]:
                bucket.Object(f"{unit.folder.removeprefix(f's3://{BUCKET}/')}/widen-finished/{unit.file}.json").delete()
                lost.append(unit.file)
            done(unit, made)

    with pytest.raises(EnvironmentFault, match=r"has no whole file of that name for this machine; every node needs"):
        merge(urls, dispatch, resources=here)
    again = merge(urls, second, resources=here)
    assert lost[0] in {unit.file for unit in second.done}
    assert len(second.done) == len([name for name in again.files if name.endswith(".safetensors")]) - 2
    local = widen.merge(models[0], models[1:], tmp_path / "local", SMALL, recipe=ONE)
    assert again.files == local.files
    assert list((tmp_path / "here" / "remote").glob("blobs/*.blob")) == [], "no weight came to the coordinator"


def test_a_record_that_is_lost_after_all_stops_the_publication(bucket: Any, tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "nodes")

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        nodes(units, done)
        record = f"{units[0].folder.removeprefix(f's3://{BUCKET}/')}/widen-finished/{units[0].file}.json"
        bucket.Object(record).delete()

    with pytest.raises(EnvironmentFault, match=r"bytes, found as many, and no record that they are these"):
        merge(family(tmp_path / "in"), dispatch)
    assert "out/widen-current.json" not in keys(bucket, "out/")


@pytest.mark.slow
def test_a_node_that_is_killed_between_parts_leaves_nothing_that_counts(
    bucket: Any, line: Line, large: list[Path], tmp_path: Path
) -> None:
    settings, nodes = widen.Settings(shard_bytes=12_000_000), Nodes(tmp_path / "nodes")

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        line.stall_puts = 7_000_000
        with process_of(nodes.there(units[0]), "from widen.remote import driver; driver.UPLOAD_PART = 5 << 20") as one:
            assert line.stalled.wait(60)
            time.sleep(0.5)
            os.killpg(one.pid, signal.SIGKILL)
        line.stall_puts = None
        assert client().list_multipart_uploads(Bucket=BUCKET).get("Uploads"), "it was killed in the middle of one"
        assert list((tmp_path / "nodes").rglob("output-*"))
        nodes(units, done)

    remote = merge(large, dispatch, settings)
    local = widen.merge(large[0], large[1:], tmp_path / "local", settings, recipe=ONE)
    assert remote.to_json() == local.to_json()
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)
    assert client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    assert list((tmp_path / "nodes").rglob("output-*")) == []


def test_an_update_is_made_by_few_units_and_what_is_the_same_by_none(bucket: Any, tmp_path: Path) -> None:
    models, nodes = family(tmp_path / "in"), Nodes(tmp_path / "nodes")
    resources = widen.Resources(cache=tmp_path / "here")
    merge(models, nodes, resources=resources)
    nodes.done.clear()
    before = objects(bucket)
    merge(models, nodes, resources=resources)
    assert (nodes.done, objects(bucket)) == ([], before)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = load_file(models[1] / "model.safetensors")
    weights[name] = weights[name] * 1.5
    save_file(weights, models[1] / "model.safetensors", {"format": "pt"})
    again = merge(models, Nodes(tmp_path / "others", nodes.done), resources=resources)
    assert [unit.file for unit in nodes.done] == [again.tensors[name].file]
    assert again.reuse.computed["changed in m1"] == [name]
    local = widen.merge(models[0], models[1:], tmp_path / "local", SMALL, recipe=ONE)
    assert again.files == local.files
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)


def test_inputs_that_are_not_finite_are_named_and_leave_no_claim(bucket: Any, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    sick = write_checkpoint(tmp_path / "sick", weights, LLAMA | {"num_hidden_layers": 1})
    with pytest.raises(InputsRefused, match=r"model\.norm\.weight"):
        merge([base, models[0], sick], Nodes(tmp_path / "nodes"))
    assert [key for key in keys(bucket, "out/") if key.endswith(("claim.json", "current.json"))] == []


def test_nothing_that_is_sent_to_a_node_or_comes_back_holds_a_credential(
    bucket: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sent: list[bytes] = []

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            made = do_unit(unit)
            sent.extend(map(pickle.dumps, (unit, made)))
            done(unit, made)

    merge(family(tmp_path / "in"), dispatch)
    told = b"".join(sent) + "".join(capfd.readouterr()).encode()
    assert b"s3://models/out" in told
    assert not any(secret.encode() in told for secret in (KEY, SECRET))
