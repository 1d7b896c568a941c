"""A hub: a git repository elsewhere, read as far as a question needs and no further."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.remembered import recall, remember
from tasks.workspace import run_git, temporary_folder
from widen.errors import EnvironmentFault

PATIENCE = 300.0
SMALL = 64 * 1024
"""Files up to this size (bytes) come with a clone: git-lfs pointers, DVC's own files; not weights."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/\\]+:")  # https://..., git@host:...


class Unreachable(EnvironmentFault):
    """A repository, its storage or its server did not answer: the one fault that another attempt may cure."""


def address(repo: str, workspace: Path) -> str:
    """`repo` for git's command line; a path made absolute, so that it is never taken for a remote's name."""
    return repo if _URL.match(repo) else str((workspace / repo).resolve())


def local_repository(repo: str, workspace: Path) -> Path | None:
    """Where `repo` lies, if that is on this machine."""
    where = address(repo, workspace)
    path = Path(unquote(urlsplit(where).path)) if where.startswith("file://") else Path(where)
    return path if path.is_absolute() and path.is_dir() else None


@contextmanager
def small_files(repo: str, commit: str, workspace: Path) -> Iterator[Path]:
    """A git repository with `commit` and its files up to SMALL: the hub itself if it is on this machine, else a clone.

    Raises `Unreachable`, and `EnvironmentFault` where the hub does not hold the commit.
    """
    local = local_repository(repo, workspace)
    if local is not None:
        _require(local, repo, commit)
        yield local
        return
    with temporary_folder(workspace) as folder:
        clone = folder / "small.git"
        _clone_small(address(repo, workspace), commit, clone)
        _require(clone, repo, commit)
        yield clone


@contextmanager
def history(repo: str, workspace: Path) -> Iterator[Path]:
    """A git repository with every commit of `repo`'s branches and tags, without their files. Raises `Unreachable`."""
    local = local_repository(repo, workspace)
    if local is not None:
        yield local
        return
    with temporary_folder(workspace) as folder:
        clone = folder / "history.git"
        where = address(repo, workspace)
        try:
            run_git(
                workspace, "clone", "--quiet", "--bare", "--filter=tree:0", "--", where, str(clone), timeout=PATIENCE
            )
        except EnvironmentFault as fault:
            raise Unreachable(f"cannot read the history of {repo}: {fault}") from None
        yield clone


def is_ancestor(repo: str, old: str, new: str, workspace: Path) -> bool:
    """Whether the commit `old` is in the history of `new`; remembered for ever. Raises `Unreachable`."""
    question = ("is an ancestor", address(repo, workspace), old, new)
    known = recall(workspace, *question)
    if known is None:
        with history(repo, workspace) as clone:
            known = remember(workspace, *question, answer="yes" if _is_base(clone, old, new) else "no")
    return known == "yes"


def _is_base(clone: Path, old: str, new: str) -> bool:
    try:
        run_git(clone, "cat-file", "-e", f"{old}^{{commit}}")
    except EnvironmentFault:
        return False
    return run_git(clone, "merge-base", "--all", old, new, allowed=(0, 1)) == old


def _clone_small(where: str, commit: str, clone: Path) -> None:
    """One commit and its small files; where a server gives no single commits, all of the history, and a local path."""
    small = f"--filter=blob:limit={SMALL}"
    run_git(clone.parent, "init", "--quiet", "--bare", str(clone))
    run_git(clone, "remote", "add", "origin", where)
    try:
        run_git(clone, "fetch", "--quiet", "--depth=1", "--no-tags", small, "origin", commit, timeout=PATIENCE)
    except EnvironmentFault:
        try:
            run_git(clone, "fetch", "--quiet", small, "origin", "+refs/*:refs/hub/*", timeout=PATIENCE)
        except EnvironmentFault as fault:
            raise Unreachable(f"cannot read {where} at {commit}: {fault}") from None
    # What is not here is not wanted, and DVC's git libraries refuse a repository that would fetch it when asked.
    run_git(clone, "config", "--unset", "extensions.partialclone", allowed=(0, 5))
    run_git(clone, "remote", "remove", "origin")


def _require(folder: Path, repo: str, commit: str) -> None:
    try:
        run_git(folder, "cat-file", "-e", f"{commit}^{{commit}}")
    except EnvironmentFault:
        raise EnvironmentFault(f"repository {repo} has no commit {commit}") from None
