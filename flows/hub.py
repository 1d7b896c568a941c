"""A stand-in for upstream: a git repository with checkpoints that DVC tracks, released by tags."""

import os
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path

from widen.errors import EnvironmentFault, OutputExists

_FIRST = "v1"
_CHECKPOINTS = {"base": "base", "tagger": "tagger-v1", "indonesian": "indonesian"}
_STORAGE = ".dvc-storage"
_EPOCH = 1_750_000_000  # the first commit's time; each later one adds a minute, so that commits can be made again
_AUTHOR = {"NAME": "Upstream Models", "EMAIL": "models@upstream.example"}


def make_hub(folder: Path, quickstart: Path) -> Path:
    """Make `folder` an upstream repository with the quickstart's checkpoints, tagged v1; returns its resolved path.

    It holds checkpoints/base, checkpoints/tagger (the first release) and checkpoints/indonesian; their files lie in its
    DVC storage, and only there can an import find them. The same data give the same commits. A hub that exists is
    returned as it is; any other folder with something in it raises `OutputExists`.
    """
    folder = folder.resolve()
    if _commit_of(folder, _FIRST) is not None:
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise OutputExists(f"{folder} is not empty and no model hub; name a new or empty folder")
    making = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    _set_up(making)
    sources = {name: quickstart / "checkpoints" / source for name, source in _CHECKPOINTS.items()}
    _publish(making, sources, _FIRST, "First release of base, tagger and indonesian")
    making.rename(folder)
    return folder


def release(hub: Path, tag: str, checkpoint: str, source: Path) -> str:
    """Publish the files of `source` as checkpoints/`checkpoint` of `hub` under `tag`; returns the tag's commit.

    A tag that exists is left where it is, and its commit returned.
    """
    hub = hub.resolve()
    return _commit_of(hub, tag) or _publish(hub, {checkpoint: source}, tag, f"Release {checkpoint} {tag}")


def next_tag(hub: Path) -> str:
    """The first of v1, v2, ... that the hub does not have yet."""
    taken = set(_run(hub, "git", "tag", "--list").split())
    return next(tag for number in count(1) if (tag := f"v{number}") not in taken)


def publish_text(hub: Path, tag: str, name: str, text: str) -> str:
    """Commit a file of text at the hub's root under `tag`; returns the commit. No checkpoint changes."""
    hub = hub.resolve()
    (hub / name).write_text(text, encoding="utf-8")
    return _commit(hub, tag, f"Change {name}")


def _set_up(hub: Path) -> None:
    _run(hub, "git", "init", "--quiet", "--initial-branch=main")
    _dvc(hub, "init")
    (hub / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n    remote = storage\n"
        f"['remote \"storage\"']\n    url = ../{_STORAGE}\n"
        '[cache]\n    type = "hardlink,symlink"\n'
    )
    (hub / ".gitignore").write_text(f"/{_STORAGE}\n")


def _publish(hub: Path, sources: dict[str, Path], tag: str, message: str) -> str:
    """Track `sources` as checkpoints, push their files to the storage, then commit and tag."""
    for name, source in sources.items():
        _copy(source, hub / "checkpoints" / name)
    _dvc(hub, "add", *(f"checkpoints/{name}" for name in sources))
    _dvc(hub, "push")
    shutil.rmtree(hub / ".dvc" / "cache")
    return _commit(hub, tag, message)


def _commit(hub: Path, tag: str, message: str) -> str:
    _run(hub, "git", "add", "--all")
    _run(hub, "git", "commit", "--quiet", "--allow-empty", "--message", message)
    _run(hub, "git", "tag", tag)
    return _run(hub, "git", "rev-parse", f"{tag}^{{commit}}")


def _copy(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise EnvironmentFault(f"no checkpoint at {source}; expected a folder of the quickstart's data")
    shutil.rmtree(target, ignore_errors=True)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)  # not copytree: it copies a read-only folder's mode
        shutil.copyfile(file, copy)


def _commit_of(hub: Path, tag: str) -> str | None:
    if not (hub / ".git").is_dir() or not (hub / _STORAGE).is_dir():
        return None
    return _run(hub, "git", "tag", "--list", "--format=%(objectname)", tag) or None


def _dvc(hub: Path, *arguments: str) -> str:
    return _run(hub, sys.executable, "-m", "dvc", *arguments)


def _run(hub: Path, *command: str) -> str:
    """The output of `command` in the hub, untouched by this machine's git configuration."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(hub / ".dvc" / "tmp" / "site"),
    }
    if command[:2] == ("git", "commit"):
        environment |= _signature(hub)
    done = subprocess.run(command, cwd=hub, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise EnvironmentFault(f"`{' '.join(command)}` failed in {hub}: {done.stderr.strip()}")
    return done.stdout.strip()


def _signature(hub: Path) -> dict[str, str]:
    commits = _run(hub, "git", "rev-list", "--all", "--count")
    date = {"DATE": f"{_EPOCH + 60 * int(commits)} +0000"}
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in (_AUTHOR | date).items()}
