"""Workspaces, and the DVC pipeline in them."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.assets import asset, workspace_files
from flows.hub import make_hub, release
from tasks.workspace import commit, commit_on_branch, create_workspace, note, require_workspace
from widen.errors import EnvironmentFault, OutputExists, RecipeError

pytestmark = pytest.mark.usefixtures("bare_home")
Git = Callable[..., str]
FILES = {"recipes/mine.yaml": "name: mine\n", "dvc.yaml": "stages: {}\n"}
STATIONS = ["fetch", "measure", "validate", "merge", "evaluate", "gate"]


def test_a_workspace_is_made_committed_and_made_once(tmp_path: Path, git: Git, bare_home: Path) -> None:
    folder = create_workspace(tmp_path / "new" / "workspace", FILES)
    head = git(folder, "rev-parse", "HEAD")
    assert require_workspace(folder) == folder
    assert git(folder, "status", "--short") == ""
    assert {"recipes/mine.yaml", "dvc.yaml", ".gitignore", ".dvc/config"} <= set(git(folder, "ls-files").split())
    assert git(folder, "log", "-1", "--format=%an <%ae>") == "widen <widen@localhost>"
    create_workspace(folder, FILES)
    assert git(folder, "rev-parse", "HEAD") == head
    assert list(bare_home.iterdir()) == []


def test_results_and_caches_are_ignored(workspace: Path, git: Git) -> None:
    for name in ("merged/mine/model.safetensors", "runs/mine/gate.json", ".widen/workspace.lock"):
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text("")
    assert git(workspace, "status", "--short") == ""


def test_nobody_else_may_write_dvcs_pickles(workspace: Path) -> None:
    assert stat.S_IMODE((workspace / ".widen" / "dvc").stat().st_mode) == 0o700


def test_what_the_user_changed_stays_and_what_is_missing_comes_back(workspace: Path, git: Git) -> None:
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    (workspace / "prefect.yaml").unlink()
    (workspace / ".dvc" / "config").write_text("[cache]\n    type = copy\n")
    create_workspace(workspace, workspace_files())
    assert (workspace / "dvc.yaml").read_text() == "stages: {}\n"
    assert (workspace / ".dvc" / "config").read_text() == "[cache]\n    type = copy\n"
    assert (workspace / "prefect.yaml").read_text() == asset("prefect.yaml").read_text()


def test_a_folder_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RecipeError, match=r"is not empty and not a workspace: it holds thesis\.tex; name a"):
        create_workspace(tmp_path, FILES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RecipeError, match="is a file"):
        create_workspace(tmp_path / "thesis.tex", FILES)


def test_an_interrupted_attempt_is_completed(tmp_path: Path, git: Git) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(RecipeError, match=rf"found no .dvc/config; make it one with `widen init {tmp_path}`"):
        require_workspace(tmp_path)
    create_workspace(tmp_path, FILES)
    assert require_workspace(tmp_path) == tmp_path
    assert "hardlink,symlink" in (tmp_path / ".dvc" / "config").read_text()


def test_the_users_own_identity_signs_the_commits(workspace: Path, git: Git) -> None:
    git(workspace, "config", "user.name", "Ada")
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    assert commit(workspace, ["dvc.yaml"], "Change the pipeline")
    assert git(workspace, "log", "-1", "--format=%an <%ae>") == "Ada <widen@localhost>"
    assert not commit(workspace, ["dvc.yaml"], "Change nothing")


def test_a_failing_command_is_a_fault_in_its_own_words(workspace: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"`git add -- absent.yaml` failed in .*did not match any files"):
        commit(workspace, ["absent.yaml"], "")


# Commits beside the branch that is checked out


def test_a_branch_gets_a_commit_and_nothing_else_moves(workspace: Path, git: Git) -> None:
    (workspace / "sources").mkdir()
    pin, staged = workspace / "sources" / "x.dvc", workspace / "recipes" / "mine.yaml"
    pin.write_text("first")
    staged.write_text("name: mine\n")
    git(workspace, "add", "recipes/mine.yaml")
    before = [git(workspace, *asked) for asked in (["status", "--short"], ["rev-parse", "HEAD"], ["diff", "--cached"])]
    first = commit_on_branch(workspace, "follow/mine", ["sources/x.dvc"], "Follow x\n\nto v1")
    assert git(workspace, "show", "follow/mine:sources/x.dvc") == "first"
    assert git(workspace, "diff", "--name-only", "HEAD", "follow/mine") == "sources/x.dvc"
    assert commit_on_branch(workspace, "follow/mine", ["sources/x.dvc"], "again") == first
    pin.write_text("second")
    second = commit_on_branch(workspace, "follow/mine", ["sources/x.dvc"], "Follow x")
    assert git(workspace, "log", "--format=%H", "HEAD..follow/mine").split() == [second, first]
    pin.unlink()
    third = commit_on_branch(workspace, "follow/mine", ["sources/x.dvc", "absent.dvc"], "Follow nothing")
    assert git(workspace, "diff", "--name-only", "HEAD", third) == ""
    pin.write_text("first")
    assert before == [
        git(workspace, *asked) for asked in (["status", "--short"], ["rev-parse", "HEAD"], ["diff", "--cached"])
    ]
    assert not list((workspace / ".widen").glob("fetch-*"))


def test_a_branch_without_news_stands_where_head_is(workspace: Path, git: Git) -> None:
    tip = commit_on_branch(workspace, "follow/mine", ["dvc.yaml"], "nothing")
    assert tip == git(workspace, "rev-parse", "HEAD") == git(workspace, "rev-parse", "follow/mine")
    with pytest.raises(EnvironmentFault, match=r"follow/a\.\.b"):
        commit_on_branch(workspace, "follow/a..b", ["dvc.yaml"], "no name of a branch")


def test_a_branch_that_is_checked_out_is_committed_to_as_usual(workspace: Path, git: Git) -> None:
    git(workspace, "checkout", "--quiet", "-b", "follow/mine")
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    made = commit_on_branch(workspace, "follow/mine", ["dvc.yaml"], "Change")
    assert made == git(workspace, "rev-parse", "HEAD")
    assert git(workspace, "status", "--short") == ""


def test_a_branch_that_moved_meanwhile_is_left_there(
    workspace: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "dvc.yaml").write_text("stages: {}\n")
    first = commit_on_branch(workspace, "follow/mine", ["dvc.yaml"], "Change")
    other = git(workspace, "commit-tree", "-p", first, "-m", "somebody else", f"{first}^{{tree}}")
    run = subprocess.run

    def overtaken(command, **options):  # type: ignore[no-untyped-def]
        if "write-tree" in command:
            run(["git", "update-ref", "refs/heads/follow/mine", other], cwd=workspace, check=True)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", overtaken)
    (workspace / "dvc.yaml").write_text("stages: {}\nvars: []\n")
    with pytest.raises(EnvironmentFault, match=rf"but expected {first}"):
        commit_on_branch(workspace, "follow/mine", ["dvc.yaml"], "Change again")
    monkeypatch.undo()
    assert git(workspace, "rev-parse", "follow/mine") == other


def test_a_note_says_something_of_a_commit_and_the_last_one_stands(workspace: Path, git: Git) -> None:
    tip = git(workspace, "rev-parse", "HEAD")
    note(workspace, tip, "held: app_en\n")
    note(workspace, tip, "promoted: version 3\n")
    assert git(workspace, "notes", "--ref=widen", "show", tip) == "promoted: version 3"
    assert git(workspace, "status", "--short") == ""


# The hub that stands for upstream


def test_the_hub_is_made_once_and_the_same_everywhere(hub: Path, tmp_path: Path, git: Git) -> None:
    quickstart = asset("examples/quickstart")
    other = make_hub(tmp_path / "hub", quickstart)
    v1 = git(hub, "rev-parse", "v1")
    assert git(other, "rev-parse", "v1") == v1
    assert make_hub(hub, quickstart) == hub
    assert release(hub, "v2", "tagger", quickstart) == git(hub, "rev-parse", "v2") != v1
    assert git(hub, "status", "--short") == ""
    assert not (hub / ".dvc" / "cache").exists()


def test_a_hub_takes_no_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(OutputExists, match="is not empty and no model hub"):
        make_hub(tmp_path, asset("examples/quickstart"))


# The pipeline in dvc.yaml, with stations that only write what they promise

STATION = f"""#!{sys.executable}
import sys
from pathlib import Path
station = sys.argv[2]
runs, merged = Path("runs/template"), Path("merged/template")
with Path(".widen/stations").open("a") as log:
    print(*sys.argv[1:], file=log)
if station == "fetch":
    from tasks.fetch import Source, fetch
    found = fetch(Source("plain", ".", "../plain", "main"), Path())
    text = found.content
else:
    text = "made by " + station
promised = {{
    "fetch": [runs / "sources.json"], "measure": [runs / "measurements.json"],
    "validate": [runs / "validation.json", runs / "validation" / "index.html"],
    "merge": [merged / "widen-manifest.json"], "evaluate": [runs / "scorecards" / "base.json"],
    "gate": [runs / "gate.json"],
}}
for path in promised[station]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
"""


@pytest.fixture
def dvc(workspace: Path, tmp_path: Path) -> Callable[..., str]:
    """dvc(*arguments) -> its output, as a user runs it in the workspace; `widen` is the stand-in."""
    command = tmp_path / "bin" / "widen"
    command.parent.mkdir()
    command.write_text(STATION)
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
    }

    def call(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments], cwd=workspace, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_pipeline_is_valid_and_in_order(dvc: Callable[..., str]) -> None:
    edges = {
        tuple(line.strip(" ;").replace('"', "").split(" -> "))
        for line in dvc("dag", "--dot").splitlines()
        if ">" in line
    }
    assert {("measure", "merge"), ("merge", "evaluate"), ("evaluate", "gate")} <= edges
    assert [line.split()[0] for line in dvc("stage", "list", "dvc.yaml").splitlines()] == STATIONS


@pytest.mark.slow
def test_repro_runs_the_stations_whose_inputs_changed(
    plain: Path, workspace: Path, dvc: Callable[..., str], git: Git
) -> None:
    def ran() -> list[str]:
        log = workspace / ".widen" / "stations"
        dvc("repro")
        lines = [line.split() for line in log.read_text().splitlines()]
        log.unlink()
        assert all(line[0] == "station" and line[2] == "recipes/template.yaml" for line in lines)
        return [line[1] for line in lines]

    assert ran() == STATIONS
    assert (workspace / "sources" / "plain.dvc").exists()
    assert ran() == ["fetch", "evaluate"]  # a branch may have moved, and so may the champion
    recipe = workspace / "recipes" / "template.yaml"
    recipe.write_text(recipe.read_text().replace("alpha: 0.05", "alpha: 0.01"))
    assert ran() == ["fetch", "validate", "evaluate", "gate"]
    recipe.write_text(recipe.read_text().replace("t: 1.0 ", "t: 0.9 "))
    assert {"measure", "merge"} <= set(ran())
    (plain / "config.json").write_text('{"released": 2}')
    git(plain, "commit", "--quiet", "--all", "-m", "second")
    assert {"fetch", "measure", "merge"} <= set(ran())
