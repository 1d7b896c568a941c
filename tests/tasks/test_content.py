"""What a commit holds of a checkpoint, by the hub's own digests: nothing is downloaded, and only what counts counts."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.content import Missing, content_at, content_of, content_of_folder, counted
from tasks.hubs import SMALL, Unreachable, small_files
from tests.tasks.conftest import Served
from widen.errors import EnvironmentFault

pytestmark = pytest.mark.usefixtures("bare_home")
Git = Callable[..., str]
WEIGHTS = "model.safetensors"


@pytest.fixture
def released(tmp_path: Path, hub: Path) -> Path:
    """A copy of the DVC hub that a test may change."""
    return Path(shutil.copytree(hub, tmp_path / "hub"))


def commit_all(git: Git, folder: Path, message: str = "change") -> str:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("names", "used"),
    [
        ("config.json model.safetensors README.md .gitattributes LICENSE a.png", "config.json model.safetensors"),
        ("model.safetensors model.safetensors.index.json other.safetensors", "model.safetensors"),
        (
            "a-1-of-2.safetensors b/a-2-of-2.safetensors model.safetensors.index.json pytorch_model.bin",
            "a-1-of-2.safetensors b/a-2-of-2.safetensors model.safetensors.index.json",
        ),
        ("w.safetensors config.json chat/config.json chat/w.safetensors", "config.json w.safetensors"),
        ("chat_template.jinja generation_config.json vocab.json sub/vocab.json tokenizer.model",
         "chat_template.jinja generation_config.json tokenizer.model vocab.json"),
        ("README.md", ""),
    ],
)  # fmt: skip
def test_the_files_that_a_merge_uses_count(names: str, used: str) -> None:
    assert counted(dict.fromkeys(names.split())) == used.split()


def test_a_readme_or_another_checkpoint_changes_nothing_and_a_used_file_everything(
    plain: Path, workspace: Path, git: Git
) -> None:
    first = content_at("../plain", ".", git(plain, "rev-parse", "HEAD"), workspace)
    (plain / "README.md").write_text("new")
    (plain / "chat").mkdir()
    (plain / "chat" / "config.json").write_text("{}")
    (plain / "chat" / WEIGHTS).write_bytes(b"of another model")
    assert content_at("../plain", ".", commit_all(git, plain), workspace) == first
    seen = {first}
    for name in (WEIGHTS, "config.json", "tokenizer.json", "chat_template.jinja"):
        (plain / name).write_bytes(name.encode() + b", second release")
        seen.add(content_at("../plain", ".", commit_all(git, plain), workspace))
    assert len(seen) == 5
    git(plain, "mv", "chat", "talk")
    at = commit_all(git, plain)
    assert content_at("../plain", "talk", at, workspace) not in seen
    with pytest.raises(Missing, match=rf"\.\./plain at commit {at} has no path 'chat'"):
        content_at("../plain", "chat", at, workspace)


def test_a_known_commit_needs_no_hub(plain: Path, workspace: Path, git: Git) -> None:
    commit = git(plain, "rev-parse", "HEAD")
    known = content_at("../plain", ".", commit, workspace)
    plain.rename(plain.with_name("away"))
    assert content_at("../plain", ".", commit, workspace) == known
    with pytest.raises(Unreachable, match=r"cannot read .*plain at 0{40}"):
        content_at("../plain", ".", "0" * 40, workspace)


def test_a_commit_that_the_hub_lacks_is_a_fault(plain: Path, workspace: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"\.\./plain has no commit 0{40}"):
        content_at("../plain", ".", "0" * 40, workspace)


def test_a_hub_elsewhere_says_the_same_and_sends_no_weights(
    plain: Path, workspace: Path, git: Git, git_server: Served
) -> None:
    (plain / WEIGHTS).write_bytes(bytes(range(256)) * (SMALL // 128))
    (plain / "sub").mkdir()
    (plain / "sub" / "tokenizer.json").write_bytes(b"small")
    commit, blob = commit_all(git, plain), git(plain, "rev-parse", f"HEAD:{WEIGHTS}")
    address = f"git://127.0.0.1:{git_server.port}/plain"
    assert content_at(address, ".", commit, workspace) == content_at("../plain", ".", commit, workspace)
    with small_files(address, commit, workspace) as clone:
        assert git(clone, "cat-file", "-t", f"{commit}:sub/tokenizer.json") == "blob"
        with pytest.raises(subprocess.CalledProcessError):
            git(clone, "cat-file", "-t", blob)
    assert not list((workspace / ".widen").glob("fetch-*"))


def test_git_lfs_is_told_by_its_oid(
    lfs: ThreadingHTTPServer, plain: Path, workspace: Path, git: Git, git_server: Served
) -> None:
    lfs.shutdown()  # nobody asks it
    commit = git(plain, "rev-parse", "HEAD")
    oid = f"sha256:{hashlib.sha256(b'weights, first release').hexdigest()}"
    expected = content_of({WEIGHTS: oid, "config.json": "git:" + git(plain, "rev-parse", "HEAD:config.json")})
    assert content_at("../plain", ".", commit, workspace) == expected
    assert content_at(f"git://127.0.0.1:{git_server.port}/plain", ".", commit, workspace) == expected


def test_dvc_is_told_by_its_listing_alone(released: Path, workspace: Path, git: Git) -> None:
    v1, v2 = (git(released, "rev-parse", tag) for tag in ("v1", "v2"))
    for file in (released / ".dvc-storage").rglob("*"):
        if file.is_file() and not file.name.endswith(".dir"):
            file.unlink()
    before = sorted(released.rglob("*"))
    tagger = [content_at("../hub", "checkpoints/tagger", commit, workspace) for commit in (v1, v2)]
    base = [content_at("../hub", "checkpoints/base", commit, workspace) for commit in (v1, v2)]
    assert tagger[0] != tagger[1]
    assert base[0] == base[1] not in tagger
    assert sorted(released.rglob("*")) == before, "nothing is written in the hub"
    assert content_at("../hub", "checkpoints/base/config.json", v1, workspace) == content_of({})


def test_a_dvc_storage_that_is_away_is_unreachable_and_asked_again(released: Path, workspace: Path, git: Git) -> None:
    v1, storage = git(released, "rev-parse", "v1"), released / ".dvc-storage"
    storage.rename(released / "away")
    with pytest.raises(Unreachable, match=rf"cannot ask the DVC storage of \.\./hub at {v1} for checkpoints/base"):
        content_at("../hub", "checkpoints/base", v1, workspace)
    (released / "away").rename(storage)
    assert content_at("../hub", "checkpoints/base", v1, workspace)


@pytest.mark.slow
def test_a_folder_that_dvc_and_git_share_is_told_by_both(plain: Path, workspace: Path, git: Git) -> None:
    def dvc(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=plain, check=True, capture_output=True)

    dvc("init", "--quiet")
    git(plain, "rm", "--cached", "--quiet", WEIGHTS)
    dvc("add", "--quiet", WEIGHTS)
    commit = commit_all(git, plain)
    md5 = hashlib.md5(b"weights, first release").hexdigest()
    blob = git(plain, "rev-parse", "HEAD:config.json")
    expected = content_of({WEIGHTS: f"md5:{md5}", "config.json": f"git:{blob}"})
    assert content_at("../plain", ".", commit, workspace) == expected


def test_a_local_folder_is_told_by_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / ".git").mkdir(parents=True)
    assert content_of_folder(folder, tmp_path) is None
    (folder / WEIGHTS).write_bytes(b"weights")
    first = content_of_folder(folder, tmp_path)
    (folder / "README.md").write_text("new")
    (folder / ".git" / "w.safetensors").write_text("new")
    assert content_of_folder(folder, tmp_path) == first
    (folder / WEIGHTS).write_bytes(b"WEIGHTS")
    assert content_of_folder(folder, tmp_path) != first
