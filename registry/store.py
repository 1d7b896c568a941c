"""Where the registry is, and how to ask it: MLflow's client behind one door, quiet, bounded in time, one error tree."""

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import NotRegistered, RegistryError, RegistryUnreachable
from registry.storage_faults import storage_errors, storage_fault

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"
_S3 = "s3://"

# Read by MLflow when it is imported or when it first asks; what the user has set is kept.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

_PROBES = 3
_PROBE_SECONDS = 5.0
_LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class Registry:
    """An MLflow registry: a SQLite file of this machine, or a server.

    `uri` is what MLflow takes; `artifact_root` is where a local registry keeps models and runs (None: the server's
    own choice), unless `bucket`, an address s3://BUCKET/PREFIX, says where new models' files go.
    """

    uri: str
    artifact_root: Path | None = None
    bucket: str | None = None

    @classmethod
    def at(cls, uri: str | None, workspace: Path, artifacts: str | None = None) -> "Registry":
        """The registry of a recipe: None is the workspace's own, relative SQLite paths count from the workspace.

        `artifacts` is where a local registry keeps files, a folder or s3://BUCKET/PREFIX; beside the database if None.
        A server keeps them where it was told to. Raises RegistryError for an address where MLflow cannot keep one.
        """
        workspace = workspace.resolve()
        if uri is None or uri.startswith(_SQLITE):
            named = ".widen/registry/mlflow.db" if uri is None else uri.removeprefix(_SQLITE)
            return cls._local(workspace / named, workspace, artifacts)
        if uri.startswith(("http://", "https://")):
            return cls(uri.rstrip("/"))
        raise RegistryError(
            f"registry {uri}: expected sqlite:///FILE, http://HOST:PORT or https://HOST; see registry.uri"
        )

    @classmethod
    def _local(cls, database: Path, workspace: Path, artifacts: str | None) -> "Registry":
        bucket = None
        root = database.parent / "artifacts"
        if artifacts is not None and artifacts.startswith(_S3):
            bucket = artifacts.rstrip("/")
        elif artifacts is not None and "://" in artifacts:
            raise RegistryError(f"artifacts {artifacts}: expected a folder or s3://BUCKET/PREFIX; see WIDEN_ARTIFACTS")
        elif artifacts is not None:
            root = workspace / artifacts
        return cls(f"{_SQLITE}{database}", root, bucket)

    @property
    def database(self) -> Path | None:
        """The SQLite file of a local registry, else None."""
        return Path(self.uri.removeprefix(_SQLITE)) if self.uri.startswith(_SQLITE) else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the only writer's lock of a local registry; a server has none to offer, so there it does nothing.

        Raises RegistryError when another process keeps it for ten minutes.
        """
        from filelock import FileLock, Timeout

        if self.database is None:
            yield
            return
        path = self.database.with_name(self.database.name + ".lock")
        _make_folder(path.parent, self.uri)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise RegistryError(f"registry {self.uri}: another process holds {path}; wait for it or end it") from error
        try:
            yield
        finally:
            lock.release()


def _make_folder(folder: Path, uri: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"registry {uri}: cannot make its folder {folder}: {error.strerror}") from error


@contextmanager
def asking(registry: Registry, create: bool = False) -> Iterator["MlflowClient"]:
    """A client of `registry`, with what goes wrong inside the block turned into this room's errors.

    A local registry that does not exist yet is made when `create` is true, else NotRegistered is raised. Raises
    RegistryUnreachable when a server does not answer, after a few tries and within half a minute, and RegistryError for
    whatever else MLflow or its database refuse.
    """
    if registry.database is None:
        probe(registry.uri)
    elif create:
        _make_folder(registry.database.parent, registry.uri)
    elif not registry.database.exists():
        raise NotRegistered(f"registry {registry.uri}: nothing has been registered there yet")
    client_type = _import_client()
    try:
        yield client_type(tracking_uri=registry.uri, registry_uri=registry.uri)
    except ModuleNotFoundError as error:
        if error.name not in ("boto3", "botocore"):
            raise
        raise RegistryError(f"{error.name} is not installed; artifacts on S3 need: pip install 'widen[s3]'") from error
    except _faults() as error:
        if registry.database is None:
            probe(registry.uri)
        raise RegistryError(f"registry {registry.uri}: {storage_fault(error, registry.bucket)}") from error


def _faults() -> tuple[type[Exception], ...]:
    """What MLflow, its database and its storage raise; asked for when something was raised, once all are imported."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, *storage_errors())


def _import_client() -> "type[MlflowClient]":
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    # A first use announces its schema migrations and a registration that it waits, which tells a user nothing.
    for name in ("mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


def probe(uri: str) -> None:
    """Raise RegistryUnreachable, naming `uri`, unless a server answers there (any answer will do)."""
    reason = ""
    for attempt in range(_PROBES):
        if attempt:
            time.sleep(0.5 * 2**attempt)
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=_PROBE_SECONDS).close()  # noqa: S310 - `at` lets only http pass
        except urllib.error.HTTPError:
            return
        except OSError as error:
            reason = str(getattr(error, "reason", error))
        else:
            return
    raise RegistryUnreachable(
        f"registry {uri}: no server answers ({reason}, {_PROBES} tries); start it, or set registry.uri to one that runs"
    )
