"""Fetch a source: from a checkpoint's address in a recipe to its folder on this machine, pinned to a commit.

A versioned source is a path at a revision of a git repository, where DVC, git-lfs or git itself keeps the files; a
stored one is a folder of S3 or the like. Either becomes a DVC import, `sources/<name>.dvc`, committed to the workspace.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.content import content_at, content_in_storage, content_of, content_of_folder, equivalent, same_bytes
from tasks.hubs import Unreachable, is_ancestor
from tasks.imports import Held, held_files, import_at, import_url, read_held, restored
from tasks.model_cache import local_folder
from tasks.remembered import recall, remember
from tasks.revision import Revision, resolve_revision
from tasks.sources import Fetched, Source, is_url, refuse_unsafe
from tasks.workspace import commit, require_workspace, workspace_lock
from widen.errors import EnvironmentFault

__all__ = ["Fetched", "Source", "fetch", "fetch_task", "refuse_unsafe"]
log = logging.getLogger(__name__)

_PAUSES = (0.5, 2.0)


def fetch(source: Source, workspace: Path, *, record: bool = True, pauses: Sequence[float] = _PAUSES) -> Fetched:
    """Bring `source` into `workspace`; free where it is present and whole, and repaired where it is damaged.

    What is held stays, and its commit, where the commit that `rev` means now has the same content. `record`: whether
    the pin is committed to the workspace's current branch. An unreachable repository is tried again after each of
    `pauses` (seconds). Raises `RecipeError` for an address that is unsafe or leads to no folder, and `EnvironmentFault`
    naming the repository and revision for one that cannot be reached or does not hold what was asked; the source that
    was there before is then left in place.
    """
    refuse_unsafe(source)
    workspace = Path(workspace).resolve()
    if source.repo is None and not is_url(source.path):
        return _local_folder(source, workspace)
    require_workspace(workspace)
    for pause in pauses:
        try:
            return _fetch(source, workspace, record)
        except Unreachable as fault:
            log.warning("%s; trying again in %g s", fault, pause)
            time.sleep(pause)
    return _fetch(source, workspace, record)


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
def fetch_task(source: Source, workspace: Path, record: bool = True) -> Fetched:
    """`fetch` as a Prefect task; the retries are Prefect's, so that a run shows them."""
    return fetch(source, workspace, record=record, pauses=())


def _fetch(source: Source, workspace: Path, record: bool) -> Fetched:
    if source.repo is None:
        return _fetch_stored(source, workspace, record)
    return _fetch_versioned(source, source.repo, workspace, record)


def _local_folder(source: Source, workspace: Path) -> Fetched:
    found = local_folder(source, workspace)
    upstream = content_of_folder(found.folder, workspace)
    return Fetched(source.name, found.folder, source.path, None, found.rev, found.commit, None, upstream)


def _fetch_versioned(source: Source, repo: str, workspace: Path, record: bool) -> Fetched:
    path = str(PurePosixPath(source.path))
    chosen = _chosen(source, repo, workspace)
    with workspace_lock(workspace):
        held = _repaired(source, workspace, (repo, path))
        wanted = _kept(source, held, chosen, workspace) if held else chosen
        if held is None or held.origin[2] != wanted.commit:
            import_at(source, path, wanted.commit, workspace)
            held = _imported(source, workspace)
        if record and not held.recorded:
            asked = f"{source.path} of {source.repo} at {source.rev or wanted.ref}"
            _record(source, wanted.commit[:12], f"{asked}: commit {wanted.commit}", workspace)
    folder = workspace / "sources" / source.name
    upstream = _content(repo, path, wanted.commit, workspace)
    return Fetched(source.name, folder, source.path, source.repo, wanted.ref, wanted.commit, held.content, upstream)


def _repaired(source: Source, workspace: Path, origin: tuple[str | None, str]) -> Held | None:
    """What is held of this repository and path, whole; None where there is nothing, or not all can be restored."""
    held = read_held(source.name, workspace)
    if held is not None and held.origin[:2] == origin and not held.intact:
        held = restored(source.name, workspace)
    return held if held is not None and held.origin[:2] == origin and held.intact else None


def _imported(source: Source, workspace: Path) -> Held:
    held = read_held(source.name, workspace)
    if held is None or not held.intact:
        place = source.repo or source.path
        raise EnvironmentFault(f"source {source.name} changed while it was fetched from {place}; run again")
    return held


def _fetch_stored(source: Source, workspace: Path, record: bool) -> Fetched:
    """A folder in a storage has no commits: what lies there now, unless that is what is held."""
    found = content_in_storage(source.path, workspace)
    with workspace_lock(workspace):
        held = _repaired(source, workspace, (None, source.path))
        if held is None or found != _stored_content(source, held, workspace):
            before = held_files(source.name, workspace) if held else {}
            import_url(source, workspace)
            if content_in_storage(source.path, workspace) != found:
                raise Unreachable(f"{source.path} changed while it was fetched")
            if held and _same_files(before, held_files(source.name, workspace)):
                same_bytes(source.path, found, _stored_content(source, held, workspace), workspace)
            held = _imported(source, workspace)
            remember(workspace, *_question(source, held), answer=found)
            found = equivalent(source.path, found, workspace)
        if record and not held.recorded:
            _record(source, found[:12], f"{source.path}: content {found}", workspace)
    folder = workspace / "sources" / source.name
    return Fetched(source.name, folder, source.path, None, None, None, held.content, found)


def _same_files(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    return content_of(before) == content_of(now)


def _stored_content(source: Source, held: Held, workspace: Path) -> str:
    """The content that a storage had when what is held was fetched; "" where that is not remembered."""
    return equivalent(source.path, recall(workspace, *_question(source, held)) or "", workspace)


def _question(source: Source, held: Held) -> tuple[str, ...]:
    return "content when fetched", source.path, str(held.content)


def _chosen(source: Source, repo: str, workspace: Path) -> Revision:
    if source.commit is None:
        return resolve_revision(repo, source.rev, workspace)
    return Revision(source.rev or source.commit, source.commit)


def _kept(source: Source, held: Held, chosen: Revision, workspace: Path) -> Revision:
    """The commit that is held, where the one chosen follows it, has the same content and was not asked for by name."""
    repo, path, commit = held.origin
    if not repo or not commit or commit == chosen.commit or chosen.commit in (source.commit, chosen.ref.lower()):
        return chosen
    found = _content(repo, path, chosen.commit, workspace)
    same = found is not None and found == _content(repo, path, commit, workspace)
    if not same or not is_ancestor(repo, commit, chosen.commit, workspace):
        return chosen  # a commit that is no longer in the history may soon be in no repository
    log.info("%s: %s at %s holds what is held at %s", source.name, path, chosen.commit, commit)
    return Revision(chosen.ref, commit)


def _content(repo: str, path: str, commit: str, workspace: Path) -> str | None:
    """None where it cannot be told: an import that is whole needs no hub."""
    try:
        return content_at(repo, path, commit, workspace)
    except EnvironmentFault as fault:
        log.warning("%s", fault)
        return None


def _record(source: Source, at: str, told: str, workspace: Path) -> None:
    """Commit the pin to the workspace's git, and nothing else."""
    commit(workspace, [f"sources/{source.name}.dvc", "sources/.gitignore"], f"Fetch {source.name} at {at}\n\n{told}")
