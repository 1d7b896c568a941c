"""What of the engine's caches no run used for long, and what killed runs left: found, and removed when asked to."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from widen.staging import LOCK_SUFFIX, is_dead, lock_of, remove_dead
from widen.statistics import DATABASE

DAY = 86_400
"""Seconds; also how long a leftover must have rested, for the sake of those who take no lock."""
LARGEST = 4 << 30
"""Bytes of measurements that are kept, those used last first."""
_REMEMBERED = ("contents", "digests")
# What a kill leaves, by place: of merges, of records, of fetches, of scores, of champions brought here, of models
# written whole for scoring, of candidates, of outputs that were sent to a storage.
_LEFT = ("merged/.*.staging-*", "runs/*/.*.json.*", "runs/**/*.part", ".widen/fetch-*", ".widen/scorecards/.staged-*",
         ".widen/follow/.*.json.*", ".widen/champion", ".widen/composed", ".widen/contents/*.*-*",
         ".widen/digests/*.*-*", ".widen/overlays/.*-*", ".widen/compare/.*.staging-*",
         ".widen/compare/candidate", ".widen/remote/scratch/output-*", ".widen/remote/snapshots/.making-*")  # fmt: skip


@dataclass(frozen=True)
class Leftover:
    """Something that nothing needs: `what` in words, the bytes that a disk gains without it, and how it is removed.

    `remove` gives the bytes that it gained. Without one it is only told of: somebody may still want it.
    """

    what: str
    bytes: int
    remove: Callable[[], int] | None = None


def unused(cache: Path, days: float, now: float, largest: int = LARGEST) -> Iterator[Leftover]:
    """Entries in `cache` that no run used for `days`, and measurements beyond `largest` bytes, the oldest first.

    Reads only. now: seconds since 1970.
    """
    for name in _REMEMBERED:
        folder = cache / name
        old = [path for path in sorted(folder.glob("*.json")) if path.stat().st_mtime < now - days * DAY]
        if old:
            yield files(f"{name} of {len(old)} input files, not used for {days:g} days", old)
    computed = sorted((cache / "overlays").glob("*.sha256"))
    if old := [path for path in computed if path.stat().st_mtime < now - days * DAY]:
        both = [file for path in old for file in (path, path.with_suffix(".safetensors")) if file.is_file()]
        yield files(f"{len(old)} computed overlays of inputs, not used for {days:g} days", both)
    fetched = sorted((cache / "remote" / "blobs").glob("*.blob"))
    if old := [path for path in fetched if path.stat().st_mtime < now - days * DAY]:
        yield files(f"{len(old)} ranges of models in storages, not used for {days:g} days", old)
    rows = _old_rows(cache / "statistics" / DATABASE, days, now, largest)
    if rows:
        size = sum(size for _, size in rows)
        yield Leftover(
            f"statistics of {len(rows)} tensors, not used for {days:g} days or beyond {largest / 1e9:.1f} GB",
            size,
            lambda: _delete(cache / "statistics" / DATABASE, [row for row, _ in rows]),
        )


def files(what: str, paths: Iterable[Path]) -> Leftover:
    """Files that go together."""
    paths = tuple(paths)
    return Leftover(what, sum(map(gained, paths)), lambda: sum(map(_unlink, paths)))


def _unlink(path: Path) -> int:
    size = gained(path)
    path.unlink(missing_ok=True)
    return size


def gained(path: Path) -> int:
    """Bytes that the disk gains without `path`, a file or a folder: none for a file that has another name."""
    held = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(status.st_size for status in (file.stat() for file in held) if status.st_nlink == 1)


def _old_rows(database: Path, days: float, now: float, largest: int) -> list[tuple[int, int]]:
    """Row and bytes of measurements to drop. Nothing is written, not even SQLite's own files beside the database."""
    if not database.is_file():
        return []
    ordered = "SELECT rowid AS row, used, length(sums) + length(summary) AS size, SUM(length(sums) + length(summary)) "
    ordered += "OVER (ORDER BY used DESC, rowid DESC) AS before FROM measured"
    asked = f"SELECT row, size FROM ({ordered}) WHERE used < ? OR before > ? ORDER BY row"  # noqa: S608 - no foreign text
    with (
        suppress(sqlite3.DatabaseError),
        closing(sqlite3.connect(f"{database.resolve().as_uri()}?immutable=1", uri=True)) as kept,
    ):
        return [(int(row), int(size)) for row, size in kept.execute(asked, ((now - days * DAY) // DAY, largest))]
    return []


def _delete(database: Path, rows: list[int]) -> int:
    before = _size(database)
    with closing(sqlite3.connect(database, timeout=60)) as kept:
        with kept:
            kept.executemany("DELETE FROM measured WHERE rowid = ?", [(row,) for row in rows])
        kept.execute("VACUUM")
        kept.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before - _size(database)


def _size(database: Path) -> int:
    return sum(path.stat().st_size for path in database.parent.glob(f"{database.name}*"))


def left_by_kills(workspace: Path, now: float) -> Iterator[Leftover]:
    """What killed runs left in `workspace`, at rest for a day and held by nobody; reads only."""
    found = {path for pattern in _LEFT for path in workspace.glob(pattern)}
    for path in sorted({path.with_name(path.name.removesuffix(LOCK_SUFFIX)) for path in found}):
        if is_dead(path) and now - _newest(path) > DAY:
            what = f"left by a killed run: {path.relative_to(workspace)}"
            yield Leftover(what, gained(path), lambda path=path: _remove_dead(path))  # type: ignore[misc]


def _remove_dead(path: Path) -> int:
    size = gained(path)
    return size if remove_dead(path) else 0


def _newest(path: Path) -> float:
    held = [one for one in (path, lock_of(path)) if one.exists()]
    return max(one.lstat().st_mtime for one in (*held, *path.rglob("*")))
