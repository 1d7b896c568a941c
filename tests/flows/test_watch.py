"""The watch's check on a real hub and workspace, what it asks for recorded; and the daemon as a process."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from flows.assets import asset, workspace_files
from flows.follow.watch import check
from flows.hub import make_hub, release
from tasks.ledger import read_ledger, read_ledgers, write_ledger
from tasks.run_lock import run_lock
from tasks.updates import Outcome, Update, begun, ended
from tasks.workspace import create_workspace
from tests.flows.conftest import ROOT
from widen.errors import EnvironmentFault

QUIET = 10.0


def followed(tagger: str) -> str:
    """The quickstart's recipe, its tagger at a revision that may move."""
    recipe = yaml.safe_load(asset("recipes/quickstart.yaml").read_text())
    for name, source in recipe["sources"].items():
        source["rev"] = tagger if name == "tagger" else "v1"
    return yaml.safe_dump(recipe)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    hub = make_hub(place / "hub", asset("examples/quickstart"))
    release(hub, "v2", "tagger", asset("examples/quickstart/checkpoints/tagger-v2"))
    run_git(hub, "tag", "-d", "v2")
    files = workspace_files() | {"recipes/quickstart.yaml": followed("v*")}
    create_workspace(place / "workspace", files)
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "place", symlinks=True)
    monkeypatch.setenv("WIDEN_QUIET_SECONDS", str(QUIET))
    return tmp_path / "place"


def run_git(hub: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments]
    return subprocess.run(command, cwd=hub, check=True, capture_output=True, text=True).stdout.strip()


class Watched:
    """A workspace that is checked on a simulated clock."""

    def __init__(self, place: Path) -> None:
        self.hub, self.workspace, self.now = place / "hub", place / "workspace", 1000.0
        self.asked: list[tuple[str, int]] = []
        self.away = False

    def ask(self, update: Update, attempt: int) -> None:
        if self.away:
            raise EnvironmentFault("the server is away")
        self.asked.append((update.id, attempt))

    def check(self, after: float = 0.0) -> tuple[str, ...]:
        self.now += after
        return check(self.workspace, self.ask, self.now)

    def run(self, state: str = "promoted") -> None:
        """What a run of the newest update leaves in the ledger."""
        ledger = read_ledger(self.workspace, "quickstart")
        began, update = begun(ledger, self.asked[-1][0], self.now, "run")
        assert isinstance(update, Update)
        write_ledger(self.workspace, ended(began, update, Outcome(state, self.now)))  # type: ignore[arg-type]

    def follow_from_first(self) -> None:
        self.check()
        self.check(QUIET)
        self.run()


@pytest.fixture
def watched(place: Path) -> Watched:
    return Watched(place)


def test_a_release_is_asked_for_once_and_a_readme_never(watched: Watched) -> None:
    assert [line.split(": ", 1)[1] for line in watched.check()] == ["first run"]
    assert watched.check(1) == ()
    (line,) = watched.check(QUIET)
    assert line.endswith("asked for a run (first run)")
    assert watched.check(1) == ()
    watched.run()

    (watched.hub / "README.md").write_text("nothing that a merge reads")
    run_git(watched.hub, "add", "README.md")
    run_git(watched.hub, "commit", "--quiet", "-m", "a README")
    assert [watched.check(QUIET) for _ in range(3)] == [()] * 3

    run_git(watched.hub, "tag", "v2", "HEAD~1")
    (line,) = watched.check(QUIET)
    assert "tagger: v1 (" in line
    assert "-> v2 (" in line
    (line,) = watched.check(QUIET)
    assert "asked for a run" in line
    watched.run("held")
    assert [watched.check(1000) for _ in range(3)] == [()] * 3
    assert [attempt for _, attempt in watched.asked] == [1, 1]
    assert len(set(watched.asked)) == 2


def test_an_update_is_kept_while_nobody_takes_it(watched: Watched) -> None:
    watched.away = True
    watched.check()
    for _ in range(3):
        assert watched.check(QUIET) == ("quickstart: not asked for yet: the server is away",)
    assert read_ledger(watched.workspace, "quickstart").outcomes == {}
    watched.away = False
    watched.check(1)
    assert len(watched.asked) == 1


def test_nothing_is_asked_for_while_a_run_holds_the_workspace(watched: Watched) -> None:
    with run_lock(watched.workspace, "a run by hand"):
        watched.check()
        assert watched.check(QUIET) == ()
        assert watched.asked == []
    watched.check(1)
    assert len(watched.asked) == 1


def test_a_broken_recipe_is_told_and_stops_no_other(watched: Watched) -> None:
    watched.follow_from_first()
    recipes = watched.workspace / "recipes"
    (recipes / "a.yaml").write_text("name: a\nmerge: {}\n")
    (recipes / "merge-only.yaml").write_text(yaml.safe_dump(yaml.safe_load(followed("v*"))["merge"]))
    shutil.copy(recipes / "quickstart.yaml", recipes / "twin.yaml")
    first, second = watched.check(1)
    assert "recipes/a.yaml" in first
    assert "merge" in first
    assert second == "recipes/twin.yaml: the name `quickstart` belongs to recipes/quickstart.yaml; choose another"
    faults = {one.name: bool(one.fault) for one in read_ledgers(watched.workspace)}
    assert faults == {"a": True, "quickstart": False, "twin": True}

    good = (recipes / "quickstart.yaml").read_text()
    (recipes / "quickstart.yaml").write_text(good.replace("widen", "wide"))
    (recipes / "twin.yaml").unlink()
    watched.check(1)
    broken = read_ledger(watched.workspace, "quickstart")
    assert "wide" in broken.fault
    assert broken.outcome == Outcome("promoted", watched.now - 2)
    (recipes / "quickstart.yaml").write_text(good)
    watched.check(1)
    assert read_ledger(watched.workspace, "quickstart").fault == ""
    assert len(watched.asked) == 1


def test_the_template_is_not_followed_until_somebody_edits_it(watched: Watched) -> None:
    (watched.workspace / "recipes" / "quickstart.yaml").unlink()
    template = watched.workspace / "recipes" / "template.yaml"
    assert watched.check() == ()
    assert read_ledgers(watched.workspace) == ()
    template.write_text(template.read_text().replace("t: 1.0", "t: 0.9"))
    assert watched.check(1) != ()
    assert [one.name for one in read_ledgers(watched.workspace)] == ["template"]


def test_a_recipe_that_says_so_is_left_alone_and_taken_up_again_without_a_run(watched: Watched) -> None:
    watched.follow_from_first()
    recipe = watched.workspace / "recipes" / "quickstart.yaml"
    text = recipe.read_text()
    recipe.write_text(text + "follow: false\n")
    release(watched.hub, "v2", "tagger", asset("examples/quickstart/checkpoints/tagger-v2"))
    assert (watched.check(1), watched.check(QUIET)) == ((), ())
    run_git(watched.hub, "tag", "-d", "v2")
    recipe.write_text(text)
    assert (watched.check(1), watched.check(QUIET)) == ((), ())
    assert len(watched.asked) == 1


def test_an_edited_recipe_is_a_change_and_a_comment_is_none(watched: Watched) -> None:
    watched.follow_from_first()
    recipe = watched.workspace / "recipes" / "quickstart.yaml"
    recipe.write_text("# a comment\n" + recipe.read_text())
    assert watched.check(1) == ()
    recipe.write_text(recipe.read_text().replace("t: 1.0", "t: 0.9"))
    assert [line.split(": ", 1)[1] for line in watched.check(1)] == ["the recipe was edited"]
    watched.check(QUIET)
    assert len(watched.asked) == 2


def test_a_hub_that_is_gone_is_told_once_and_once_when_it_is_back(watched: Watched) -> None:
    watched.follow_from_first()
    away = watched.hub.with_name("away")
    watched.hub.rename(away)
    lines = watched.check(1)
    assert {line.split(":")[2].strip() for line in lines} == {"unreachable"}
    assert {line.split(":")[1].strip() for line in lines} == {"base", "tagger", "indonesian"}
    assert watched.check(1) == ()
    away.rename(watched.hub)
    assert set(watched.check(1)) == {f"quickstart: {name}: answers again" for name in ("base", "tagger", "indonesian")}
    assert watched.check(QUIET) == ()


def test_a_bug_in_one_recipes_check_is_a_line(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("flows.follow.watch.look_all", broken)
    assert watched.check() == ("recipes/quickstart.yaml: ZeroDivisionError: oh",)


# The daemon


@pytest.fixture
def daemon(place: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        ours = ("PREFECT_", "MLFLOW_", "WIDEN_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        settings = {
            "WIDEN_WATCH_SECONDS": "0.2",
            "WIDEN_QUIET_SECONDS": "0",
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
        }
        command = [sys.executable, "-m", "flows", "watch", "--workspace", str(place / "workspace"), *arguments]
        environment = kept | settings | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True, stderr=-2)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_the_daemon_outlives_a_server_that_is_away_and_ends_cleanly(
    daemon: Callable[..., subprocess.Popen[str]], place: Path
) -> None:
    process = daemon()
    assert process.stdout is not None
    lines: list[str] = []
    while not any("not asked for yet" in line for line in lines):
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    (place / "workspace" / "recipes" / "quickstart.yaml").write_text("name: [")
    while "quickstart.yaml:1" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest.splitlines()[-1].endswith(" ended")
    assert "Traceback" not in "".join(lines) + rest
    assert sum("not asked for yet" in line for line in lines) == 1
    assert read_ledger(place / "workspace", "quickstart").outcomes == {}
