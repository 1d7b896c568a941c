"""What a checkpoint's files are at a commit, by the digests that the hub itself keeps; no file of it is downloaded.

One of DVC's two doors.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.hubs import Unreachable, address, local_repository, small_files
from tasks.remembered import recall, remember
from tasks.workspace import git_bytes, is_workspace, state_folder, temporary_folder
from widen.checkpoint import (
    ADAPTER_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
    CONFIG_FILE,
    GENERATION_FILE,
    INDEX_FILE,
    SINGLE_FILE,
    TOKENIZER_FILES,
)
from widen.digests import DigestCache, digest_of
from widen.errors import EnvironmentFault

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER = 1024
_COMPANIONS = frozenset({CONFIG_FILE, GENERATION_FILE, CHAT_TEMPLATE_FILE, *TOKENIZER_FILES})
_DVC_CONFIG = ".dvc/config"


class Missing(EnvironmentFault):
    """The repository is there and does not hold the path."""


def content_at(repo: str, path: str, commit: str, workspace: Path) -> str:
    """The content of `path` at `commit` of `repo`: equal for two commits in which a merge reads the same.

    Made from DVC's digests, git-lfs's oids or git's blobs of the files that count (`counted`), by name. Remembered for
    ever. Raises `Missing` for a path that is not there, `Unreachable` for a hub or a DVC storage that does not answer.
    """
    question = ("content of files, 1", address(repo, workspace), path, commit)
    known = recall(workspace, *question)
    if known is not None:
        return known
    with small_files(repo, commit, workspace) as folder:
        digests = _digests(folder, repo, path, commit, workspace)
    if not digests:
        raise Missing(f"repository {repo} at commit {commit} has no path {path!r}")
    return remember(workspace, *question, answer=content_of(digests))


def content_in_storage(url: str, workspace: Path) -> str:
    """The content of a folder in a storage now, from what the storage lists: every file's ETag, or time, and size.

    Two listings that were found to be of the same bytes (`same_bytes`) have the same content. Raises `Missing` for a
    folder without files, `Unreachable` for a storage that does not answer.
    """
    from dvc.fs import parse_external_url
    from dvc_objects.fs.errors import RemoteMissingDepsError

    try:
        storage, path = parse_external_url(url)
        storage.fs.invalidate_cache()
        found = storage.fs.find(path, detail=True)
    except FileNotFoundError as error:
        raise Missing(f"{url} is not there: {error}") from None
    except RemoteMissingDepsError as error:
        raise EnvironmentFault(f"cannot read {url}: {error}") from None
    except Exception as error:  # noqa: BLE001 - each kind of storage raises errors of its own
        raise Unreachable(f"cannot list {url}: {error}") from None
    files = {name[len(path) :].strip("/"): _stamp(info) for name, info in found.items()}
    if not files:
        raise Missing(f"{url} holds no file")
    return equivalent(url, content_of(files), workspace)


def same_bytes(url: str, content: str, known: str, workspace: Path) -> None:
    """Remember that `content` of a storage was found, once fetched, to be the bytes that `known` stands for."""
    remember(workspace, "the same bytes as", url, content, answer=known)


def equivalent(url: str, content: str, workspace: Path) -> str:
    """What stands for `content` of a storage, if it was found to be the same bytes as another one's."""
    return recall(workspace, "the same bytes as", url, content) or content


def content_of_folder(folder: Path, workspace: Path) -> str | None:
    """The content of a local folder, from the SHA-256 of its files (read where they changed); None if it has none.

    Raises `InputsRefused` for a file that is being written.
    """
    cache = DigestCache(state_folder(workspace) / "digests" if is_workspace(workspace) else None)
    names: dict[str, Path] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names |= {(Path(place) / name).relative_to(folder).as_posix(): Path(place) / name for name in files}
    digests = {name: cache.compute(names[name]).sha256 for name in counted(names)}
    return content_of(digests) if digests else None


def content_of(digests: Mapping[str, str]) -> str:
    """One digest of the files that count, given every file's own by its path in the checkpoint's folder."""
    names = counted(digests)
    return digest_of({name: digests[name] for name in names})


def counted(names: Mapping[str, object]) -> list[str]:
    """The files that a merge uses among those of a checkpoint's folder, sorted.

    Configuration (an adapter's, where there is no model's), tokenizer and template in the folder itself, and its
    weights: the single file, or the index with every safetensors file that is not of another checkpoint, a folder
    further below with its own configuration.
    """
    found = [name for name in names if name in _COMPANIONS]
    if CONFIG_FILE not in names:
        found += [name for name in names if name == ADAPTER_CONFIG_FILE]
    if SINGLE_FILE in names:
        found.append(SINGLE_FILE)
    else:
        others = {PurePosixPath(name).parent for name in names if name.endswith(f"/{CONFIG_FILE}")}
        found += [name for name in names if name == INDEX_FILE or _is_weights(PurePosixPath(name), others)]
    return sorted(found)


def _is_weights(name: PurePosixPath, others: set[PurePosixPath]) -> bool:
    return name.suffix == ".safetensors" and not others & set(name.parents)


def _digests(folder: Path, repo: str, path: str, commit: str, workspace: Path) -> dict[str, str]:
    """Every file of `path`, by its path inside it ("" where `path` is a file itself), with the hub's digest of it."""
    blobs = _blobs(folder, commit)
    inside = {name: blob for name, blob in blobs.items() if _below(name, path) is not None}
    found = _git_digests(folder, inside)
    if any(name == _DVC_CONFIG or name.endswith(f"/{_DVC_CONFIG}") for name in blobs):
        found |= _dvc_digests(folder, repo, path, commit, workspace)
    return {str(_below(name, path)): digest for name, digest in found.items()}


def _below(name: str, path: str) -> str | None:
    """The path of file `name` inside the folder `path` of the repository; None outside."""
    if path == ".":
        return name
    if name == path:
        return ""
    return name[len(path) + 1 :] if name.startswith(f"{path}/") else None


def _blobs(folder: Path, commit: str) -> dict[str, str]:
    """Every path of the commit's tree with git's own digest of it."""
    listing = git_bytes(folder, "ls-tree", "-r", "-z", "--full-tree", commit).decode("utf-8", "backslashreplace")
    entries = (entry.split("\t", 1) for entry in listing.split("\0") if entry)
    return {name: about.split()[2] for about, name in entries}


def _stamp(info: Mapping[str, Any]) -> str:
    """What a storage says of a file: a digest or version of its own, else when it was written."""
    known = (info.get(key) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "modified"))
    return f"{next((one for one in known if one), '')} {info.get('size')}"


def _git_digests(folder: Path, blobs: Mapping[str, str]) -> dict[str, str]:
    """The blob's id, or what a git-lfs pointer says."""
    asked = "".join(f"{blob}\n" for blob in blobs.values()).encode()
    sizes = git_bytes(folder, "cat-file", "--batch-check=%(objectname) %(objectsize)", text=asked).decode().splitlines()
    small = {one.split()[0] for one in sizes if one.split()[1].isdecimal() and int(one.split()[1]) <= LONGEST_POINTER}
    pointers = dict(_pointers(folder, sorted(small)))
    return {name: pointers.get(blob, f"git:{blob}") for name, blob in blobs.items()}


def _pointers(folder: Path, blobs: list[str]) -> Iterator[tuple[str, str]]:
    rest = git_bytes(folder, "cat-file", "--batch", text="".join(f"{blob}\n" for blob in blobs).encode())
    for blob in blobs:
        head, _, rest = rest.partition(b"\n")
        size = int(head.split()[2])
        text, rest = rest[:size], rest[size + 1 :]
        oids = [line for line in text.splitlines() if line.startswith(b"oid ")]
        if text.startswith(LFS_POINTER) and oids:
            yield blob, oids[0][4:].decode("ascii", "replace")


def _dvc_digests(folder: Path, repo: str, path: str, commit: str, workspace: Path) -> dict[str, str]:
    """The files of `path` that DVC keeps, by their paths in the repository; of them only listings are fetched."""
    from dvc.api import DVCFileSystem

    try:
        with temporary_folder(workspace) as aside, _repository(folder, repo, commit, aside, workspace) as opened:
            found = DVCFileSystem(opened, subrepos=True).find("/" if path == "." else f"/{path}", detail=True)
            return {name.lstrip("/"): digest for name, info in found.items() if (digest := _digest_of_info(info))}
    except Exception as error:  # noqa: BLE001 - each kind of storage raises errors of its own
        raise Unreachable(f"cannot ask the DVC storage of {repo} at {commit} for {path}: {error}") from None


def _digest_of_info(info: Mapping[str, Any]) -> str | None:
    entry = info.get("dvc_info", {}).get("entry")
    if entry is None:
        return None
    if entry.hash_info:
        return f"{entry.hash_info.name}:{entry.hash_info.value}"
    meta = entry.meta
    return f"etag:{meta.version_id or meta.etag or meta.checksum}" if meta else None


@contextmanager
def _repository(folder: Path, repo: str, commit: str, aside: Path, workspace: Path) -> Iterator[Any]:
    """The hub as DVC sees it at `commit`, with everything that DVC writes in `aside`."""
    from dvc.repo import Repo

    local = local_repository(repo, workspace)

    def opened(root: str, fs: Any = None, **given: Any) -> Any:
        config: dict[str, Any] = {} if local is None else _own_config(local / root.lstrip("/") if fs else local)
        config.setdefault("core", {})["site_cache_dir"] = str(aside / "site")
        return Repo(root, fs=fs, config={**config, "cache": {"dir": str(aside / "cache")}}, **given)

    with opened(str(folder), rev=commit, subrepos=True, uninitialized=True, repo_factory=opened) as held:
        yield held


def _own_config(folder: Path) -> dict[str, Any]:
    """The remotes of a hub on this machine, whose addresses may be meant from its own folder; its cache without one."""
    from dvc.config import Config

    place = folder / ".dvc"
    if not place.is_dir():
        return {}
    config = Config(str(place))
    name = config["core"].get("remote")
    if name:
        return {"core": {"remote": name}, "remote": {name: config["remote"][name]}}
    cache = config["cache"].get("dir") or str(place / "cache")
    return {"core": {"remote": "own"}, "remote": {"own": {"url": str(cache)}}}
