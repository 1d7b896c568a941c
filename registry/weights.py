"""A registered version's files where the registry keeps them: listed, removed, put back; on this disk or any other."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from registry.checkpoint import link, local_path
from registry.lineage import MANIFEST
from registry.store import Registry

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

RECORD = frozenset({MANIFEST, "config.json"})
"""What stays when weights are freed: small, and part of what the version is."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a version. `inode` says which bytes these are on this disk, and how many names they have there."""

    name: str
    size: int
    inode: tuple[int, int, int] | None = None


def stored(registry: Registry, place: str) -> tuple[StoredFile, ...]:
    """The files at a version's `place`, by name. Raises whatever its storage raises."""
    folder = _folder(registry, place)
    if folder is None:
        return tuple(sorted(_listed(_repository(registry, place), None), key=lambda file: file.name))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(_of_disk(str(path.relative_to(folder)), path.stat()) for path in paths)


def _of_disk(name: str, status: os.stat_result) -> StoredFile:
    return StoredFile(name, status.st_size, (status.st_dev, status.st_ino, status.st_nlink))


def weights(files: Iterable[StoredFile]) -> tuple[StoredFile, ...]:
    """Those that go when the version is freed."""
    return tuple(file for file in files if file.name not in RECORD)


def freed_by(removed: Iterable[StoredFile]) -> int:
    """Bytes that a disk gains when all of `removed` are gone: none for bytes that keep another name."""
    removed = tuple(removed)
    names = Counter(file.inode for file in removed if file.inode is not None)
    last = {inode: file.size for file in removed if (inode := file.inode) is not None and names[inode] == inode[2]}
    return sum(last.values()) + sum(file.size for file in removed if file.inode is None)


def remove(registry: Registry, place: str, name: str) -> None:
    """Remove one file; one that is gone already is no fault."""
    folder = _folder(registry, place)
    if folder is None:
        _repository(registry, place).delete_artifacts(name)
    else:
        (folder / name).unlink(missing_ok=True)


def remove_all(registry: Registry, place: str) -> None:
    """Remove `place` with every file that it holds."""
    folder = _folder(registry, place)
    if folder is None:
        _repository(registry, place).delete_artifacts()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def put(registry: Registry, place: str, folder: Path, names: Iterable[PurePosixPath]) -> None:
    """Put `names` of `folder` at `place`, over what a broken attempt may have left there."""
    target = _folder(registry, place)
    for name in sorted(names):
        if target is None:
            inside = str(name.parent)
            _repository(registry, place).log_artifact(str(folder / name), None if inside == "." else inside)
        else:
            (target / name).unlink(missing_ok=True)
            link(folder, [name], target)


def _folder(registry: Registry, place: str) -> Path | None:
    """The folder behind a place; None behind a server, whose path may be another machine's."""
    return None if registry.database is None else local_path(place)


def _repository(registry: Registry, place: str) -> "ArtifactRepository":
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(place, tracking_uri=registry.uri)


def _listed(repository: "ArtifactRepository", inside: str | None) -> Iterable[StoredFile]:
    for one in repository.list_artifacts(inside):
        if one.is_dir:
            yield from _listed(repository, one.path)
        else:
            yield StoredFile(one.path, int(one.file_size or 0))
