"""What DVC holds of a source: `sources/<name>.dvc`, the folder, its files in the cache; import and repair.

One of DVC's two doors.
"""

import logging
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.content import LFS_POINTER, LONGEST_POINTER
from tasks.hubs import Unreachable
from tasks.sources import Source, wrong
from tasks.workspace import dvc_state_folder, run_dvc, temporary_folder
from widen.errors import EnvironmentFault

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """`sources/<name>.dvc`: its repository, path and commit, the folder's digest, and what holds of it by now.

    Of a folder in a storage, `origin` has neither repository nor commit, and the URL as its path.
    """

    origin: tuple[str | None, str, str | None]
    content: str | None
    intact: bool
    recorded: bool


@contextmanager
def _opened(workspace: Path) -> Iterator[Any]:
    from dvc.repo import Repo

    with Repo(str(workspace), config={"core": {"site_cache_dir": str(dvc_state_folder(workspace))}}) as repo:
        yield repo


def read_held(name: str, workspace: Path) -> Held | None:
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
        if not stage.is_import:
            return None
        origin, output = stage.deps[0], stage.outs[0]
        repository = origin.def_repo if stage.is_repo_import else {}
        return Held(
            origin=(repository.get("url"), origin.def_path, repository.get("rev_lock")),
            content=output.hash_info.value,
            intact=not output.workspace_status(),
            recorded=_is_recorded(repo, file, workspace),
        )


def held_files(name: str, workspace: Path) -> dict[str, str]:
    """DVC's digest of every file of the source that is held, by its path in the folder."""
    with _opened(workspace) as repo:
        listing = repo.stage.load_one(str(workspace / "sources" / f"{name}.dvc")).outs[0].get_obj() or ()
        return {"/".join(key): entry.value for key, _, entry in listing}


def _is_recorded(repo: Any, file: Path, workspace: Path) -> bool:
    from scmrepo.exceptions import SCMError

    try:
        with repo.scm.get_fs("HEAD").open(file.relative_to(workspace).as_posix(), "rb") as committed:
            return bool(committed.read() == file.read_bytes())
    except (SCMError, OSError):
        return False


def restored(name: str, workspace: Path) -> Held | None:
    """Put the folder back from DVC's cache as far as the cache is whole; what `read_held` finds then."""
    log.warning("source %s was changed or is incomplete; restoring it", name)
    _drop_damaged_objects(name, workspace)
    with suppress(EnvironmentFault):  # something is missing from the cache: the caller imports again
        run_dvc(workspace, "checkout", "--force", f"sources/{name}.dvc")
    return read_held(name, workspace)


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


def import_at(source: Source, path: str, revision: str, workspace: Path) -> None:
    """`dvc import` the source in the place of what was there; on a failure that comes back."""
    assert source.repo is not None
    log.info("fetching %s: %s of %s at %s", source.name, path, source.repo, revision)
    command = ("import", source.repo, path, "-o", f"sources/{source.name}", "--rev", revision)
    _import(source, command, workspace, lambda words: _explained(source, path, revision, words))


def import_url(source: Source, workspace: Path) -> None:
    """The same from a storage, by `dvc import-url`."""
    log.info("fetching %s: %s", source.name, source.path)
    command = ("import-url", source.path, f"sources/{source.name}")
    _import(source, command, workspace, lambda words: Unreachable(f"cannot fetch {source.path}: {words}"))


def _import(
    source: Source, command: Sequence[str], workspace: Path, explained: Callable[[str], EnvironmentFault]
) -> None:
    (workspace / "sources").mkdir(exist_ok=True)
    with temporary_folder(workspace) as aside, _replacing(workspace / "sources" / source.name, aside):
        try:
            run_dvc(workspace, *command, temporary=aside)
        except EnvironmentFault as fault:
            raise explained(str(fault)) from None
        _refuse_incomplete(source, workspace / "sources" / source.name)


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
        raise wrong(source, "path", source.path, "the folder of a checkpoint, not a file")
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_size < LONGEST_POINTER and file.read_bytes().startswith(LFS_POINTER):
            told = f"{file.relative_to(folder)} of {source.repo or source.path} is a git-lfs pointer"
            raise Unreachable(f"{told}; its server did not give the content")


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
