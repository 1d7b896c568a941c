"""A source: a checkpoint's address in a recipe, refused where it could mean something else, and what was fetched."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks.revision import kind_of, mistake
from widen.errors import RecipeError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REMOTE_HELPER = re.compile(r"[A-Za-z0-9+.-]+::")  # ext::sh -c ...
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
STORAGES = ("s3", "gs", "azure", "oss", "webdav", "webdavs", "ssh", "hdfs", "webhdfs")
"""What `path` may begin with where it is no local folder: those that DVC imports from and that can list a folder."""
_SECRET_IN_URL = re.compile(r"https?://[^/@]+@|[A-Za-z][A-Za-z0-9+.-]*://[^/@:]*:[^/@]*@")


@dataclass(frozen=True)
class Source:
    """A checkpoint as a recipe names it: `path` in the git repository `repo` at `rev`.

    Without repo, `path` is a local folder, a model's folder in a cache of Hugging Face (`.../models--ORG--NAME`) or its
    ORG/NAME there, both with a `rev`, or the URL of a folder in a storage (`s3://BUCKET/FOLDER`). Relative paths are
    meant from the workspace folder. `rev` is a branch, a tag, a full or short commit, a pattern of
    tags or a range of versions (`tasks.revision`); without one, the repository's default branch. With `commit`, exactly
    that commit is fetched, and `rev` is only the name recorded for it.
    """

    name: str
    path: str
    repo: str | None = None
    rev: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class Fetched:
    """A source on this machine: `folder` holds the checkpoint, and nobody writes in it.

    `rev` is the branch, tag or commit that was chosen and `commit` the one that is held: where a later commit of `rev`
    holds the same content, an earlier one stays. `content` is DVC's digest of the folder, `upstream` that of the files
    that count, made from the hub's own (`tasks.upstream.Pin.content`; None where the hub could not be asked). A local
    folder has only `upstream`, one in a cache of Hugging Face also `rev` and `commit`, one in a storage also `content`.
    """

    name: str
    folder: Path
    path: str
    repo: str | None
    rev: str | None
    commit: str | None
    content: str | None
    upstream: str | None = None


def is_cached(path: str) -> bool:
    """Whether a path is a model's folder in a cache of Hugging Face, by its name."""
    return re.fullmatch(r"models(?:--[A-Za-z0-9][A-Za-z0-9._-]*){1,2}", PurePosixPath(path).name) is not None


def model_id(path: str) -> str | None:
    """ORG/NAME as Hugging Face writes it, where a path could be one."""
    return path if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", path) else None


def is_url(path: str) -> bool:
    """Whether a source without repository lies in a storage, not in a local folder."""
    return _URL.match(path) is not None


def path_mistake(path: str, in_repository: bool) -> str | None:
    """What is wrong with `path` as it is written, as the words after "expected"; None for nothing."""
    if not path or path.startswith("-") or any(ord(character) < 32 for character in path):
        return "a path that is not empty and does not start with '-'"
    if in_repository:
        outside = PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or is_url(path)
        return "a path inside the repository" if outside else None
    url = _URL.match(path)
    if url is None:
        return None
    if url["scheme"] not in STORAGES:
        return f"a local folder, or a folder in a storage: {', '.join(f'{one}://' for one in STORAGES)}"
    where, _, folder = path[url.end() :].partition("/")
    if "@" in where and (":" in where.split("@")[0] or url["scheme"] != "ssh"):
        return "a URL without a key or password; the environment supplies those"
    if not where or not folder.strip("/") or ".." in PurePosixPath(folder).parts or set(path) & set("?#*[]\\"):
        return f"{url['scheme']}://PLACE/FOLDER, without '..' and none of ? # * [ ] \\"
    return None


def shown(path: str) -> str:
    """An address without what may be a password in it."""
    return re.sub(r"[?#].*", "?...", re.sub(r"//[^/@]*@", "//...@", path), flags=re.DOTALL)


def refuse_unsafe(source: Source) -> None:
    """Raise `RecipeError` for a source whose name, repository, path or revision could be read as something else."""
    if not _NAME.fullmatch(source.name) or source.name.endswith(".dvc"):
        allowed = "letters, digits, '.', '_' and '-', not starting with '.' or '-' nor ending with '.dvc'"
        raise wrong(source, "name", source.name, allowed)
    expected = path_mistake(source.path, source.repo is not None)
    if expected is not None:
        raise wrong(source, "path", shown(source.path), expected)
    if source.repo is None:
        asked = source.rev is not None or source.commit is not None
        if asked and not is_cached(source.path) and model_id(source.path) is None:
            told = "no revision, because a local folder or a storage has none (name its repo)"
            raise wrong(source, "rev", source.rev or str(source.commit), told)
    else:
        _refuse_unsafe_repository(source, source.repo)
    expected = None if source.rev is None else mistake(source.rev)
    if expected is not None:
        raise wrong(source, "rev", str(source.rev), expected)
    if source.commit is not None and kind_of(source.commit) != "commit":
        raise wrong(source, "commit", source.commit, "a full commit")


def wrong(source: Source, key: str, found: str, expected: str) -> RecipeError:
    """The error that says so of a key of this source."""
    return RecipeError(f"sources.{source.name}.{key}: expected {expected}, found {found!r}")


def _refuse_unsafe_repository(source: Source, repo: str) -> None:
    if not repo or repo.startswith("-") or _REMOTE_HELPER.match(repo) or any(ord(character) < 32 for character in repo):
        raise wrong(source, "repo", repo, "a path or URL of a git repository, no option and no remote helper ('::')")
    if _SECRET_IN_URL.match(repo):
        # The address is committed to the workspace and written in every record of the merge.
        expected = "a URL without a password or token; git's credential helper supplies those"
        raise wrong(source, "repo", shown(repo), expected)
