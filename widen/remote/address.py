"""The address of a folder in a storage: which text is one, and which is refused."""

import re

from widen.errors import RecipeError

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
_NO_FOLDERS = ("http", "https", "ftp", "data")
"""Schemes that fsspec knows and that cannot list a folder, or only guess at it."""


def is_url(place: object) -> bool:
    """Whether a place is the URL of a folder in a storage. A `Path` is always a folder of this machine."""
    return isinstance(place, str) and _URL.match(place) is not None


def require_address(url: str) -> str:
    """The URL without a slash at its end. Raises RecipeError for what is no folder's address, or holds a secret."""
    match = _URL.match(url)
    assert match is not None, url
    where, _, folder = url[match.end() :].partition("/")
    local = match["scheme"] in ("file", "memory")
    if "@" in where and (":" in where.split("@")[0] or match["scheme"] not in ("ssh", "sftp", "az", "abfs")):
        raise _wrong(url, "a URL without a key or password; the environment supplies those")
    if match["scheme"].lower() in _NO_FOLDERS:
        raise _wrong(url, "a storage whose folders can be listed, such as s3://, gs:// or az://")
    bad = ".." in folder.split("/") or set(url) & set("?#*[]\\") or any(ord(letter) < 32 for letter in url)
    if bad or not (where or local) or not folder.strip("/"):
        raise _wrong(url, f"{match['scheme']}://PLACE/FOLDER, without '..' and none of ? # * [ ] \\")
    return url.rstrip("/")


def join(url: str, name: str) -> str:
    """The address of what is called `name` in a folder."""
    return f"{url.rstrip('/')}/{name}"


def last_part(url: str) -> str:
    """A folder's own name."""
    return url.rstrip("/").rpartition("/")[2]


def shown(url: str) -> str:
    """An address without what may be a password in it."""
    return re.sub(r"[?#].*", "?...", re.sub(r"//[^/@]*@", "//...@", url), flags=re.DOTALL)


def _wrong(url: str, expected: str) -> RecipeError:
    return RecipeError(f"{shown(url)}: expected {expected}")
