"""Room on this machine's disk for an output's files until they are sent, shared by all who make such files here."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from widen.progress import Progress
from widen.staging import free_space, remove_dead, require_space, scratch_folder

PREFIX = "output-"
RESERVED = ".reserved"
"""A file without content whose length is the room that its folder was given."""
PAUSE_S = 0.5
_BLOCK = 512


@contextmanager
def room(parent: Path, size: int, progress: Progress) -> Iterator[Path]:
    """A scratch folder in `parent` with `size` bytes of the disk for it, beside what others there have yet to write.

    Waits while others at work there take what is missing. Raises EnvironmentFault where the disk lacks it without
    them, and as `scratch_folder` does.
    """
    with scratch_folder(parent, PREFIX) as folder:
        if not _reserve(folder, size):
            progress.note(f"{parent}: too little room for {size / 1e9:.2f} GB until others at work there have ended")
            while not _reserve(folder, size):
                time.sleep(PAUSE_S)
        yield folder


def _reserve(folder: Path, size: int) -> bool:
    """Reserve `size` bytes for the folder; False while only others stand in the way."""
    parent = folder.parent
    with FileLock(parent.with_name(f"{parent.name}.lock")):
        # What died while somebody waits is removed here: who is not held any more never ends.
        found = [one for one in parent.glob(f"{PREFIX}*") if one.is_dir() and one != folder]
        others = [one for one in found if not remove_dead(one) and (one / RESERVED).is_file()]
        if not others:
            require_space(parent, size)
        elif free_space(parent) < size + sum(map(_owed, others)):
            return False
        with (folder / RESERVED).open("wb") as reserved:
            reserved.truncate(size)
    return True


def _owed(folder: Path) -> int:
    """Bytes that a folder was given room for and has not written yet."""
    with suppress(FileNotFoundError):
        held = sum(path.stat().st_blocks for path in folder.iterdir()) * _BLOCK
        return max(0, (folder / RESERVED).stat().st_size - held)
    return 0
