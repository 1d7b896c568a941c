"""Fetch a source: from a checkpoint's address in a recipe to its folder on this machine, pinned to a commit.

A versioned source is a path at a revision of a git repository, where DVC, git-lfs or git itself keeps the files. It
becomes a DVC import, `sources/<name>.dvc`, committed to the workspace. The only importer of DVC.
"""

import logging
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.revision import Unreachable, resolve_revision
from tasks.workspace import commit, dvc_state_folder, require_workspace, run_dvc, temporary_folder, workspace_lock
from widen.errors import EnvironmentFault, RecipeError

log = logging.getLogger(__name__)

_PAUSES = (0.5, 2.0)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REMOTE_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")  # ext::sh -c ...
_SECRET_IN_URL = re.compile(r"https?://[^/@]+@|[A-Za-z][A-Za-z0-9+.-]*://[^/@:]*:[^/@]*@")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Source:
    """A checkpoint as a recipe names it: `path` in the git repository `repo` at `rev`, or without repo a local folder.

    Relative paths are meant from the workspace folder. `rev` is a branch, a tag, or a full or short commit; without
    one, the repository's default branch.
    """

    name: str
    path: str
    repo: str | None = None
    rev: str | None = None


@dataclass(frozen=True)
class Fetched:
    """A source on this machine: `folder` holds the checkpoint, and nobody writes in it.

    `commit` is the commit that `rev` meant when it was fetched, and `content` DVC's digest of the folder; both are None
    for a local folder.
    """

    name: str
    folder: Path
    path: str
    repo: str | None
    rev: str | None
    commit: str | None
    content: str | None


def fetch(source: Source, workspace: Path, *, pauses: Sequence[float] = _PAUSES) -> Fetched:
    """Bring `source` into `workspace`; free where it is present and whole, and repaired where it is damaged.

    An unreachable repository is tried again after each of `pauses` (seconds). Raises `RecipeError` for an address that
    is unsafe or leads to no folder, and `EnvironmentFault` naming the repository and revision for one that cannot be
    reached or does not hold what was asked; the source that was there before is then left in place.
    """
    refuse_unsafe(source)
    workspace = Path(workspace).resolve()
    if source.repo is None:
        return _local_folder(source, workspace)
    require_workspace(workspace)
    for pause in pauses:
        try:
            return _fetch_versioned(source, workspace)
        except Unreachable as fault:
            log.warning("%s; trying again in %g s", fault, pause)
            time.sleep(pause)
    return _fetch_versioned(source, workspace)


def _is_unreachable(_task: Any, _run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unreachable)


@task(
    name="fetch",
    task_run_name="fetch-{source.name}",
    retries=len(_PAUSES),
    retry_delay_seconds=list(_PAUSES),
    retry_condition_fn=_is_unreachable,
    cache_policy=NO_CACHE,
)
def fetch_task(source: Source, workspace: Path) -> Fetched:
    """`fetch` as a Prefect task; the retries are Prefect's, so that a run shows them."""
    return fetch(source, workspace, pauses=())


def refuse_unsafe(source: Source) -> None:
    """Raise `RecipeError` for a source whose name, repository, path or revision could be read as something else."""
    if not _NAME.fullmatch(source.name) or source.name.endswith(".dvc"):
        allowed = "letters, digits, '.', '_' and '-', not starting with '.' or '-' nor ending with '.dvc'"
        raise _wrong(source, "name", source.name, allowed)
    if not source.path or source.path.startswith("-") or "\0" in source.path:
        raise _wrong(source, "path", source.path, "a path that is not empty and does not start with '-'")
    if source.repo is None:
        if source.rev is not None:
            raise _wrong(source, "rev", source.rev, "no revision, because a local folder has none (name its repo)")
        return
    if PurePosixPath(source.path).is_absolute() or ".." in PurePosixPath(source.path).parts:
        raise _wrong(source, "path", source.path, "a path inside the repository, without '..'")
    _refuse_unsafe_repository(source, source.repo)
    if source.rev is not None and not re.fullmatch(r"[^-\s~^:?*\[\\][^\s~^:?*\[\\]*", source.rev):
        raise _wrong(source, "rev", source.rev, "the name of a branch or tag, or a commit")


def _wrong(source: Source, key: str, found: str, expected: str) -> RecipeError:
    return RecipeError(f"sources.{source.name}.{key}: expected {expected}, found {found!r}")


def _refuse_unsafe_repository(source: Source, repo: str) -> None:
    if not repo or repo.startswith("-") or _REMOTE_HELPER.match(repo) or any(ord(character) < 32 for character in repo):
        raise _wrong(source, "repo", repo, "a path or URL of a git repository, no option and no remote helper ('::')")
    if _SECRET_IN_URL.match(repo):
        # The address is committed to the workspace and written in every record of the merge.
        shown = re.sub(r"//[^/@]+@", "//...@", repo)
        raise _wrong(source, "repo", shown, "a URL without a password or token; git's credential helper supplies those")


def _local_folder(source: Source, workspace: Path) -> Fetched:
    folder = (workspace / source.path).resolve()
    if not folder.is_dir():
        raise RecipeError(
            f"sources.{source.name}.path: expected the folder of a checkpoint, found "
            f"{'a file' if folder.exists() else 'nothing'} at {folder}; correct the path, or give repo and rev"
        )
    return Fetched(source.name, folder, source.path, None, None, None, None)


def _fetch_versioned(source: Source, workspace: Path) -> Fetched:
    assert source.repo is not None
    path = str(PurePosixPath(source.path))
    revision = resolve_revision(source.repo, source.rev, workspace)
    with workspace_lock(workspace):
        wanted = (source.repo, path, revision)
        pin = _read_pin(source.name, workspace)
        if pin is not None and pin.origin == wanted and not pin.intact:
            pin = _restored(source.name, workspace)
        if pin is None or pin.origin != wanted or not pin.intact:
            _import(source, path, revision, workspace)
            pin = _read_pin(source.name, workspace)
        if pin is None or not pin.intact:
            raise EnvironmentFault(f"source {source.name} changed while it was fetched from {source.repo}; run again")
        if not pin.recorded:
            _record(source, revision, workspace)
    folder = workspace / "sources" / source.name
    return Fetched(source.name, folder, source.path, source.repo, source.rev, revision, pin.content)


@dataclass(frozen=True)
class _Pin:
    """`sources/<name>.dvc`: its repository, path and commit, the folder's digest, and what holds it by now."""

    origin: tuple[str, str, str]
    content: str | None
    intact: bool
    recorded: bool


@contextmanager
def _opened(workspace: Path) -> Iterator[Any]:
    from dvc.repo import Repo

    with Repo(str(workspace), config={"core": {"site_cache_dir": str(dvc_state_folder(workspace))}}) as repo:
        yield repo


def _read_pin(name: str, workspace: Path) -> _Pin | None:
    """What the workspace holds under `name`; None for nothing, or nothing readable. No process, no network.

    DVC compares inode, size and modification time with what it remembers, and reads only the files that differ.
    """
    from dvc.exceptions import DvcException

    file = workspace / "sources" / f"{name}.dvc"
    with _opened(workspace) as repo:
        try:
            stage = repo.stage.load_one(str(file))
        except DvcException:
            return None
        if not stage.is_repo_import:
            return None
        origin, output = stage.deps[0], stage.outs[0]
        return _Pin(
            origin=(origin.def_repo["url"], origin.def_path, origin.def_repo.get("rev_lock", "")),
            content=output.hash_info.value,
            intact=not output.workspace_status(),
            recorded=_is_recorded(repo, file, workspace),
        )


def _is_recorded(repo: Any, file: Path, workspace: Path) -> bool:
    from scmrepo.exceptions import SCMError

    try:
        with repo.scm.get_fs("HEAD").open(file.relative_to(workspace).as_posix(), "rb") as committed:
            return bool(committed.read() == file.read_bytes())
    except (SCMError, OSError):
        return False


def _restored(name: str, workspace: Path) -> _Pin | None:
    """Put the folder back from DVC's cache as far as the cache is whole; what `_read_pin` finds then."""
    log.warning("source %s was changed or is incomplete; restoring it", name)
    _drop_damaged_objects(name, workspace)
    with suppress(EnvironmentFault):  # something is missing from the cache: the caller imports again
        run_dvc(workspace, "checkout", "--force", f"sources/{name}.dvc")
    return _read_pin(name, workspace)


def _drop_damaged_objects(name: str, workspace: Path) -> None:
    """Remove from DVC's cache the files of `name` that are not what their digest says.

    A source is hard-linked to the cache, so who writes in one damages the other, and DVC trusts a read-only file.
    """
    with _opened(workspace) as repo:
        output = repo.stage.load_one(str(workspace / "sources" / f"{name}.dvc")).outs[0]
        listing = output.get_obj() or ()
        for digest in [output.hash_info.value, *(entry.value for _, _, entry in listing)]:
            _drop_if_damaged(output.cache, digest)


def _drop_if_damaged(cache: Any, digest: str) -> None:
    from dvc_objects.errors import ObjectFormatError

    path = Path(cache.oid_to_path(digest))
    with suppress(FileNotFoundError, ObjectFormatError):
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        cache.check(digest)  # removes what does not match


def _import(source: Source, path: str, revision: str, workspace: Path) -> None:
    """`dvc import` the source in the place of what was there; on a failure that comes back."""
    assert source.repo is not None
    log.info("fetching %s: %s of %s at %s", source.name, path, source.repo, revision)
    output = f"sources/{source.name}"
    (workspace / "sources").mkdir(exist_ok=True)
    with temporary_folder(workspace) as aside, _replacing(workspace / output, aside):
        try:
            run_dvc(workspace, "import", source.repo, path, "-o", output, "--rev", revision, temporary=aside)
        except EnvironmentFault as fault:
            raise _explained(source, path, revision, str(fault)) from None
        _refuse_incomplete(source, workspace / output)


def _explained(source: Source, path: str, revision: str, words: str) -> EnvironmentFault:
    at = revision if source.rev == revision else f"{source.rev or 'HEAD'} (commit {revision})"
    if "unknown Git revision" in words:
        return EnvironmentFault(f"repository {source.repo} has no commit {revision}; correct sources.{source.name}.rev")
    if f"unexpected error - [{path!r}]" in words:
        return EnvironmentFault(
            f"repository {source.repo} at {at} has no path {path!r}; correct sources.{source.name}.path"
        )
    return Unreachable(f"cannot fetch {path} of {source.repo} at {at}: {words}")


def _refuse_incomplete(source: Source, folder: Path) -> None:
    if not folder.is_dir():
        raise _wrong(source, "path", source.path, "the folder of a checkpoint, not a file")
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size < 1024 and file.read_bytes().startswith(_LFS_POINTER):
            raise Unreachable(
                f"{file.relative_to(folder)} of {source.repo} is a git-lfs pointer; its server did not give the content"
            )


@contextmanager
def _replacing(folder: Path, aside: Path) -> Iterator[None]:
    """Move `folder` and its .dvc file to `aside`, and back again over whatever an exception leaves in their place.

    DVC imports into a folder that exists, not over it.
    """
    moves = [(folder, aside / "folder"), (folder.with_name(f"{folder.name}.dvc"), aside / "pin")]
    kept = [(place, away) for place, away in moves if place.exists()]
    for place, away in kept:
        place.rename(away)
    try:
        yield
    except BaseException:
        for place, _ in moves:
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        for place, away in kept:
            away.rename(place)
        raise


def _record(source: Source, revision: str, workspace: Path) -> None:
    """Commit the pin to the workspace's git, and nothing else."""
    asked = f"{source.path} of {source.repo} at {source.rev or 'HEAD'}"
    message = f"Fetch {source.name} at {revision[:12]}\n\n{asked}: commit {revision}"
    commit(workspace, [f"sources/{source.name}.dvc", "sources/.gitignore"], message)
