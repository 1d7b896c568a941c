"""A workspace: a git and DVC repository in which recipes run.

Committed are recipes/, dvc.yaml, prefect.yaml and sources/*.dvc; ignored are sources/<name>/, merged/, runs/ and
.widen/, which hold data, results, caches and locks.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from widen.errors import EnvironmentFault, RecipeError

# Without "copy" in this list DVC leaves a downloaded copy beside an equal file of its cache, and a release that shares
# files with the one before takes their space twice. Reflinks are absent on ext4.
_DVC_CONFIG = """[core]
    analytics = false
    check_update = false
[cache]
    type = "hardlink,symlink"
"""
_GITIGNORE = """# Made by widen from what is committed here: sources are in sources/*.dvc, results are made again.
/merged/
/runs/
/.widen/
"""
_OWN_ENTRIES = frozenset({".git", ".dvc", ".dvcignore", ".gitignore", ".widen"})


def create_workspace(folder: Path, files: Mapping[str, str]) -> Path:
    """Make `folder` a workspace holding `files` (relative path -> text), committed; returns its resolved path.

    Idempotent: what exists is left as it is, what is missing is added. A folder that holds anything else and is not a
    workspace is refused with `RecipeError`; a git or dvc that cannot run is an `EnvironmentFault`.
    """
    folder = folder.resolve()
    _refuse_foreign(folder, files)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ".git").exists():
        run_git(folder, "init", "--quiet", "--initial-branch=main")
    if not (folder / ".dvc" / ".gitignore").exists():
        # --force: an interrupted attempt may have left a .dvc folder behind.
        run_dvc(folder, "init", "--force")
    config = folder / ".dvc" / "config"
    if not config.exists() or not config.read_text().strip():
        config.write_text(_DVC_CONFIG)
    texts = {".gitignore": _GITIGNORE, **files}
    for relative, text in texts.items():
        _write_missing(folder / relative, text)
    committed = [".dvc/config", ".dvc/.gitignore", ".dvcignore", *texts]
    commit(folder, [path for path in committed if (folder / path).exists()], "Set up a widen workspace")
    return folder


def is_workspace(folder: Path) -> bool:
    """True where `folder` is the top of a git repository with DVC in it."""
    return (folder / ".git").exists() and (folder / ".dvc" / "config").is_file()


def require_workspace(folder: Path) -> Path:
    """The resolved path of the workspace `folder`; `RecipeError` naming the next step where it is none."""
    folder = folder.resolve()
    if not is_workspace(folder):
        missing = [name for name in (".git", ".dvc/config") if not (folder / name).exists()]
        raise RecipeError(
            f"{folder} is not a workspace: expected a git and DVC repository, found no {' and no '.join(missing)}; "
            f"make it one with `widen init {folder}`"
        )
    return folder


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Hold the workspace: one writer of its sources at a time, among threads and processes alike."""
    from filelock import FileLock

    with FileLock(state_folder(workspace) / "workspace.lock"):
        yield


def state_folder(workspace: Path) -> Path:
    """The workspace's folder for caches and locks, made where it is missing."""
    folder = workspace / ".widen"
    folder.mkdir(exist_ok=True)
    return folder


def dvc_state_folder(workspace: Path) -> Path:
    """Where DVC remembers the digests of this workspace's files, instead of a folder shared by the machine.

    Made before DVC makes it, which would let everybody write there, and what it keeps there are pickles.
    """
    folder = state_folder(workspace) / "dvc"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def temporary_folder(workspace: Path) -> Iterator[Path]:
    """A folder on the workspace's own disk, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=state_folder(workspace)) as folder:
        yield Path(folder)


def commit(folder: Path, paths: Sequence[str], message: str) -> bool:
    """Commit `paths` of `folder` and nothing else that may be staged; False where they hold nothing new."""
    run_git(folder, "add", "--", *paths)
    if not run_git(folder, "diff", "--cached", "--name-only", "--", *paths):
        return False
    run_git(folder, *_identity(folder), "commit", "--quiet", "--message", message, "--", *paths)
    return True


def commit_on_branch(folder: Path, branch: str, paths: Sequence[str], message: str) -> str:
    """Commit `paths` of the work tree on `branch`; the new commit, or the tip where they hold nothing new.

    A new branch starts at HEAD. HEAD, the index and the work tree stay as they are, unless `branch` is the one checked
    out: then this is `commit`. Raises `EnvironmentFault` in git's words, also for a branch that moved meanwhile.
    """
    ref = f"refs/heads/{branch}"
    if run_git(folder, "symbolic-ref", "--quiet", "HEAD", allowed=(0, 1)) == ref:
        commit(folder, paths, message)
        return run_git(folder, "rev-parse", "HEAD")
    tip = run_git(folder, "rev-parse", "--verify", "--quiet", ref, allowed=(0, 1))
    parent = tip or run_git(folder, "rev-parse", "HEAD")
    with temporary_folder(folder) as aside:
        index = aside / "index"
        run_git(folder, "read-tree", parent, index=index)
        run_git(folder, "update-index", "--add", "--remove", "--", *paths, index=index)
        tree = run_git(folder, "write-tree", index=index)
    new = parent
    if tree != run_git(folder, "rev-parse", f"{parent}^{{tree}}"):
        new = run_git(folder, *_identity(folder), "commit-tree", "-p", parent, "-m", message, tree)
    if new != tip:
        run_git(folder, "update-ref", "-m", message.splitlines()[0], ref, new, tip or "0" * len(parent))
    return new


def note(folder: Path, commit_id: str, text: str) -> None:
    """Say `text` of a commit in refs/notes/widen (`git log --notes=widen`), in the place of what was said of it."""
    run_git(
        folder, *_identity(folder), "notes", "--ref=widen", "add", "--force", "--file=-", commit_id, text=text.encode()
    )


def run_git(
    folder: Path,
    *arguments: str,
    timeout: float | None = None,
    index: Path | None = None,
    text: bytes | None = None,
    allowed: Sequence[int] = (0,),
) -> str:
    """The output of a git command in `folder`, stripped; `EnvironmentFault` with git's own words where it fails.

    timeout: seconds. index: in the place of the repository's own. text: the input. allowed: exit codes that answer.
    """
    return _decoded(git_bytes(folder, *arguments, timeout=timeout, index=index, text=text, allowed=allowed)).strip()


def git_bytes(
    folder: Path,
    *arguments: str,
    timeout: float | None = None,
    index: Path | None = None,
    text: bytes | None = None,
    allowed: Sequence[int] = (0,),
) -> bytes:
    """`run_git` for output that is no text."""
    environment = _environment() | ({} if index is None else {"GIT_INDEX_FILE": str(index)})
    return _run(["git", *arguments], folder, environment, timeout, text, allowed)


def run_dvc(folder: Path, *arguments: str, temporary: Path | None = None) -> str:
    """The output of a DVC command run in `folder` by this interpreter; `EnvironmentFault` where it fails.

    A process of its own, because DVC's locks do not hold between threads and its answers depend on the current folder.
    `temporary` is where DVC puts its clones of upstream repositories.
    """
    environment = _environment() | {"DVC_SITE_CACHE_DIR": str(dvc_state_folder(folder)), "DVC_NO_ANALYTICS": "1"}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    return _decoded(_run([sys.executable, "-m", "dvc", *arguments], folder, environment)).strip()


def _run(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    timeout: float | None = None,
    text: bytes | None = None,
    allowed: Sequence[int] = (0,),
) -> bytes:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, timeout=timeout, capture_output=True, **given)
    except FileNotFoundError as missing:
        raise EnvironmentFault(f"cannot run {missing.filename}: {missing.strerror}; install {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise EnvironmentFault(f"`{_spoken(command)}` gave no answer within {timeout:.0f} s") from None
    if done.returncode not in allowed:
        told = _last_words((done.stderr or done.stdout).decode("utf-8", "replace"))
        raise EnvironmentFault(f"`{_spoken(command)}` failed in {folder}: {told}")
    return bytes(done.stdout)


def _decoded(output: bytes) -> str:
    return output.decode("utf-8", "backslashreplace")


def _environment() -> dict[str, str]:
    """This process's environment with nobody to ask for a password, and blind to a git hook that may surround us."""
    hook = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"}
    inherited = {name: value for name, value in os.environ.items() if name not in hook}
    return inherited | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "ignore"}


def _spoken(command: list[str]) -> str:
    return " ".join(["dvc", *command[3:]] if command[1:3] == ["-m", "dvc"] else command)


def _last_words(text: str) -> str:
    """What the command said, in one line, without DVC's invitation to its chat."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "dvc.org/support" not in line]
    return "; ".join(lines[-4:]) or "it said nothing"


def _identity(folder: Path) -> list[str]:
    """Options of git that name a committer where neither the configuration nor the environment does."""
    options: list[str] = []
    for key, variables, fallback in (
        ("user.name", {"GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"}, "widen"),
        ("user.email", {"GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"}, "widen@localhost"),
    ):
        if not variables <= set(os.environ) and not run_git(folder, "config", "--default", "", "--get", key):
            options += ["-c", f"{key}={fallback}"]
    return options


def _refuse_foreign(folder: Path, files: Mapping[str, str]) -> None:
    if not folder.exists() or is_workspace(folder):
        return
    if not folder.is_dir():
        raise RecipeError(f"{folder} is a file; name a new or empty folder for the workspace")
    # Our own entries may be left from an attempt that was interrupted, which this one completes.
    ours = _OWN_ENTRIES | {Path(relative).parts[0] for relative in files}
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if foreign:
        raise RecipeError(
            f"{folder} is not empty and not a workspace: it holds {', '.join(foreign[:3])}"
            f"{' ...' if len(foreign) > 3 else ''}; name a new or empty folder"
        )


def _write_missing(path: Path, text: str) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
