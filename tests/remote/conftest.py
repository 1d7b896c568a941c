"""A real S3 server for the tests of storages, and a line to it that counts, cuts, stalls and breaks what passes."""

import http.client
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from tests.tasks.conftest import Served, served

BUCKET = "models"
SECRET = "a-secret-that-nobody-may-read"
KEY = "AKIANOBODYMAYREADTHIS"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server, on a machine that nobody configured but for the environment."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with served(lambda port: [*command, str(port)]) as started:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{started.port}")
            client().create_bucket(Bucket=BUCKET)
            yield started


def client() -> Any:
    import boto3

    return boto3.client("s3")


@pytest.fixture
def bucket(server: Served) -> Any:
    """The bucket, empty."""
    import boto3

    found = boto3.resource("s3").Bucket(BUCKET)
    for upload in client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        client().abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    found.objects.delete()
    return found


def upload(bucket: Any, folder: Path, prefix: str) -> str:
    """A folder's files, as a user uploads them; its URL."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.upload_file(str(file), f"{prefix}/{file.relative_to(folder).as_posix()}")
    return f"s3://{BUCKET}/{prefix}"


def family(folder: Path) -> list[Path]:
    """A base and two models that are changes of it, of one layer: each tensor costs the server some requests."""
    config = LLAMA | {"num_hidden_layers": 1}
    weights = llama_weights(0, config=config)
    folders = [write_checkpoint(folder / "base", weights, config)]
    return folders + [write_checkpoint(folder / f"m{k}", changed(weights, k, 0.1 * k), config) for k in (1, 2)]


def keys(bucket: Any, prefix: str) -> list[str]:
    return [one.key for one in bucket.objects.filter(Prefix=prefix)]


@dataclass
class Line:
    """What passed between this machine and the server, and what is to go wrong.

    asked: method, path and bytes answered. refuse: how many more requests for weights are answered by 500. cut: how
    many answers end in the middle. stall_puts: after so many bytes of weights no upload gets an answer any more.
    """

    port: int
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    refuse: int = 0
    cut: int = 0
    stall_puts: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of_weights(self, method: str) -> list[tuple[str, str, int]]:
        return [one for one in self.asked if one[0] == method and ".safetensors" in one[1] and ".json" not in one[1]]

    def takes(self, what: str) -> bool:
        with self.lock:
            left = getattr(self, what)
            setattr(self, what, max(0, left - 1))
            return left > 0


class PassOn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Way"

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_weight = ".safetensors" in self.path and ".json" not in self.path
        if is_weight and self.server.told.takes("refuse"):
            self.answer(500, {}, b"")
            return
        if is_weight and self.command in ("PUT", "POST") and self.must_stall(len(body)):
            self.server.told.stalled.set()
            threading.Event().wait(60)
        origin = http.client.HTTPConnection("127.0.0.1", self.server.origin, timeout=60)
        origin.request(self.command, self.path, body, dict(self.headers))
        found = origin.getresponse()
        data = found.read()
        self.server.told.asked.append((self.command, self.path, len(data)))
        if is_weight and self.command == "GET" and len(data) > 1 and self.server.told.takes("cut"):
            self.answer(found.status, dict(found.getheaders()), data, len(data) // 2)
            self.close_connection = True
            return
        self.answer(found.status, dict(found.getheaders()), data)

    def must_stall(self, size: int) -> bool:
        with self.server.told.lock:
            if self.server.told.stall_puts is None:
                return False
            self.server.told.stall_puts -= size
            return self.server.told.stall_puts < 0

    def answer(self, status: int, headers: dict[str, str], data: bytes, stop: int | None = None) -> None:
        self.send_response(status)
        dropped = ("transfer-encoding", "content-length", "connection", "date", "server")
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(data[:stop])

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class Way(ThreadingHTTPServer):
    daemon_threads = True
    told: Line
    origin: int

    def handle_error(self, *_: object) -> None:  # a client that was killed
        pass


@pytest.fixture
def line(server: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    """The way to the server, by AWS_ENDPOINT_URL, for this test."""
    told = Line(0)
    way = Way(("127.0.0.1", 0), PassOn)
    way.told, way.origin = told, server.port
    told.port = way.server_port
    threading.Thread(target=way.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{told.port}")
    yield told
    way.shutdown()
    way.server_close()


LARGE = LLAMA | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 4096,
                 "num_attention_heads": 8, "num_key_value_heads": 8}  # fmt: skip


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two models of 40 MB each."""
    folder, weights = tmp_path_factory.mktemp("large"), llama_weights(0, torch.bfloat16, LARGE)
    return [write_checkpoint(folder / "base", weights, LARGE, shards=2)] + [
        write_checkpoint(folder / f"m{k}", changed(weights, k, 0.1), LARGE, shards=3) for k in (1, 2)
    ]
