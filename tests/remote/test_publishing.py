"""Merges into a storage: the same files, published by one object; killed, overtaken or refused, readers see one."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import widen
from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from tests.remote.conftest import BUCKET, KEY, SECRET, Line, client, family, keys, upload
from tests.tasks.conftest import Served
from widen.checkpoint import Checkpoint
from widen.errors import EnvironmentFault, InputsRefused, OutputExists, RecipeError
from widen.manifest import Manifest, Recipe
from widen.progress import Silent
from widen.remote import store
from widen.remote.cache import RemoteCache
from widen.remote.store import Store

ONE, OTHER = Recipe("one", "1" * 64), Recipe("other", "2" * 64)
OUT = f"s3://{BUCKET}/out"
SMALL = widen.Settings(shard_bytes=12_000)


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def current(bucket: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bucket.Object("out/widen-current.json").get()["Body"].read())
    return found


def contents(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: hashlib.sha256(checkpoint.span(name).tobytes()).hexdigest() for name in checkpoint.tensors}


def tensors_of(manifest: Manifest) -> dict[str, str]:
    return {name: one.sha256 for name, one in manifest.tensors.items()}


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
    with pytest.raises(RecipeError, match="units on other nodes need an output folder that all share"):
        widen.merge(base, models, OUT, recipe=ONE, dispatch=lambda *_: None)
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
                bucket.objects.filter(Prefix="out/").delete()
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


LARGE = LLAMA | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 4096,
                 "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two models of 40 MB each."""
    folder, weights = tmp_path_factory.mktemp("large"), llama_weights(0, torch.bfloat16, LARGE)
    return [write_checkpoint(folder / "base", weights, LARGE, shards=2)] + [
        write_checkpoint(folder / f"m{k}", changed(weights, k, 0.1), LARGE, shards=3) for k in (1, 2)
    ]


def on_disk(folder: Path, process: str) -> int:
    """Bytes of blocks below a folder, and of files that were removed there and are still mapped or open."""
    blocks, seen = 0, set()
    there = [Path(root) / name for root, folders, files in os.walk(folder) for name in (*folders, *files)]
    for path in there:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        seen.add(status.st_ino)
        blocks += status.st_blocks * 512
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target, status = str(entry.readlink()), entry.stat()
        except OSError:
            continue
        if target.startswith(str(folder)) and target.endswith(" (deleted)") and status.st_ino not in seen:
            seen.add(status.st_ino)
            blocks += status.st_blocks * 512
    return blocks


@pytest.mark.slow
def test_no_more_than_the_bound_lies_on_the_disk_at_any_time(bucket: Any, large: list[Path], tmp_path: Path) -> None:
    """A bound of half a model for inputs of three; of the output three files, of sixteen."""
    urls = [upload(bucket, one, one.name) for one in large]
    size = sum(path.stat().st_size for path in large[0].glob("*.safetensors"))
    bound, shard = size // 2, size // 10
    resources = widen.Resources(cache=tmp_path / "cache", remote_cache=bound, threads=2)
    most, done = [0], threading.Event()

    def sample() -> None:
        while not done.is_set():
            most.append(on_disk(tmp_path / "cache" / "remote", "self"))
            time.sleep(0.002)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        remote = widen.merge(urls[0], urls[1:], OUT, widen.Settings(shard_bytes=shard), recipe=ONE, resources=resources)
    finally:
        done.set()
        sampler.join()
    local = widen.merge(large[0], large[1:], tmp_path / "local", widen.Settings(shard_bytes=shard), recipe=ONE)
    assert remote.to_json() == local.to_json()
    assert len(most) > 50
    assert size // 4 < max(most) <= bound + 3 * shard * 1.1 + 2_000_000 < size, (max(most), size)


MERGE = """
import sys, widen
from widen.manifest import Recipe
from widen.remote import driver
driver.UPLOAD_PART = 5 << 20
cache, base, *models = sys.argv[1:]
settings = widen.Settings(shard_bytes=12_000_000)
resources = widen.Resources(cache=cache, threads=2)
widen.merge(base, models, "s3://models/out", settings, recipe=Recipe("one", "1" * 64), resources=resources)
"""


@pytest.mark.slow
def test_killed_while_it_sends_the_old_model_stays_and_the_next_run_goes_on(
    bucket: Any, line: Line, large: list[Path], tmp_path: Path
) -> None:
    urls = [upload(bucket, one, one.name) for one in large]
    small, *others = family(tmp_path / "in")
    old = widen.merge(small, others, OUT, recipe=ONE)
    line.stall_puts = 30_000_000
    command = [sys.executable, "-c", MERGE, str(tmp_path / "cache"), *urls]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        assert line.stalled.wait(120)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
    line.stall_puts = None
    assert client().list_multipart_uploads(Bucket=BUCKET).get("Uploads"), "it was killed in the middle of one"
    assert contents(Checkpoint.open(OUT)) == tensors_of(old)
    settings = widen.Settings(shard_bytes=12_000_000)
    resources = widen.Resources(cache=tmp_path / "cache", threads=2)
    line.asked.clear()
    again = widen.merge(urls[0], urls[1:], OUT, settings, recipe=ONE, resources=resources)
    local = widen.merge(large[0], large[1:], tmp_path / "local", settings, recipe=ONE)
    assert again.files == local.files
    assert again.reuse.reused > 0
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)
    assert client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    assert list((tmp_path / "cache" / "remote" / "scratch").iterdir()) == []


@pytest.mark.slow
def test_two_processes_share_a_cache_and_a_bound(bucket: Any, large: list[Path], tmp_path: Path) -> None:
    urls = [upload(bucket, one, one.name) for one in large]
    size = sum(path.stat().st_size for path in large[0].glob("*.safetensors"))
    code = """
import sys, widen
from widen.manifest import Recipe
cache, bound, out, *sources = sys.argv[1:]
resources = widen.Resources(cache=cache, remote_cache=int(bound), threads=1)
print(widen.merge(sources[0], sources[1:], out, recipe=Recipe("one", "1" * 64), resources=resources).digest)
"""
    outs = [tmp_path / "a", tmp_path / "b"]
    arguments = [[str(tmp_path / "cache"), str(size), str(out), *urls] for out in outs]
    running = [
        subprocess.Popen([sys.executable, "-c", code, *one], stdout=subprocess.PIPE, text=True) for one in arguments
    ]
    most = 0
    while any(one.poll() is None for one in running):
        most = max(most, on_disk(tmp_path / "cache" / "remote" / "blobs", "self"))
        time.sleep(0.02)
    digests = {one.communicate()[0] for one in running}
    local = widen.merge(large[0], large[1:], tmp_path / "local", recipe=ONE)
    assert digests == {f"{local.digest}\n"}
    assert size // 4 < most <= size * 1.3


def test_answers_that_are_cut_short_or_fail_are_asked_for_again(
    bucket: Any, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, *models = family(tmp_path / "in")
    urls = [upload(bucket, one, one.name) for one in (base, *models)]
    local = widen.merge(base, models, tmp_path / "local", recipe=ONE)
    monkeypatch.setattr(store, "PAUSES_S", (0.0, 0.0, 0.0))
    line.cut, line.refuse = 3, 2
    assert widen.merge(urls[0], urls[1:], tmp_path / "out", recipe=ONE).to_json() == local.to_json()
    assert (line.cut, line.refuse) == (0, 0)


def test_a_range_is_asked_for_again_from_where_it_was_cut(
    bucket: Any, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PAUSES_S", (0.0, 0.0, 0.0))
    data = np.random.default_rng(0).bytes(100_000)
    bucket.put_object(Key="x/y.safetensors", Body=data)
    folder = Store(f"s3://{BUCKET}/x")
    identity = folder.look("y.safetensors")
    assert identity is not None
    line.cut = 2
    got: dict[int, bytes] = {}
    folder.read("y.safetensors", 1000, 90_000, identity, got.__setitem__)
    assert b"".join(got[place] for place in sorted(got)) == data[1000:90_000]
    assert [size for _, _, size in line.of_weights("GET")] == [89_000, 44_500, 22_250]


@pytest.mark.parametrize(
    ("change", "url", "told"),
    [
        ({}, "s3://models/nothing", "s3://models/nothing: there are no files; check the address"),
        ({}, "s3://no-such-bucket/x", "s3://no-such-bucket/x: there is no such bucket"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "s3://models/x", "nobody answers there"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "s3://models/x", "no credentials"),
        ({"AWS_PROFILE": "nobodys"}, "s3://models/x", "AWS_PROFILE names a profile"),
        ({}, "gs://models/x", "gcsfs .widen.gcs."),
        ({}, "az://models/x", "adlfs .widen.azure."),
        ({}, "azure://models/x", "adlfs .widen.azure."),
        ({}, "nothing://models/x", "fsspec knows no storage nothing://"),
    ],
)
def test_what_the_storage_cannot_do_is_told_in_one_line(
    change: dict[str, str], url: str, told: str, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, value in change.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(EnvironmentFault, match=told) as fault:
        Checkpoint.open(url)
    assert "\n" not in str(fault.value)
    assert KEY not in str(fault.value)
    assert SECRET not in str(fault.value)


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "ExpiredToken", "Strange"]
)
def test_no_answer_brings_a_credential_into_a_message(
    code: str, monkeypatch: pytest.MonkeyPatch, server: Served
) -> None:
    """A server that repeats in its answer what it was told."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = f"{SECRET} {self.headers['Authorization']} {KEY}"
            body = f"<Error><Code>{code}</Code><Message>{said}</Message><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    talkative = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=talkative.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{talkative.server_port}")
    try:
        with pytest.raises(EnvironmentFault) as fault:
            Checkpoint.open("s3://models/x")
    finally:
        talkative.shutdown()
        talkative.server_close()
    assert KEY not in str(fault.value)
    assert SECRET not in str(fault.value)
    assert str(fault.value).startswith("s3://models/x: ")


@pytest.mark.parametrize(
    "url",
    ["s3://key:secret@models/x", "s3://key@models/x", "s3://models/../x", "s3://models/x?key=1", "s3://models/*", "s3://models",
     "s3:///x", "https://models/x", "s3://models/x\n"],
)  # fmt: skip
def test_an_address_that_could_mean_something_else_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected") as refusal:
        Checkpoint.open(url)
    assert "secret" not in str(refusal.value)
    with pytest.raises(RecipeError, match="expected"):
        widen.merge(tmp_path, [tmp_path], url)


def test_a_storage_that_stops_taking_files_ends_the_merge_in_one_line(
    bucket: Any, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    base, *models = family(tmp_path / "in")

    class Stopping(Silent):
        def stage(self, label: str, total: int) -> Any:
            line.refuse = 10_000 if label == "merge" else 0
            return super().stage(label, total)

    settings, resources = widen.Settings(shard_bytes=3000), widen.Resources(threads=3)
    with pytest.raises(
        EnvironmentFault, match=r"s3://models/out/widen-merge-\w+/model-\d+-of-\d+.safetensors: the storage"
    ):
        widen.merge(base, models, OUT, settings, recipe=ONE, progress=Stopping(), resources=resources)
    line.refuse = 0
    assert "out/widen-current.json" not in keys(bucket, "out/")


def test_lanes_wait_for_a_storage_that_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *models = family(tmp_path / "in")
    there: list[int] = []
    real = store.Store.upload

    def slow(self: Store, local: Path, name: str) -> Any:
        there.append(len(list(local.parent.glob("*.safetensors"))))
        time.sleep(0.1)
        return real(self, local, name)

    monkeypatch.setattr(store.Store, "upload", slow)
    settings, resources = widen.Settings(shard_bytes=3000), widen.Resources(threads=6)
    sent = widen.merge(base, models, f"file://{tmp_path}/out", settings, recipe=ONE, resources=resources)
    assert len(there) > 8
    assert max(there) <= 3
    assert sent.digest == widen.merge(base, models, tmp_path / "local", settings, recipe=ONE).digest
