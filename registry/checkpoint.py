"""A merged checkpoint's files into the registry's storage: hard links where it can be, copies or uploads where not."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from registry.errors import RegistryError
from registry.lineage import MANIFEST, read_manifest

Upload = Callable[[Path, str | None], None]


def listed_files(folder: Path) -> tuple[PurePosixPath, ...]:
    """The files of the merge in `folder`: the manifest and what it lists, nothing else that may lie there.

    Raises RegistryError when one is missing or not of the listed size, or when a name leads out of the folder.
    """
    listed = read_manifest(folder / MANIFEST)["files"]
    for name, entry in listed.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise RegistryError(f"{folder / MANIFEST}: {name!r} leads out of the folder; do not use this model")
        _require_size(folder / name, int(entry["size"]))
    return tuple(PurePosixPath(name) for name in sorted({*listed, MANIFEST}))


def _require_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise RegistryError(f"{path}: the manifest lists it and it is not there; merge again")
    if path.stat().st_size != size:
        raise RegistryError(f"{path}: expected {size} bytes, found {path.stat().st_size}; merge again")


def local_path(location: str) -> Path | None:
    """The folder behind an artifact location, or None when it is not a path of this machine."""
    parts = urlsplit(location)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(location) if parts.scheme == "" else None


def link(folder: Path, names: Iterable[PurePosixPath], target: Path) -> None:
    """Make `names` of `folder` appear in `target`, which must not hold them, without a copy where the disk allows it.

    A hard link shares the bytes and outlives the folder; a symbolic link would not, so one is never made: what a
    symbolic link in `folder` points to is linked instead.
    """
    for name in names:
        source, made = (folder / name).resolve(), target / name
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, made)
        except FileExistsError:
            raise
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, made)


def upload(folder: Path, names: Iterable[PurePosixPath], send: Upload) -> None:
    """Send `names` of `folder` with `send(file, folder inside the model or None)`."""
    for name in names:
        inside = str(name.parent)
        send(folder / name, None if inside == "." else inside)
