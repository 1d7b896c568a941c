"""What of DVC's cache no checked-in pin names any more: not that of the work tree, not that of any branch."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tasks.workspace import run_git, workspace_lock
from widen.trimming import Leftover, gained

_OBJECT = r"[0-9a-f]{32}(\.dir)?"
# Whatever DVC writes a digest into, with a pathspec that matches in every folder.
_PINS = ("*.dvc", "*dvc.lock")


def orphans(workspace: Path) -> Iterator[Leftover]:
    """Objects in the workspace's own cache of DVC that no *.dvc and no dvc.lock names; reads only.

    Asked are the work tree and the tips of all branches. `dvc gc` is not: it takes every import for something that can
    be had again from its repository, and drops them all. A cache that is shared (`cache.dir`) is left alone.
    """
    paths = _unnamed(workspace)
    if paths:
        what = f"DVC's cache: {len(paths)} objects that neither the work tree nor a branch names"
        yield Leftover(what, sum(map(gained, paths)), lambda: _remove(workspace))


def _remove(workspace: Path) -> int:
    """Asked again under the lock that a fetch holds from its first object to its pin."""
    with workspace_lock(workspace):
        size = 0
        for path in _unnamed(workspace):
            size += gained(path)
            path.chmod(0o644)
            path.unlink()
    return size


def _unnamed(workspace: Path) -> list[Path]:
    cache = workspace / ".dvc" / "cache" / "files" / "md5"
    held = {path.parent.name + path.name: path for path in cache.glob("??/*") if re.fullmatch(_OBJECT, _digest(path))}
    if not held:
        return []
    named = _named(workspace)
    for listing in sorted(named):
        if listing.endswith(".dir") and listing in held:
            named |= _listed(held[listing])
    return [path for digest, path in sorted(held.items()) if digest not in named]


def _digest(path: Path) -> str:
    return path.parent.name + path.name


def _named(workspace: Path) -> set[str]:
    """Every digest in a pin, of the work tree and of every branch, of this repository and of those it follows."""
    branches = run_git(workspace, "for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes").split()
    found = _digests_in(*(path.read_text(errors="replace") for path in _pins(workspace)))
    for branch in branches:
        # A pin is small: all of a branch's are printed, and any 32 digits in them count.
        names = run_git(workspace, "ls-tree", "-r", "--name-only", branch).splitlines()
        pins = [name for name in names if name.endswith((".dvc", "dvc.lock"))]
        found |= _digests_in(*(run_git(workspace, "show", f"{branch}:{name}") for name in pins))
    return found


def _pins(workspace: Path) -> Iterator[Path]:
    for pattern in _PINS:
        tracked = run_git(workspace, "ls-files", "-co", "--exclude-standard", "--", pattern).splitlines()
        yield from (path for name in tracked if (path := workspace / name).is_file())
    yield from (workspace / "sources").glob("*.dvc")


def _digests_in(*texts: str) -> set[str]:
    return {found.group(0) for text in texts for found in re.finditer(_OBJECT, text)}


def _listed(listing: Path) -> set[str]:
    """The files of a folder that DVC keeps as a list."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return {str(entry["md5"]) for entry in json.loads(listing.read_bytes())}
    return set()
