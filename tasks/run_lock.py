"""One run a workspace: a lock that the kernel frees when its holder dies, which tells a dead run from a living one."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tasks.workspace import state_folder
from widen.staging import write_atomically

log = logging.getLogger(__name__)

_PATIENCE = 0.5  # seconds: a lock that is held for moments only is held to ask whether it is
_POLL = 0.5


@contextmanager
def run_lock(workspace: Path, what: str) -> Iterator[None]:
    """Hold the workspace for a run, `what` in words, as soon as no other run does; says for whom it waits."""
    from filelock import FileLock, Timeout

    lock = FileLock(state_folder(workspace) / "run.lock")
    try:
        lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 10)
    except Timeout:
        log.info("waiting for %s", holder(workspace) or "another run")
        lock.acquire(poll_interval=_POLL)
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        write_atomically(_note(workspace), json.dumps({"what": what, "process": os.getpid(), "since": since}).encode())
        yield
    finally:
        lock.release()


def run_alive(workspace: Path) -> bool:
    """Whether a run holds the workspace."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(state_folder(workspace) / "run.lock", timeout=0):
            return False
    except Timeout:
        return True


def holder(workspace: Path) -> str | None:
    """Who holds the workspace, in words; None where nobody said, and meaningless while `run_alive` is False."""
    try:
        held = json.loads(_note(workspace).read_bytes())
        return f"{held['what']}, process {held['process']}, since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(workspace: Path) -> Path:
    return workspace / ".widen" / "run.json"
