"""What became of a source upstream, followed through everything that can happen to a hub."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.sources import Source
from tasks.upstream import Pin, Upstream, look, look_all
from tests.tasks.conftest import Served, into_lfs
from widen.errors import RecipeError

pytestmark = pytest.mark.usefixtures("bare_home")
Git = Callable[..., str]
WEIGHTS = "model.safetensors"


@dataclass
class Followed:
    """Sources of one hub and what is held of each, as whoever follows them would hold it."""

    workspace: Path
    sources: tuple[Source, ...]
    held: dict[str, Pin] = field(default_factory=dict)

    def look(self, patience: float = 60.0) -> dict[str, Upstream]:
        seen = {one.name: one for one in look_all(self.sources, self.held, self.workspace, patience)}
        assert list(seen) == [source.name for source in self.sources]
        return seen

    def take(self) -> dict[str, Upstream]:
        """Look, and hold what was found, as after a run."""
        seen = self.look()
        self.held = {name: one.pin for name, one in seen.items() if one.pin}
        return seen


def states(seen: dict[str, Upstream]) -> str:
    return " ".join(f"{name}:{one.state}" for name, one in seen.items())


@dataclass(frozen=True)
class Hub:
    """A git repository and its first two releases, of which the second is not yet out."""

    folder: Path
    git: Git
    path: str
    first: str
    second: str

    def reset(self) -> None:
        """As after the first release."""
        for tag in self.git(self.folder, "tag").split():
            self.git(self.folder, "tag", "--delete", tag)
        self.git(self.folder, "tag", "v1", self.first)
        self.branch(self.first)

    def branch(self, commit: str) -> None:
        self.git(self.folder, "update-ref", "refs/heads/main", commit)

    def child(self, parent: str, message: str) -> str:
        """A commit of its own that changes a README only."""
        (self.folder / "README.md").write_text(message)
        self.git(self.folder, "read-tree", parent)
        self.git(self.folder, "add", "-f", "README.md")
        tree = self.git(self.folder, "write-tree")
        return self.git(self.folder, "commit-tree", "-p", parent, "-m", message, tree)

    def orphan(self, of: str) -> str:
        """The same files with no history."""
        return self.git(self.folder, "commit-tree", "-m", "rewritten", f"{of}^{{tree}}")

    def without(self, parent: str, path: str) -> str:
        self.git(self.folder, "read-tree", parent)
        self.git(self.folder, "rm", "-r", "--quiet", "--cached", path)
        return self.git(self.folder, "commit-tree", "-p", parent, "-m", "gone", self.git(self.folder, "write-tree"))


@pytest.fixture
def of_dvc(tmp_path: Path, hub: Path, git: Git) -> Hub:
    folder = Path(shutil.copytree(hub, tmp_path / "hub"))
    first, second = (git(folder, "rev-parse", tag) for tag in ("v1", "v2"))
    return Hub(folder, git, "checkpoints/tagger", first, second)


@pytest.fixture
def of_git(plain: Path, git: Git) -> Hub:
    first = git(plain, "rev-parse", "HEAD")
    (plain / WEIGHTS).write_bytes(b"weights, second release")
    git(plain, "commit", "--quiet", "--all", "-m", "second")
    return Hub(plain, git, ".", first, git(plain, "rev-parse", "HEAD"))


@pytest.fixture
def of_lfs(lfs: ThreadingHTTPServer, plain: Path, git: Git) -> Hub:
    first = git(plain, "rev-parse", "HEAD")
    (plain / WEIGHTS).write_bytes(b"weights, second release")
    into_lfs(plain / WEIGHTS)
    git(plain, "commit", "--quiet", "--all", "-m", "second")
    return Hub(plain, git, ".", first, git(plain, "rev-parse", "HEAD"))


@pytest.fixture(params=["of_git", "of_lfs", "of_dvc"])
def upstream(request: pytest.FixtureRequest) -> Hub:
    found: Hub = request.getfixturevalue(request.param)
    found.reset()
    return found


def sources_of(upstream: Hub, repo: str) -> tuple[Source, ...]:
    wanted = {"branch": "main", "pattern": "v*", "range": "v>=1,<3", "tag": "v1", "commit": upstream.first}
    return tuple(Source(name, upstream.path, repo, rev) for name, rev in wanted.items())


def walk(upstream: Hub, followed: Followed) -> None:
    """v1, v2, a README, a tag deleted, a force push, a path deleted, a branch deleted, the hub gone and back."""
    git, folder = upstream.git, upstream.folder
    settled = "tag:fixed commit:fixed"
    assert states(followed.take()) == f"branch:moved pattern:moved range:moved {settled}"
    first = followed.held["branch"]
    assert first == Pin("main", upstream.first, followed.held["tag"].content)
    assert followed.held["pattern"] == replace(first, ref="v1") == followed.held["range"]
    assert states(followed.take()) == f"branch:same pattern:same range:same {settled}"

    git(folder, "tag", "v2", upstream.second)
    upstream.branch(upstream.second)
    seen = followed.take()
    assert states(seen) == f"branch:moved pattern:moved range:moved {settled}"
    second = followed.held["branch"]
    assert second.commit == upstream.second
    assert second.content != first.content
    assert seen["pattern"].note == f"v1 to v2, from {upstream.first[:12]} to {upstream.second[:12]}"
    held = dict(followed.held)

    readme = upstream.child(upstream.second, "a README")
    upstream.branch(readme)
    git(folder, "tag", "v2.1", readme)
    assert states(followed.take()) == f"branch:same pattern:same range:same {settled}"
    assert followed.held == held, "what has the same content stays at its commit"

    git(folder, "tag", "--delete", "v2", "v2.1")
    seen = followed.take()
    assert states(seen) == f"branch:same pattern:gone range:gone {settled}"
    assert seen["pattern"].note.endswith("is deleted; the newest left, v1, is older; staying at v2")
    assert followed.held == held

    upstream.branch(upstream.orphan(upstream.second))
    assert states(followed.look()) == f"branch:rewritten pattern:gone range:gone {settled}"
    pin = followed.look()["branch"].pin
    assert pin is not None
    assert pin.content == second.content
    assert pin.commit != second.commit, "what is held is no longer in the hub's history"
    upstream.branch(upstream.orphan(upstream.first))
    pin = followed.look()["branch"].pin
    assert pin is not None
    assert pin.content == first.content
    assert pin.commit not in (upstream.first, upstream.second)

    git(folder, "tag", "--force", "v1", upstream.second)
    seen = followed.look()
    assert states(seen).endswith("tag:retagged commit:fixed")
    assert seen["tag"].pin == held["tag"], "reported, never followed"
    git(folder, "update-ref", "-d", "refs/heads/main")
    git(folder, "tag", "--delete", "v1")
    seen = followed.take()
    assert states(seen) == "branch:gone pattern:gone range:gone tag:gone commit:fixed"
    assert "has no tag that 'v*' means" in seen["pattern"].note
    assert followed.held == held

    folder.rename(folder.with_name("away"))
    seen = followed.take()
    assert states(seen) == "branch:unreachable pattern:unreachable range:unreachable tag:unreachable commit:fixed"
    assert followed.held == held
    folder.with_name("away").rename(folder)
    git(folder, "tag", "v2", upstream.second)
    git(folder, "tag", "v1", upstream.first)
    upstream.branch(readme)
    assert states(followed.take()) == f"branch:same pattern:same range:same {settled}"


def test_a_hub_on_this_machine_is_followed(upstream: Hub, workspace: Path) -> None:
    walk(upstream, Followed(workspace, sources_of(upstream, f"../{upstream.folder.name}")))


@pytest.mark.slow
@pytest.mark.parametrize("upstream", ["of_git", "of_lfs"], indirect=True)
def test_a_hub_elsewhere_is_followed(upstream: Hub, workspace: Path, git_server: Served) -> None:
    address = f"git://127.0.0.1:{git_server.port}/{upstream.folder.name}"
    walk(upstream, Followed(workspace, sources_of(upstream, address)))


def test_one_repository_is_asked_once(of_git: Hub, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_git.reset()
    followed, asked, run = Followed(workspace, sources_of(of_git, "../plain")), [], subprocess.run
    followed.take()

    def counted(command, **options):  # type: ignore[no-untyped-def]
        asked.append(command[1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    followed.look()
    assert asked == ["ls-remote"]


def test_a_newest_tag_that_was_moved_is_told_and_followed(of_git: Hub, workspace: Path) -> None:
    of_git.reset()
    source = Source("x", ".", "../plain", "v*")
    held = look(source, None, workspace).pin
    of_git.git(of_git.folder, "tag", "--force", "v1", of_git.second)
    seen = look(source, held, workspace)
    assert seen.state == "retagged"
    assert seen.pin is not None
    assert (seen.pin.ref, seen.pin.commit) == ("v1", of_git.second)


def test_what_the_recipe_names_may_become_ambiguous_or_lose_its_path(of_git: Hub, workspace: Path) -> None:
    of_git.reset()
    source = Source("x", "sub", "../plain", "main")
    (of_git.folder / "sub").mkdir()
    (of_git.folder / "sub" / WEIGHTS).write_bytes(b"weights")
    of_git.git(of_git.folder, "add", ".")
    of_git.git(of_git.folder, "commit", "--quiet", "-m", "sub")
    held = look(source, None, workspace).pin
    assert held is not None
    of_git.branch(of_git.without(str(held.commit), "sub"))
    seen = look(source, held, workspace)
    assert (seen.state, seen.pin) == ("gone", held)
    assert "has no path 'sub'" in seen.note
    of_git.git(of_git.folder, "tag", "main", of_git.first)
    seen = look(source, held, workspace)
    assert (seen.state, seen.pin) == ("gone", held)
    assert "is ambiguous; write one of refs/tags/main, refs/heads/main" in seen.note
    assert look(source, None, workspace).pin is None


def test_a_source_at_a_commit_is_not_followed(of_git: Hub, workspace: Path) -> None:
    of_git.reset()
    source = Source("x", ".", "../plain", "main", commit=of_git.first)
    of_git.branch(of_git.second)
    seen = look(source, None, workspace)
    assert (seen.state, seen.pin and seen.pin.commit, seen.pin and seen.pin.ref) == ("fixed", of_git.first, "main")
    short = Source("x", ".", "../plain", of_git.first[:9])
    pin = look(short, None, workspace).pin
    assert pin is not None
    assert pin.commit == of_git.first
    assert look(short, pin, workspace).state == "fixed"
    with pytest.raises(RecipeError, match=r"sources\.x\.rev: expected"):
        look(Source("x", ".", "../plain", "v[1]"), None, workspace)


def test_a_local_folder_is_followed(tmp_path: Path, workspace: Path) -> None:
    folder, source = tmp_path / "mine", Source("mine", "../mine")
    assert look(source, None, workspace) == Upstream("mine", "gone", None, "../mine has no checkpoint")
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"first")
    held = look(source, None, workspace).pin
    assert look(source, held, workspace).state == "same"
    (folder / "README.md").write_text("new")
    assert look(source, held, workspace) == Upstream("mine", "same", held, "")
    (folder / WEIGHTS).write_bytes(b"second")
    seen = look(source, held, workspace)
    assert seen.state == "moved"
    assert seen.pin != held
    shutil.rmtree(folder)
    assert look(source, held, workspace).pin == held


@pytest.fixture
def silent_hub(git_server: Served) -> Iterator[str]:
    """A server that takes connections and never says a word."""
    git_server.signal(signal.SIGSTOP)
    yield f"git://127.0.0.1:{git_server.port}/plain"
    git_server.signal(signal.SIGCONT)


def test_a_hub_that_does_not_answer_delays_nobody_for_long(of_git: Hub, workspace: Path, silent_hub: str) -> None:
    of_git.reset()
    sources = (Source("silent", ".", silent_hub, "main"), Source("quick", ".", "../plain", "main"))
    held = {"silent": Pin("main", of_git.first, "content")}
    silent, quick = look_all(sources, held, workspace, patience=1.5)
    assert (silent.state, silent.pin) == ("unreachable", held["silent"])
    assert "no answer within" in silent.note
    assert silent.note.endswith("; staying at main")
    assert quick.state == "moved"
