"""Real repositories for the fetch and workspace tests: an upstream hub, a plain upstream, a blank workspace."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
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
