"""fsspec, behind one door: the few calls that a merge makes of a file system elsewhere.

Options come from the environment alone: the driver's own variables (AWS_ENDPOINT_URL, AWS_PROFILE, ...) and fsspec's
configuration. Nothing is cached by the drivers: what a listing says must be so now.
"""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from widen.digests import digest_of
from widen.errors import EnvironmentFault
from widen.remote.faults import CutShort

PIECE = 1 << 20
CONNECTIONS = 32
UPLOAD_PART = 16 << 20
UPLOAD_PARTS = 9000
"""A file goes up in at most so many parts; S3 takes 10,000."""
UPLOADS = 3
"""Parts of one file on their way at once; each is held in memory."""
_ALIASES = {"azure": "az", "webdavs": "webdav"}
Put = Callable[[bytes], None]


def open_driver(url: str) -> tuple["Driver", str]:
    """The driver of a URL's storage, and the URL's path there. Raises EnvironmentFault for a driver that is missing."""
    try:
        import fsspec.core
    except ImportError as error:
        raise EnvironmentFault(
            f"{url}: fsspec is not installed; install widen[s3], widen[gcs] or widen[azure]"
        ) from error
    scheme, _, rest = url.partition("://")
    scheme = _ALIASES.get(scheme, scheme)
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise EnvironmentFault(f"{url}: {_missing(scheme, error)}") from error
    if scheme == "s3":
        driver: Driver = _s3(os.getpid(), _environment())
        return driver, str(kind._strip_protocol(f"s3://{rest}"))
    files, path = fsspec.core.url_to_fs(f"{scheme}://{rest}", skip_instance_cache=True, use_listings_cache=False)
    return Driver(files), path


@lru_cache(maxsize=1)
def _s3(process: int, environment: str) -> "S3Driver":
    """One client for all folders: making one takes longer than many a request."""
    import fsspec

    config = {"max_pool_connections": CONNECTIONS, **_retries()}
    options = {"skip_instance_cache": True, "use_listings_cache": False, "config_kwargs": config}
    return S3Driver(fsspec.filesystem("s3", **options), (process, environment))


def _environment() -> str:
    """A digest of what the client's options come from: with another environment it is another client."""
    told = sorted((name, value) for name, value in os.environ.items() if name.startswith(("AWS_", "FSSPEC_")))
    return digest_of(told)


def _retries() -> dict[str, Any]:
    """botocore tries again on its own, with growing pauses, unless the environment says how often."""
    if "AWS_MAX_ATTEMPTS" in os.environ or "AWS_RETRY_MODE" in os.environ:
        return {}
    return {"retries": {"mode": "standard", "total_max_attempts": 5}}


def _missing(scheme: str, error: Exception) -> str:
    packages = {"s3": "s3fs (widen[s3])", "gs": "gcsfs (widen[gcs])", "gcs": "gcsfs (widen[gcs])"}
    packages |= dict.fromkeys(("az", "abfs"), "adlfs (widen[azure])")
    if isinstance(error, ValueError):
        return f"fsspec knows no storage {scheme}://; expected s3://, gs://, az:// or another of its schemes"
    package = packages.get(scheme) or str(error).partition("\n")[0]
    return f"the driver for {scheme}:// is not installed; it needs {package}"


class Driver:
    """Any file system of fsspec's."""

    conditional = False
    """Whether a read fails, on its own, for an object that is no longer the one."""

    def __init__(self, files: Any) -> None:
        self.files = files

    def ls(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and description of what lies directly in a folder."""
        for found in self.files.ls(path, detail=True):
            name = str(found["name"]).rstrip("/").rpartition("/")[2]
            if str(found["name"]).rstrip("/") != path.rstrip("/"):
                yield name, found

    def info(self, path: str) -> dict[str, Any]:
        """What the storage says of one object now. Raises FileNotFoundError."""
        found: dict[str, Any] = self.files.info(path)
        return found

    def read(self, path: str, start: int, stop: int, tag: str, put: Put) -> None:
        """Bytes `start` to `stop` of an object, in pieces, in order."""
        put(self.files.cat_file(path, start=start, end=stop))

    def read_all(self, path: str) -> bytes:
        """A small object, whole."""
        data: bytes = self.files.cat_file(path)
        return data

    def upload(self, local: Path, path: str) -> None:
        """A file of this machine."""
        self._make_room(path)
        self.files.put_file(str(local), path)

    def write(self, path: str, data: bytes) -> None:
        """A small object, whole or not at all where the storage can."""
        self._make_room(path)
        self.files.pipe_file(path, data)

    def copy(self, path: str, target: str) -> None:
        """Within the storage."""
        self._make_room(target)
        self.files.cp_file(path, target)

    def remove(self, path: str) -> None:
        """An object, or a folder with all that is in it."""
        self.files.rm(path, recursive=True)

    def unfinished(self, path: str) -> list[tuple[str, str]]:
        """Path and name of each upload below `path` that was begun in parts and neither ended nor given up."""
        return []

    def give_up(self, path: str, upload: str) -> None:
        """Remove what such an upload has stored."""

    def _make_room(self, path: str) -> None:
        self.files.makedirs(path.rpartition("/")[0], exist_ok=True)


class S3Driver(Driver):
    """s3fs: reads under `If-Match`, uploads in parts of bounded memory."""

    conditional = True

    def __init__(self, files: Any, of: tuple[int, str]) -> None:
        """of: the process and the environment that it is good for."""
        super().__init__(files)
        self.of = of
        files.retries = 1  # botocore's own are enough: two loops would multiply

    def info(self, path: str) -> dict[str, Any]:
        """By a request of its own, which tells a missing bucket from a missing object where S3 does."""
        found: dict[str, Any] = self.files.info(path, refresh=True)
        if found["type"] != "file":
            raise FileNotFoundError(path)
        return found

    def read(self, path: str, start: int, stop: int, tag: str, put: Put) -> None:
        """One request; the answer is handed on while it comes in."""
        from fsspec.asyn import sync

        bucket, key, _ = self.files.split_path(path)
        asked = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}", "IfMatch": f'"{tag}"'}
        sync(self.files.loop, _stream, self.files, asked, put)

    def upload(self, local: Path, path: str) -> None:
        """In parts, of which a few are on their way at once."""
        part = max(UPLOAD_PART, -(-local.stat().st_size // UPLOAD_PARTS))
        self.files.put_file(str(local), path, chunksize=part, max_concurrency=UPLOADS)

    def unfinished(self, path: str) -> list[tuple[str, str]]:
        """S3 keeps the parts of a killed upload until they are given up."""
        bucket, key, _ = self.files.split_path(path)
        found = self.files.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{key.rstrip('/')}/")
        return [(f"{bucket}/{one['Key']}", one["UploadId"]) for one in found.get("Uploads", [])]

    def give_up(self, path: str, upload: str) -> None:
        """Its parts are removed."""
        bucket, key, _ = self.files.split_path(path)
        self.files.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)

    def _make_room(self, path: str) -> None:
        """S3 has no folders."""


async def _stream(files: Any, asked: dict[str, Any], put: Put) -> None:
    answer = await files._call_s3("get_object", **asked)  # the same call as `call_s3`, within the loop
    body = answer["Body"]
    try:
        async for piece in body.iter_chunks(PIECE):
            put(piece)
    except Exception as error:
        raise CutShort from error
    finally:
        body.close()
