"""What ran: the code's commit, the interpreter and the packages whose versions can change a result."""

import hashlib
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parents[1]
LOCK = "requirements.lock"

# Those that read, merge, score or record a model; a package that is not installed is left out.
PACKAGES = (
    "dvc",
    "great-expectations",
    "lm-eval",
    "mlflow",
    "numba",
    "numpy",
    "pandas",
    "prefect",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
)


@dataclass(frozen=True)
class Provenance:
    """The software behind a merge. `commit` is None when the code is no git checkout; then `version` identifies it.

    `lock` is the SHA-256 of the file that pins every package, where the code lies beside one.
    """

    commit: str | None
    dirty: bool
    version: str | None
    python: str
    platform: str
    packages: tuple[tuple[str, str], ...]
    lock: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON types, packages as an object."""
        return {**asdict(self), "packages": dict(self.packages)}

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> "Provenance":
        """The inverse of `to_dict`."""
        return cls(**{**held, "packages": tuple(sorted(held["packages"].items()))})


def collect(code: Path = CODE, distribution: str = "widen") -> Provenance:
    """What runs now. `code` is the folder of the code, `distribution` the package's name where it is installed."""
    commit, dirty = git_state(code)
    found = ((name, _version(name)) for name in PACKAGES)
    return Provenance(
        commit=commit,
        dirty=dirty,
        version=_version(distribution),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.machine()}",
        packages=tuple((name, version) for name, version in found if version is not None),
        lock=_sha256(code / LOCK),
    )


def git_state(code: Path) -> tuple[str | None, bool]:
    """HEAD of the checkout at `code` and whether tracked files differ from it; (None, False) when it is none.

    A folder inside another repository's checkout (an installed package, say) is not a checkout: that repository's
    commit says nothing about this code.
    """
    top = _git(code, "rev-parse", "--show-toplevel")
    commit = _git(code, "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top) != code.resolve():
        return None, False
    return commit, bool(_git(code, "status", "--porcelain", "--untracked-files=no"))


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _git(code: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(code), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
