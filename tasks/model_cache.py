"""A model in the local cache of Hugging Face, found where huggingface_hub keeps it; nothing is asked or written.

`models--ORG--NAME/refs/REV` holds a commit; `snapshots/COMMIT/` its files, links into `blobs/`.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.revision import kind_of
from tasks.sources import Source, is_cached, model_id, wrong
from widen.checkpoint import ADAPTER_CONFIG_FILE, ADAPTER_FILE, CONFIG_FILE, INDEX_FILE, PICKLE_SUFFIXES, SINGLE_FILE
from widen.errors import InputsRefused, RecipeError

_SHORTEST = 4


@dataclass(frozen=True)
class Local:
    """A checkpoint's folder on this machine; from the cache, the revision asked for and the commit that it is."""

    folder: Path
    rev: str | None = None
    commit: str | None = None


def cache_folder(workspace: Path) -> Path:
    """The cache that huggingface_hub uses, by its variables; the workspace's own place for data sets does not count."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return _expanded(os.environ[name])
    home = os.environ.get("HF_HOME")
    if home and _expanded(home) != workspace.resolve() / ".widen" / "huggingface":
        return _expanded(home) / "hub"
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def local_folder(source: Source, workspace: Path) -> Local:
    """The folder of a source without repository: a folder as it is, a snapshot of a cache's folder, or of ORG/NAME.

    Raises RecipeError for what is neither, with the places looked at, and for a revision that is not in the cache;
    InputsRefused for a snapshot that is incomplete or leads out of the cache.
    """
    if is_cached(source.path):
        return _snapshot(source, Path(os.path.normpath(workspace / source.path)))
    folder = (workspace / source.path).resolve()
    if folder.is_dir():
        if source.rev or source.commit:
            raise wrong(source, "rev", str(source.rev or source.commit), "no revision, because a local folder has none")
        return Local(folder)
    found = "a file" if folder.exists() else "nothing"
    name, cache = model_id(source.path), cache_folder(workspace)
    if name is None:
        raise RecipeError(
            f"sources.{source.name}.path: expected the folder of a checkpoint, found {found} at {folder}; "
            "correct the path, or give repo and rev"
        )
    held = cache / f"models--{name.replace('/', '--')}"
    if held.is_dir():
        return _snapshot(source, held)
    raise RecipeError(
        f"sources.{source.name}.path: {name} is no source's name, no folder ({found} at {folder}) and not in "
        f"the cache {cache}; correct it, or bring it there: `hf download {name}`, or name it under `sources` with "
        f"`repo: https://huggingface.co/{name}`"
    )


def _snapshot(source: Source, held: Path) -> Local:
    name = held.name.removeprefix("models--").replace("--", "/")
    if not (held / "snapshots").is_dir():
        raise RecipeError(
            f"sources.{source.name}.path: expected a model's folder in a cache of Hugging Face, found no snapshots in "
            f"{held}; correct the path, or `hf download {name}`"
        )
    rev = source.rev or "main"
    commit = source.commit or _commit(source, held, rev)
    folder = held / "snapshots" / commit
    _require_inside(source.name, held, folder)
    if not folder.is_dir():
        raise InputsRefused(
            f"{source.name}: {name} at {rev} is commit {commit}, of which the cache {held} has no files; bring them: "
            f"`hf download {name} --revision {commit}`"
        )
    if missing := _missing(folder):
        raise InputsRefused(
            f"{source.name}: the cache's snapshot {commit} of {name} is incomplete: {', '.join(missing[:5])} "
            f"{'is' if len(missing) == 1 else 'are'} not there; bring them: `hf download {name} --revision {commit}`"
        )
    return Local(folder.resolve(), rev, commit)


def _commit(source: Source, held: Path, rev: str) -> str:
    """A branch or tag as the cache noted it when it was downloaded, a commit, or the beginning of one."""
    if kind_of(rev) in ("name", "commit") and ".." not in PurePosixPath(rev).parts:
        with suppress(OSError, UnicodeDecodeError):
            commit = (held / "refs" / rev).read_text(encoding="ascii").strip()
            if re.fullmatch(r"[0-9a-f]{40}", commit):
                return commit
        commits = sorted(one.name for one in (held / "snapshots").iterdir() if one.name.startswith(rev.lower()))
        if len(commits) == 1 and len(rev) >= _SHORTEST:
            return commits[0]
    known = sorted(str(one.relative_to(held / "refs")) for one in (held / "refs").rglob("*") if one.is_file())
    raise wrong(source, "rev", rev, f"a branch, tag or commit that is in the cache ({', '.join(known) or 'no refs'})")


def _require_inside(name: str, held: Path, folder: Path) -> None:
    root = held.resolve()
    for path in (folder, *sorted(folder.rglob("*"))):
        if not path.resolve().is_relative_to(root):
            raise InputsRefused(
                f"{name}: {path.relative_to(held)} is a link out of the cache's folder {held}, or lies behind one; "
                "it was not followed"
            )


def _missing(folder: Path) -> list[str]:
    """What a checkpoint or an adapter needs and is not there, or a link to nothing."""
    broken = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if not path.exists()]
    needed: set[str] = set()
    if (folder / INDEX_FILE).is_file():
        with suppress(OSError, ValueError, AttributeError):  # what is wrong with it is told when it is opened
            placed = json.loads((folder / INDEX_FILE).read_bytes()).get("weight_map").values()
            needed |= {file for file in placed if isinstance(file, str) and ".." not in PurePosixPath(file).parts}
    elif not any(path.suffix in PICKLE_SUFFIXES for path in folder.iterdir()):
        needed.add(ADAPTER_FILE if (folder / ADAPTER_CONFIG_FILE).exists() else SINGLE_FILE)
    if not (folder / ADAPTER_CONFIG_FILE).exists():
        needed.add(CONFIG_FILE)
    return sorted({*broken, *(file for file in needed if not (folder / file).is_file())})
