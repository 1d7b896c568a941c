"""Real repositories for the fetch and workspace tests: an upstream hub, a plain upstream, a blank workspace."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.assets import workspace_files
from flows.hub import make_hub, release
from tasks.workspace import create_workspace

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"


@pytest.fixture(scope="module")
def bare_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A machine that nobody configured: an empty HOME, no git identity, no settings of git or DVC."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("GIT_", "DVC_", "XDG_"))]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
        yield home


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upstream: base, tagger and indonesian at v1, the tagger's next release at v2. Nobody changes it."""
    folder = make_hub(tmp_path_factory.mktemp("upstream") / "hub", QUICKSTART)
    release(folder, "v2", "tagger", QUICKSTART / "checkpoints" / "tagger-v2")
    return folder


@pytest.fixture(scope="session")
def blank_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_workspace(tmp_path_factory.mktemp("blank") / "workspace", workspace_files())


@pytest.fixture
def workspace(tmp_path: Path, blank_workspace: Path) -> Path:
    folder = tmp_path / "workspace"
    shutil.copytree(blank_workspace, folder)
    return folder


@pytest.fixture
def git(bare_home: Path) -> Callable[..., str]:
    """git(folder, *arguments) -> its output."""

    def call(folder: Path, *arguments: str) -> str:
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    return call


@pytest.fixture
def plain(tmp_path: Path, git: Callable[..., str]) -> Path:
    """A git repository without DVC that is a checkpoint, as small as can be, tagged v1."""
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights, first release")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "tag", "v1")
    return folder


@pytest.fixture
def lfs(plain: Path, git: Callable[..., str]) -> Iterator[ThreadingHTTPServer]:
    """A git-lfs server; `plain` becomes a repository that keeps its weights there, tagged v1.

    A file `lfs-OID` beside the repository is an object of the server's.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["objects"]
            link = f"http://127.0.0.1:{self.server.server_port}/"  # type: ignore[attr-defined]
            objects = [{**one, "actions": {"download": {"href": link + one["oid"]}}} for one in asked]
            self.answer(json.dumps({"transfer": "basic", "objects": objects}).encode())

        def do_GET(self) -> None:
            self.answer((plain.parent / f"lfs-{self.path.rsplit('/', 1)[-1]}").read_bytes())

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.git-lfs+json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    into_lfs(plain / "model.safetensors")
    (plain / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    (plain / ".lfsconfig").write_text(f"[lfs]\n\turl = http://127.0.0.1:{server.server_port}/lfs\n")
    git(plain, "add", ".")
    git(plain, "commit", "--quiet", "-m", "weights in git-lfs")
    git(plain, "tag", "--force", "v1")
    yield server
    server.shutdown()
    server.server_close()


def into_lfs(file: Path) -> None:
    """Replace a file of a repository by its pointer, and give its content to the server."""
    content = file.read_bytes()
    oid = hashlib.sha256(content).hexdigest()
    (file.parents[1] / f"lfs-{oid}").write_bytes(content)
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n")


@dataclass(frozen=True)
class Served:
    """A server process of its own group, at `port` of this machine."""

    process: subprocess.Popen[bytes]
    port: int

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)


@contextmanager
def served(command: Callable[[int], list[str]], **environment: str) -> Iterator[Served]:
    """Run a server on a free port until it answers, and end it with all that it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        command(port),
        env=os.environ | environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the server ended"
            time.sleep(0.1)
        yield Served(process, port)
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            os.killpg(process.pid, number)
        process.wait()


@pytest.fixture
def git_server(tmp_path: Path, bare_home: Path) -> Iterator[Served]:
    """`git daemon`: git://127.0.0.1:PORT/NAME is the repository NAME beside the workspace; it may leave files out."""
    (bare_home / ".gitconfig").write_text("[uploadpack]\n\tallowFilter = true\n")
    command = ["git", "daemon", "--reuseaddr", "--export-all"]
    command += ["--listen=127.0.0.1", f"--base-path={tmp_path}"]
    with served(lambda port: [*command, f"--port={port}", str(tmp_path)]) as server:
        yield server
    (bare_home / ".gitconfig").unlink()


@pytest.fixture(scope="module")
def s3(bare_home: Path) -> Iterator[Served]:
    """A server that speaks S3, with the bucket `models`; this process and its children are told of it as users are."""
    import boto3

    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    with served(lambda port: [*command, str(port)]) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="models")
        yield server
