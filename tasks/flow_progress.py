"""The progress of a task on its flow run's page: a listener to the engine, told beside the bar on the terminal.

A thread of its own sends at most one update a second, so that no merge waits for a server, however slow or gone.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from tasks.artifacts import within_flow
from widen.progress import Advance, Progress, Silent, silent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger(__name__)

PAUSE_S = 1.0
LAST_WORD_S = 10.0
Words = Callable[[int, int], str]


def megabytes(done: int, total: int) -> str:
    """Bytes for people."""
    return f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"


@contextmanager
def flow_progress(key: str, words: Words = megabytes) -> Iterator[Progress]:
    """A listener whose stages are drawn as one progress artifact under `key`; silent outside of a flow run.

    `words` tells how far a stage is. Stages come one after the other; each begins at nothing. What was noted stays in
    the artifact's description. Nothing is raised for a server that does not answer: it is a warning.
    """
    if not within_flow():
        yield silent
        return
    told = _Told(key, words)
    try:
        yield told
    except BaseException:
        told.close(ended=False)
        raise
    told.close(ended=True)


class _Told(Silent):
    """Holds what is to be said, and a thread that says it."""

    def __init__(self, key: str, words: Words) -> None:
        self._key, self._words, self._notes = key, words, list[str]()
        self._now, self._sent = (0.0, "begun"), (0.0, "begun")
        self._over = threading.Event()
        self._artifact = self._create()
        # With the run's context, which says where its server is.
        run = partial(copy_context().run, self._send)
        self._sender = threading.Thread(target=run, name="widen-progress", daemon=True)
        if self._artifact is not None:
            self._sender.start()

    def note(self, text: str) -> None:
        """Kept for the description."""
        self._notes.append(text)

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:
        """From nothing to `total`."""
        done = 0
        self._say(0.0, f"{label}: {self._words(0, total)}")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._say(min(100.0, 100.0 * done / max(1, total)), f"{label}: {self._words(done, total)}")

        yield advance
        self._notes.append(f"{label}: {self._words(done, total)}")

    def close(self, ended: bool) -> None:
        """The last word: all of it when it `ended` well, else where it stopped."""
        share, text = self._now
        self._say(
            100.0 if ended else share, "\n\n".join(self._notes if ended else [*self._notes, f"stopped at {text}"])
        )
        self._over.set()
        if self._artifact is not None:
            self._sender.join(LAST_WORD_S)

    def _say(self, share: float, text: str) -> None:
        self._now = (round(share, 1), text)

    def _create(self) -> UUID | None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactCreate
        from prefect.utilities.context import get_task_and_flow_run_ids

        task_run, flow_run = get_task_and_flow_run_ids()
        asked = ArtifactCreate(
            type="progress", key=self._key, description="begun", data=0.0, task_run_id=task_run, flow_run_id=flow_run
        )
        try:
            with get_client(sync_client=True) as client:
                return client.create_artifact(asked).id
        except _faults() as error:
            self._warn(error)
            return None

    def _send(self) -> None:
        from prefect.client.orchestration import get_client

        try:
            with get_client(sync_client=True) as client:  # one connection for all updates
                while not self._over.wait(PAUSE_S):
                    self._update(client)
                self._update(client)
        except _faults() as error:
            self._warn(error)

    def _update(self, client: "SyncPrefectClient") -> None:
        from prefect.client.schemas.actions import ArtifactUpdate

        if (now := self._now) != self._sent:
            assert self._artifact is not None
            client.update_artifact(self._artifact, ArtifactUpdate(data=now[0], description=now[1]))
            self._sent = now

    def _warn(self, error: Exception) -> None:
        log.warning("the flow run's page lacks %s: %s: %s", self._key, type(error).__name__, error)


def _faults() -> tuple[type[Exception], ...]:
    """What asking a server that is gone raises; a RuntimeError is that of one that was to be started."""
    from httpx import HTTPError
    from prefect.exceptions import PrefectException

    return HTTPError, PrefectException, RuntimeError
