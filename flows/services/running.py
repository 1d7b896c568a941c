"""Which services of a workspace run: each holds a lock while it lives, which the kernel frees however it ends."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep

from widen.errors import EnvironmentFault

_TRIES = 20  # who only looks holds the lock for a blink


@dataclass(frozen=True)
class Running:
    """A service that runs. `address` is where it answers, None for one that answers nowhere; `registry` is what it
    serves to recipes that name none, None where they use the workspace's own database.
    """

    name: str
    pid: int
    address: str | None = None
    registry: str | None = None


def services_folder(workspace: Path) -> Path:
    """Where a workspace's services keep configuration, credentials, locks and logs; only its owner may look inside."""
    return workspace / ".widen" / "services"


def hold(workspace: Path, service: Running) -> None:
    """Make this process the one that is `service`, through an exec and until it ends; its children do not count.

    Raises EnvironmentFault when another process is.
    """
    path = _lock(workspace, service.name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if not _locked(held):
        other = _record(held)
        os.close(held)
        told = "" if other is None else f" as process {other.pid}"
        raise EnvironmentFault(
            f"{service.name} runs already for {workspace}{told}; end that first, by `widen down` or systemctl"
        )
    os.truncate(held, 0)
    os.pwrite(held, json.dumps(asdict(service), sort_keys=True).encode(), 0)
    os.set_inheritable(held, True)


def running(workspace: Path) -> dict[str, Running]:
    """The services that run now, by name."""
    found = {}
    for path in sorted(services_folder(workspace).glob("*.running")):
        with _shared(path) as (descriptor, free):
            record = None if free else _record(descriptor)
        if record is not None:
            found[record.name] = record
    return found


def _locked(descriptor: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sleep(0.05)
        else:
            return True
    return False


@contextmanager
def _shared(path: Path) -> Iterator[tuple[int, bool]]:
    """The file, and whether nobody holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    else:
        free = True
    try:
        yield descriptor, free
    finally:
        os.close(descriptor)


def _record(descriptor: int) -> Running | None:
    """What the holder wrote; None in the blink before it does."""
    try:
        return Running(**json.loads(os.pread(descriptor, 65_536, 0)))
    except (TypeError, ValueError):
        return None


def _lock(workspace: Path, name: str) -> Path:
    return services_folder(workspace) / f"{name}.running"
