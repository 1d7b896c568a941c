"""Fetching from real git and DVC repositories."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.states import Failed

from tasks.content import content_at
from tasks.fetch import Fetched, Source, fetch, fetch_task
from tasks.revision import Unreachable, resolve_revision
from widen.errors import EnvironmentFault, RecipeError

pytestmark = pytest.mark.usefixtures("bare_home")
Git = Callable[..., str]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def tagger(hub: Path) -> Source:
    return Source("tagger", "checkpoints/tagger", str(hub), "v1")


@pytest.fixture(scope="module")
def standing(bare_home: Path, blank_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace for the tests that leave it as they found it, with the tagger's first release in it."""
    return Path(shutil.copytree(blank_workspace, tmp_path_factory.mktemp("standing") / "workspace"))


@pytest.fixture(scope="module")
def fetched(tagger: Source, standing: Path) -> Fetched:
    return fetch(tagger, standing)


def files(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def published(release: str) -> dict[str, str]:
    root = Path(__file__).parents[2] / "examples" / "quickstart" / "checkpoints"
    return files(root / release)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every command that is run from here on; they still run."""
    seen: list[list[str]] = []
    run = subprocess.run

    def recorded(command, **options):  # type: ignore[no-untyped-def]
        seen.append(list(command))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", recorded)
    return seen


# What a revision means


@pytest.mark.parametrize("rev", ["main", "v1", "heads/main", "refs/tags/v1", "annotated", None])
def test_a_branch_or_tag_is_resolved_to_its_commit(rev: str | None, plain: Path, workspace: Path, git: Git) -> None:
    git(plain, "tag", "--annotate", "--message", "a tag object", "annotated")
    git(plain, "branch", "feature/main")
    assert resolve_revision("../plain", rev, workspace).commit == git(plain, "rev-parse", "HEAD")


def test_commits_are_resolved_in_full_and_in_short_also_when_no_branch_ends_there(
    plain: Path, workspace: Path, git: Git
) -> None:
    first = git(plain, "rev-parse", "HEAD")
    git(plain, "tag", "--delete", "v1")
    git(plain, "commit", "--quiet", "--allow-empty", "-m", "second")
    assert resolve_revision("../plain", first, workspace).commit == first
    assert resolve_revision("../plain", first[:9].upper(), workspace).commit == first
    assert not list((workspace / ".widen").glob("fetch-*"))


def test_a_name_of_two_commits_is_refused(plain: Path, workspace: Path, git: Git) -> None:
    git(plain, "branch", "both")
    git(plain, "commit", "--quiet", "--allow-empty", "-m", "second")
    git(plain, "tag", "both")
    with pytest.raises(
        RecipeError, match=r"'both' of \.\./plain is ambiguous; write one of refs/tags/both, refs/heads/both"
    ):
        resolve_revision("../plain", "both", workspace)


@pytest.mark.parametrize("rev", ["v9", "deadbeef", "1234567890123456789012345678901234567890"])
def test_an_unknown_revision_is_a_fault_that_names_repository_and_revision(
    rev: str, plain: Path, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EnvironmentFault, match=rf"repository \.\./plain has no .*{rev}"):
        fetch(Source("x", ".", "../plain", rev), workspace)
    assert not list((workspace / "sources").glob("x*"))
    assert "trying again" not in caplog.text


@pytest.mark.parametrize("rev", ["v1", "1234abc", "1234567890123456789012345678901234567890"])
def test_an_unreachable_repository_is_tried_again_and_then_named(
    rev: str, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(EnvironmentFault, match=rf"\.\./absent.*{rev}"):
        fetch(Source("x", "model", "../absent", rev), workspace, pauses=(0.0,))
    assert caplog.text.count("trying again") == 1


def test_prefect_retries_the_network_and_no_refusal() -> None:
    again = fetch_task.retry_condition_fn
    assert again is not None
    assert fetch_task.retries == 2
    assert again(fetch_task, None, Failed(data=Unreachable("down")))  # type: ignore[arg-type]
    assert not again(fetch_task, None, Failed(data=EnvironmentFault("no such tag")))  # type: ignore[arg-type]
    assert not again(fetch_task, None, Failed(data=RecipeError("unsafe")))  # type: ignore[arg-type]


# What arrives


def test_a_release_arrives_pinned_and_the_pin_is_committed(
    fetched: Fetched, hub: Path, standing: Path, git: Git
) -> None:
    commit = git(hub, "rev-parse", "v1")
    assert fetched.commit == commit
    assert fetched.folder == standing / "sources" / "tagger"
    assert fetched.content is not None
    assert fetched.content.endswith(".dir")
    assert files(fetched.folder) == published("tagger-v1")
    assert f"rev_lock: {commit}" in git(standing, "show", "HEAD:sources/tagger.dvc")
    assert git(standing, "log", "-1", "--format=%s|%an|%ae") == f"Fetch tagger at {commit[:12]}|widen|widen@localhost"
    assert git(standing, "status", "--short") == ""


def test_files_are_hard_links_to_the_cache_also_those_that_two_releases_share(tagger: Source, workspace: Path) -> None:
    fetch(tagger, workspace)
    again = fetch(Source("tagger", tagger.path, tagger.repo, "v2"), workspace)
    cached = {file.stat().st_ino for file in (workspace / ".dvc" / "cache").rglob("*") if file.is_file()}
    for file in again.folder.iterdir():
        assert file.stat().st_nlink == 2, file
        assert file.stat().st_ino in cached, file


def test_fetching_what_is_present_runs_no_dvc_and_touches_no_file(
    fetched: Fetched, tagger: Source, standing: Path, commands: list[list[str]]
) -> None:
    before = {file: file.stat() for file in fetched.folder.iterdir()}
    assert fetch(tagger, standing) == fetched
    assert {file: file.stat() for file in fetched.folder.iterdir()} == before
    assert [command[:2] for command in commands] == [["git", "ls-remote"]]
    commands.clear()
    fetch(Source("tagger", tagger.path, tagger.repo, fetched.commit), standing)
    assert commands == []


def damage_through_the_link(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(b"overwritten, and with it the cache")
    weights.chmod(0o444)


def replace_a_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(b"another model")


def lose_the_cache_too(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.rmtree(folder.parents[1] / ".dvc" / "cache")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage_through_the_link, id="through the link"),
        pytest.param(lose_the_cache_too, id="cache lost"),
        pytest.param(replace_a_file, id="replaced", marks=pytest.mark.slow),
        pytest.param(lambda folder: (folder / "config.json").unlink(), id="file lost", marks=pytest.mark.slow),
        pytest.param(lambda folder: (folder / "note.txt").write_text("new"), id="file added", marks=pytest.mark.slow),
        pytest.param(shutil.rmtree, id="folder lost", marks=pytest.mark.slow),
    ],
)
def test_damage_is_noticed_and_repaired(
    damage: Callable[[Path], object], fetched: Fetched, tagger: Source, hub: Path, standing: Path
) -> None:
    damage(fetched.folder)
    assert fetch(tagger, standing) == fetched
    assert files(fetched.folder) == published("tagger-v1")


def test_a_moved_branch_is_followed_and_files_that_it_dropped_are_gone(plain: Path, workspace: Path, git: Git) -> None:
    source = Source("plain", ".", "../plain", "main")
    first = fetch(source, workspace)
    assert set(files(first.folder)) == {"config.json", WEIGHTS}
    git(plain, "mv", WEIGHTS, "other.safetensors")
    git(plain, "commit", "--quiet", "-m", "second")
    second = fetch(source, workspace)
    assert second.commit == git(plain, "rev-parse", "HEAD") != first.commit
    assert second.content != first.content
    assert set(files(second.folder)) == {"config.json", "other.safetensors"}
    assert (second.folder / "config.json").stat().st_nlink == 2, "a file that both have is no copy"
    assert git(workspace, "rev-list", "--count", "HEAD") == "3"


def test_the_newest_tag_of_a_pattern_is_fetched_and_named(plain: Path, workspace: Path, git: Git) -> None:
    source = Source("plain", ".", "../plain", "v*")
    assert fetch(source, workspace).rev == "v1"
    (plain / WEIGHTS).write_bytes(b"weights, second release")
    git(plain, "commit", "--quiet", "--all", "-m", "second")
    git(plain, "tag", "v2")
    second = fetch(source, workspace)
    assert (second.rev, second.commit) == ("v2", git(plain, "rev-parse", "v2"))
    assert (second.folder / WEIGHTS).read_bytes() == b"weights, second release"
    assert second.upstream == content_at("../plain", ".", str(second.commit), workspace)
    assert "at v*: commit" in git(workspace, "log", "-1", "--format=%b")


def test_what_has_the_same_content_stays_at_its_commit(
    plain: Path, workspace: Path, git: Git, commands: list[list[str]]
) -> None:
    source = Source("plain", ".", "../plain", "main")
    first = fetch(source, workspace)
    tip = git(workspace, "rev-parse", "HEAD")
    (plain / "README.md").write_text("new")
    git(plain, "add", ".")
    git(plain, "commit", "--quiet", "-m", "a README")
    commands.clear()
    assert fetch(source, workspace) == first
    assert git(workspace, "rev-parse", "HEAD") == tip
    assert not [command for command in commands if "dvc" in command]
    there = git(plain, "rev-parse", "HEAD")
    exactly = fetch(Source("plain", ".", "../plain", "main", commit=there), workspace)
    assert (exactly.rev, exactly.commit, exactly.upstream) == ("main", there, first.upstream)
    assert fetch(Source("plain", ".", "../plain", first.commit), workspace).commit == first.commit


@pytest.mark.slow
def test_what_was_rewritten_is_fetched_where_it_is_now(plain: Path, workspace: Path, git: Git) -> None:
    source = Source("plain", ".", "../plain", "main")
    first = fetch(source, workspace)
    git(plain, "commit", "--quiet", "--amend", "-m", "rewritten")
    found = fetch(source, workspace)
    assert found.commit == git(plain, "rev-parse", "HEAD") != first.commit
    assert found.upstream == first.upstream
    assert fetch(source, workspace) == found


def test_a_commit_is_fetched_whatever_its_branch_says_and_unrecorded_if_asked(
    plain: Path, workspace: Path, git: Git
) -> None:
    tip, commit = git(workspace, "rev-parse", "HEAD"), git(plain, "rev-parse", "HEAD")
    git(plain, "commit", "--quiet", "--allow-empty", "-m", "second")
    source = Source("plain", ".", "../plain", "main", commit=commit)
    found = fetch(source, workspace, record=False)
    assert (found.rev, found.commit) == ("main", commit)
    assert git(workspace, "rev-parse", "HEAD") == tip
    assert git(workspace, "status", "--short", "--untracked-files=all").split() == [
        "??", "sources/.gitignore", "??", "sources/plain.dvc",
    ]  # fmt: skip
    assert fetch(source, workspace) == found
    assert git(workspace, "status", "--short") == ""
    with pytest.raises(RecipeError, match=r"sources\.plain\.commit: expected a full commit, found 'v1'"):
        fetch(replace(source, commit="v1"), workspace)


def test_a_path_that_the_revision_lacks_is_named_and_the_earlier_source_stays(
    fetched: Fetched, tagger: Source, hub: Path, standing: Path, git: Git, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EnvironmentFault, match=r"at v1 \(commit [0-9a-f]{40}\) has no path 'checkpoints/chat'"):
        fetch(Source("tagger", "checkpoints/chat", tagger.repo, "v1"), standing)
    assert "trying again" not in caplog.text
    assert files(fetched.folder) == published("tagger-v1")
    assert git(standing, "status", "--short") == ""
    assert not list((standing / ".widen").glob("fetch-*"))


def test_a_file_is_no_checkpoint(plain: Path, workspace: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"sources.x.path: expected the folder of a checkpoint, not a file, found 'config"
    ):
        fetch(Source("x", "config.json", "../plain", "v1"), workspace)
    assert not list((workspace / "sources").glob("x*"))


def test_a_fetch_commits_its_pin_and_nothing_else(plain: Path, workspace: Path, git: Git) -> None:
    (workspace / "recipes" / "mine.yaml").write_text("name: mine\n")
    git(workspace, "add", "recipes/mine.yaml")
    fetch(Source("plain", ".", "../plain", "v1"), workspace)
    assert git(workspace, "status", "--short") == "A  recipes/mine.yaml"


def test_a_pin_left_uncommitted_is_committed_by_the_next_fetch(
    fetched: Fetched, tagger: Source, standing: Path, git: Git
) -> None:
    git(standing, "reset", "--quiet", "HEAD~1")
    fetch(tagger, standing)
    assert git(standing, "status", "--short") == ""


TWO = """
import sys
from pathlib import Path
from tasks.fetch import Source, fetch
fetch(Source(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]), Path(sys.argv[5]))
"""


@pytest.mark.slow
def test_two_processes_fetch_into_one_workspace(hub: Path, workspace: Path, git: Git) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    wanted = [("base", "v1"), ("tagger", "v1"), ("tagger", "v2")]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, name, f"checkpoints/{name}", str(hub), rev, str(workspace)], env=environment
        )
        for name, rev in wanted
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert files(workspace / "sources" / "base") == published("base")
    assert files(workspace / "sources" / "tagger") in (published("tagger-v1"), published("tagger-v2"))
    assert git(workspace, "status", "--short") == ""
    assert git(workspace, "rev-list", "--count", "HEAD") == "4"


# Git-LFS


def test_the_root_of_a_git_lfs_repository_arrives_with_its_weights(
    lfs: ThreadingHTTPServer, plain: Path, workspace: Path
) -> None:
    found = fetch(Source("lfs", ".", "../plain", "v1"), workspace)
    assert (found.folder / WEIGHTS).read_bytes() == b"weights, first release"
    assert (found.folder / WEIGHTS).stat().st_nlink == 2


def test_a_git_lfs_server_that_is_down_is_a_fault(lfs: ThreadingHTTPServer, plain: Path, workspace: Path) -> None:
    lfs.shutdown()
    lfs.server_close()
    with pytest.raises(Unreachable, match=r"cannot fetch \. of \.\./plain at v1"):
        fetch(Source("lfs", ".", "../plain", "v1"), workspace, pauses=())
    assert not list((workspace / "sources").glob("lfs*"))


def test_a_pointer_in_the_place_of_weights_is_a_fault(
    lfs: ThreadingHTTPServer, plain: Path, workspace: Path, git: Git
) -> None:
    git(plain, "rm", "--quiet", ".gitattributes")
    git(plain, "commit", "--quiet", "-m", "nothing says that the weights are in git-lfs")
    with pytest.raises(Unreachable, match=r"model.safetensors of ../plain is a git-lfs pointer"):
        fetch(Source("lfs", ".", "../plain", "main"), workspace, pauses=())
    assert not list((workspace / "sources").glob("lfs*"))


# Local folders, and addresses that are refused


def test_a_local_folder_is_taken_from_the_workspace_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    found = fetch(Source("mine", "../models/mine"), tmp_path / "workspace")
    assert found == Fetched("mine", tmp_path / "models" / "mine", "../models/mine", None, None, None, None)
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize("path", ["absent", "file"])
def test_a_local_folder_that_is_none_is_named(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=rf"sources.x.path: expected the folder .* at {tmp_path / path}; correct"):
        fetch(Source("x", path), tmp_path)


def test_a_versioned_source_needs_a_workspace(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=rf"{tmp_path} is not a workspace.*widen init {tmp_path}"):
        fetch(Source("x", "model", "../hub", "v1"), tmp_path)


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("name", Source("", "model", "../hub")),
        ("name", Source("../x", "model", "../hub")),
        ("name", Source(".hidden", "model", "../hub")),
        ("name", Source("-o", "model", "../hub")),
        ("name", Source("a/b", "model", "../hub")),
        ("name", Source("x\n", "model", "../hub")),
        ("name", Source("x.dvc", "model", "../hub")),
        ("path", Source("x", "", "../hub")),
        ("path", Source("x", "--force", "../hub")),
        ("path", Source("x", "../../etc", "../hub")),
        ("path", Source("x", "a/../../b", "../hub")),
        ("path", Source("x", "/etc", "../hub")),
        ("path", Source("x", "--force")),
        ("path", Source("x", "s3://bucket/model", "../hub")),
        ("path", Source("x", "s3://key:secret@bucket/model")),
        ("path", Source("x", "s3://secret@bucket/model")),
        ("path", Source("x", "ssh://me:secret@host/model")),
        ("path", Source("x", "s3://bucket")),
        ("path", Source("x", "s3:///model")),
        ("path", Source("x", "s3://bucket/../other/model")),
        ("path", Source("x", "s3://bucket/model*")),
        ("path", Source("x", "azure://box/model?sig=secret")),
        ("path", Source("x", "https://host/model")),
        ("path", Source("x", "file:///etc")),
        ("path", Source("x", "model\n")),
        ("rev", Source("x", "s3://bucket/model", None, "v1")),
        ("repo", Source("x", "model", "")),
        ("repo", Source("x", "model", "--upload-pack=touch owned")),
        ("repo", Source("x", "model", "ext::sh -c touch% owned")),
        ("repo", Source("x", "model", "https://me:secret@host/repo")),
        ("repo", Source("x", "model", "https://secret@host/repo")),
        ("repo", Source("x", "model", "ssh://me:secret@host/repo")),
        ("rev", Source("x", "model", "../hub", "")),
        ("rev", Source("x", "model", "../hub", "--all")),
        ("rev", Source("x", "model", "../hub", "main branch")),
        ("rev", Source("x", "model", "../hub", "v[12]")),
        ("rev", Source("x", "model", "../hub", "v1\0")),
        ("rev", Source("x", "model", "../hub", "-v*")),
        ("rev", Source("x", "model", "../hub", "v *")),
        ("rev", Source("x", "model", "../hub", ">=")),
        ("rev", Source("x", "model", "../hub", ">=1 <2")),
        ("rev", Source("x", "model", "../hub", "-v>=1")),
        ("rev", Source("x", "model", "../hub", "v*>=1")),
        ("rev", Source("x", "model", "../hub", ">=1\n,<2")),
        ("rev", Source("x", "model", None, "v1")),
    ],
)
def test_an_address_that_could_mean_something_else_is_refused(key: str, source: Source, workspace: Path) -> None:
    with pytest.raises(RecipeError, match=rf"(?s)sources\..*\.{key}: expected") as refused:
        fetch(source, workspace)
    assert "secret" not in str(refused.value)
    assert not (workspace / "sources").exists()


@pytest.mark.parametrize(
    "repo", ["https://[::1]/models.git", "ssh://git@host/models.git", "git@host:models.git", "hub"]
)
def test_usual_addresses_are_not_refused(repo: str) -> None:
    from tasks.fetch import refuse_unsafe

    refuse_unsafe(Source("x", ".", repo, "feature/v1.0"))
    for path in ("s3://bucket/models/chat", "gs://bucket/chat/", "ssh://me@host/models/chat", "../models/chat"):
        refuse_unsafe(Source("x", path))
