"""Checkpoints that lie in S3: a DVC hub whose storage it is, and a folder of it without git. A real server answers."""

import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.errors import NotVerified
from registry.lineage import Input, SourceRecord
from tasks.fetch import Source, fetch
from tasks.hubs import Unreachable
from tasks.imports import read_held
from tasks.remake import check_input, fetch_recorded
from tasks.upstream import Pin, look, look_all
from tests.tasks.conftest import QUICKSTART, Served
from tests.tasks.test_upstream import Followed, Hub, sources_of, walk
from widen.digests import hash_file
from widen.errors import EnvironmentFault

pytestmark = [pytest.mark.usefixtures("bare_home"), pytest.mark.slow]
Git = Callable[..., str]
WEIGHTS = "model.safetensors"


@pytest.fixture
def bucket(s3: Served) -> Any:
    """The bucket `models`, empty."""
    import boto3

    bucket = boto3.resource("s3").Bucket("models")
    bucket.objects.delete()
    return bucket


def upload(bucket: Any, folder: Path, prefix: str, part: int = 1 << 30) -> None:
    """As a user does. The ETag of a file that was sent in parts (`part`: bytes) depends on their size."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(multipart_threshold=part, multipart_chunksize=max(part, 5 << 20))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        bucket.upload_file(str(file), f"{prefix}/{file.relative_to(folder).as_posix()}", Config=config)


def same(folder: Path, release: str) -> bool:
    files = {path.name: path.read_bytes() for path in (QUICKSTART / "checkpoints" / release).iterdir()}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"} == files


def taken(source: Source, held: Pin | None, workspace: Path) -> tuple[str, Pin]:
    seen = look(source, held, workspace)
    assert seen.pin is not None
    return seen.state, seen.pin


def test_a_folder_in_s3_is_followed_and_fetched(bucket: Any, s3: Served, workspace: Path, git: Git) -> None:
    source = Source("tagger", "s3://models/tagger")
    seen = look(source, None, workspace)
    assert (seen.state, seen.pin, seen.note) == ("gone", None, "s3://models/tagger holds no file")
    with pytest.raises(EnvironmentFault, match="s3://models/tagger holds no file"):
        fetch(source, workspace, pauses=())
    upload(bucket, QUICKSTART / "checkpoints" / "tagger-v1", "tagger")
    state, held = taken(source, None, workspace)
    assert (state, held.ref, held.commit) == ("moved", None, None)

    first = fetch(source, workspace)
    assert same(first.folder, "tagger-v1")
    assert (first.upstream, first.repo, first.rev, first.commit) == (held.content, None, None, None)
    assert first.content
    assert git(workspace, "status", "--short") == ""
    assert "path: s3://models/tagger" in git(workspace, "show", "HEAD:sources/tagger.dvc")
    tip = git(workspace, "rev-parse", "HEAD")

    upload(bucket, QUICKSTART / "checkpoints" / "tagger-v1", "tagger")
    bucket.put_object(Key="tagger/README.md", Body=b"new")
    assert taken(source, held, workspace) == ("same", held)
    assert fetch(source, workspace) == first
    assert git(workspace, "rev-parse", "HEAD") == tip, "nothing was imported"

    upload(bucket, QUICKSTART / "checkpoints" / "tagger-v1", "tagger", part=1 << 20)
    state, parts = taken(source, held, workspace)
    assert state == "moved", "other ETags; whether they are other bytes, only fetching can tell"
    assert fetch(source, workspace).upstream == held.content
    assert taken(source, held, workspace) == ("same", held)
    assert taken(source, parts, workspace) == ("same", parts)

    upload(bucket, QUICKSTART / "checkpoints" / "tagger-v2", "tagger")
    state, second = taken(source, held, workspace)
    assert (state, second.content != held.content) == ("moved", True)
    found = fetch(source, workspace)
    assert same(found.folder, "tagger-v2")
    assert found.upstream == second.content

    s3.signal(signal.SIGSTOP)
    (seen,) = look_all((source,), {"tagger": second}, workspace, patience=1.0)
    assert (seen.state, seen.pin) == ("unreachable", second)
    s3.signal(signal.SIGCONT)
    assert taken(source, second, workspace) == ("same", second)
    bucket.objects.delete()
    assert taken(source, second, workspace) == ("gone", second)
    (found.folder / WEIGHTS).unlink()
    with pytest.raises(EnvironmentFault, match="holds no file"):
        fetch(source, workspace, pauses=())


def test_what_changes_while_it_is_fetched_is_fetched_again(
    bucket: Any, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import fetch as door

    upload(bucket, QUICKSTART / "checkpoints" / "tagger-v1", "tagger")
    source, real = Source("tagger", "s3://models/tagger"), door.import_url

    def overtaken(*arguments: Any) -> None:
        real(*arguments)
        upload(bucket, QUICKSTART / "checkpoints" / "tagger-v2", "tagger")

    monkeypatch.setattr(door, "import_url", overtaken)
    with pytest.raises(Unreachable, match="s3://models/tagger changed while it was fetched"):
        fetch(source, workspace, pauses=())
    monkeypatch.undo()
    assert same(fetch(source, workspace).folder, "tagger-v2")


def test_a_bucket_that_is_not_there_or_not_ours_is_told(bucket: Any, workspace: Path) -> None:
    seen = look(Source("x", "s3://nobodys-bucket/model"), None, workspace)
    assert (seen.state, seen.pin) == ("gone", None)
    assert "s3://nobodys-bucket/model is not there" in seen.note
    seen = look(Source("x", "gs://models/model"), None, workspace)
    assert seen.state == "unreachable"
    assert "dvc-gs" in seen.note


def test_verify_compares_what_lies_there_now(bucket: Any, workspace: Path, tmp_path: Path) -> None:
    release = QUICKSTART / "checkpoints" / "tagger-v1"
    upload(bucket, release, "tagger")
    files = tuple((path.name, hash_file(path).sha256) for path in sorted(release.iterdir()))
    entry = Input("model", SourceRecord("tagger", "s3://models/tagger"), "digest", files)
    folder = fetch_recorded(entry, None, tmp_path, workspace)
    assert check_input(entry, None, folder) == f"tagger {len(files)} files"
    upload(bucket, QUICKSTART / "checkpoints" / "tagger-v2", "tagger")
    with pytest.raises(NotVerified, match=r"model.safetensors: expected .* s3://models/tagger keeps no versions"):
        check_input(entry, None, fetch_recorded(entry, None, tmp_path, workspace))
    upload(bucket, release, "kept")
    assert check_input(entry, None, fetch_recorded(entry, "s3://models/kept", tmp_path, workspace))


@pytest.fixture
def of_s3(tmp_path: Path, hub: Path, git: Git, bucket: Any) -> Hub:
    """The DVC hub with its storage in S3: the same two releases, by commits that say so."""
    folder = Path(shutil.copytree(hub, tmp_path / "hub"))
    upload(bucket, folder / ".dvc-storage", "storage")
    shutil.rmtree(folder / ".dvc-storage")
    (folder / ".dvc" / "config").write_text(
        "[core]\n    remote = storage\n['remote \"storage\"']\n    url = s3://models/storage\n"
    )
    commits: list[str] = []
    for tag in ("v1", "v2"):
        git(folder, "read-tree", tag)
        git(folder, "add", ".dvc/config")
        parent = ["-p", commits[-1]] if commits else []
        commits.append(git(folder, "commit-tree", *parent, "-m", tag, git(folder, "write-tree")))
    made = Hub(folder, git, "checkpoints/tagger", *commits)
    made.reset()
    return made


def test_a_dvc_hub_with_its_storage_in_s3_is_followed_from_elsewhere(
    of_s3: Hub, s3: Served, workspace: Path, git: Git, git_server: Served
) -> None:
    address = f"git://127.0.0.1:{git_server.port}/hub"
    walk(of_s3, Followed(workspace, sources_of(of_s3, address)))
    of_s3.reset()
    assert same(fetch(Source("tagger", of_s3.path, address, "v*"), workspace).folder, "tagger-v1")
    git(of_s3.folder, "tag", "v2", of_s3.second)
    found = fetch(Source("tagger", of_s3.path, address, "v*"), workspace)
    assert same(found.folder, "tagger-v2")
    assert (found.rev, found.commit) == ("v2", of_s3.second)
    held = read_held("tagger", workspace)
    assert held is not None
    assert held.origin == (address, of_s3.path, of_s3.second)


def test_a_storage_that_is_silent_is_unreachable_until_it_answers(of_s3: Hub, s3: Served, workspace: Path) -> None:
    source = Source("x", of_s3.path, "../hub", "v*")
    s3.signal(signal.SIGSTOP)
    (seen,) = look_all((source,), {}, workspace, patience=1.5)
    assert (seen.state, seen.pin) == ("unreachable", None)
    s3.signal(signal.SIGCONT)
    assert look(source, None, workspace).state == "moved"
    for thread in threading.enumerate():
        if thread.name.startswith("look at"):
            thread.join()
