"""What a storage refuses, breaks off or cannot do: asked again, then told in one line without a secret."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import widen
from tests.remote.conftest import BUCKET, KEY, SECRET, Line, family, keys, upload
from tests.remote.outputs import ONE, OUT
from tests.tasks.conftest import Served
from widen.checkpoint import Checkpoint
from widen.errors import EnvironmentFault, RecipeError
from widen.progress import Silent
from widen.remote import store
from widen.remote.store import Store


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
