"""What a revision of a git repository means now, asked of the repository without fetching its files."""

import re
from contextlib import suppress
from pathlib import Path

from tasks.workspace import run_git, temporary_folder
from widen.errors import EnvironmentFault, RecipeError

_NETWORK_TIMEOUT = 60.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{4,39}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/\\]+:")  # https://..., git@host:...


class Unreachable(EnvironmentFault):
    """A repository, its storage or its server did not answer: the one fault that another attempt may cure."""


def resolve_revision(repo: str, rev: str | None, workspace: Path) -> str:
    """The full commit that `rev` (None: the default branch) means in `repo` now; a tag is followed to its commit.

    One `git ls-remote`; only a short commit needs more, the repository's history without its files. A full commit is
    its own answer. Raises `RecipeError` for a name that is both a branch and a tag, `EnvironmentFault` otherwise.
    """
    rev = rev or "HEAD"
    if _COMMIT.fullmatch(rev.lower()):
        return rev.lower()
    found = _listed_commit(repo, rev, workspace)
    if found is None and _SHORT_COMMIT.fullmatch(rev.lower()):
        found = _expanded_commit(repo, rev.lower(), workspace)
    if found is None:
        raise EnvironmentFault(f"repository {repo} has no branch, tag or commit {rev!r}; see `git ls-remote {repo}`")
    return found


def address(repo: str, workspace: Path) -> str:
    """`repo` for git's command line; a path made absolute, so that it is never taken for a remote's name."""
    return repo if _URL.match(repo) else str((workspace / repo).resolve())


def _listed_commit(repo: str, rev: str, workspace: Path) -> str | None:
    try:
        listing = run_git(
            workspace, "ls-remote", "--", address(repo, workspace), rev, f"{rev}^{{}}", timeout=_NETWORK_TIMEOUT
        )
    except EnvironmentFault as fault:
        raise Unreachable(f"cannot read repository {repo} for revision {rev}: {fault}") from None
    commits = {name: commit for commit, name in (line.split("\t") for line in listing.splitlines())}
    names = [rev, f"refs/{rev}", f"refs/tags/{rev}", f"refs/heads/{rev}"]
    found = {name: commits.get(f"{name}^{{}}", commits[name]) for name in names if name in commits}
    if len(set(found.values())) > 1:
        raise RecipeError(f"revision {rev!r} of {repo} is ambiguous; write one of {', '.join(found)}")
    return next(iter(found.values()), None)


def _expanded_commit(repo: str, short: str, workspace: Path) -> str | None:
    with temporary_folder(workspace) as folder:
        clone = folder / "history.git"
        source = address(repo, workspace)
        try:
            run_git(workspace, "clone", "--quiet", "--bare", "--filter=tree:0", "--", source, str(clone))
        except EnvironmentFault as fault:
            raise Unreachable(f"cannot read the history of {repo} for revision {short}: {fault}") from None
        with suppress(EnvironmentFault):  # unknown or ambiguous; the caller says so
            return run_git(clone, "rev-parse", "--verify", "--quiet", f"{short}^{{commit}}")
    return None
