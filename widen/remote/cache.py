"""Where what was fetched lies on this machine, and how much of it may."""

import atexit
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from widen.remote.blobs import Blobs

DEFAULT_LIMIT = 20_000_000_000
FOLDER = "remote"
FILES = 3
"""Files of an output on this machine's disk at once: one that is written, one that is sent, one that waits."""


@dataclass(frozen=True)
class RemoteCache:
    """`folder` holds snapshots of remote folders and, within `limit` bytes, ranges of their weights."""

    folder: Path
    limit: int = DEFAULT_LIMIT

    @cached_property
    def blobs(self) -> Blobs:
        """The ranges."""
        return Blobs(self.folder / "blobs", self.limit)

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots."""
        return self.folder / "snapshots"

    @property
    def scratch(self) -> Path:
        """Where the files of an output lie until they are sent."""
        return self.folder / "scratch"


@lru_cache
def remote_cache(folder: Path | None, limit: int | None) -> RemoteCache:
    """The cache in a folder, one object for all who ask; without a folder, one that this process removes at its end."""
    return RemoteCache(folder or _temporary(os.getpid()), limit or DEFAULT_LIMIT)


@lru_cache
def _temporary(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="widen-remote-"))

    def remove() -> None:
        if os.getpid() == process:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
