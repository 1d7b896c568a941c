"""The demo's hub and workspace, made once; and the demo itself, run once, as its user runs it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """A finished command of a workspace."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def workspace(self) -> Path:
        """The demo's workspace."""
        return self.folder / "workspace"


def run_widen(*arguments: object, cwd: Path, home: Path, **said: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with an empty home folder and what is `said` in its environment."""
    ours = ("PREFECT_", "MLFLOW_", "HF_", "WIDEN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment = kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(home / "cache")}
    environment |= said
    command = [sys.executable, "-m", "flows", *(str(one) for one in arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A command called in this process takes the first PREFECT_HOME it can have, and may remove it with its scratch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect-home")))
        yield


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """`widen demo`, run to its end in an empty folder with an empty home."""
    place, home = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("home")
    done = run_widen("demo", cwd=place, home=home)
    return Ran(place / "widen-demo", done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's workspace beside its hub, in which nothing has run yet."""
    from flows.demo import make_demo

    return make_demo(tmp_path_factory.mktemp("fresh"))
