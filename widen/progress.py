"""Progress of the heavy passes: a bar on a terminal, plain lines elsewhere, nothing for a caller who asks for none.

Whoever wants to hear more is a further listener, told beside the first by `Together`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol, TextIO

LINE_EVERY_S = 5.0
Advance = Callable[[int], None]


class Progress(Protocol):
    """What the engine tells while it works: stages measured in bytes, and one-line notes."""

    def note(self, text: str) -> None:
        """Something worth one line."""

    def stage(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A context that yields `advance(bytes)`."""


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Ignored."""

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:
        """Counts nothing."""
        yield lambda _: None


class Plain:
    """Lines on a stream that is no terminal: at the start of a stage, every few seconds, and at its end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:
        """Prints how far the stage is, and its time when it ends."""
        started = said = time.monotonic()
        done = 0

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            if time.monotonic() - said >= LINE_EVERY_S:
                said = time.monotonic()
                self.note(f"{label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")

        yield advance
        self.note(f"{label}: {done / 1e6:,.0f} MB in {time.monotonic() - started:.1f} s")


class Bar(Plain):
    """A bar on a terminal."""

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:
        """Draws the bar with tqdm."""
        from tqdm import tqdm

        with tqdm(total=total, desc=label, unit="B", unit_scale=True, file=self._stream) as bar:

            def advance(count: int) -> None:
                bar.update(count)

            yield advance


class Together:
    """Tells every one of `listeners` the same, in their order."""

    def __init__(self, *listeners: Progress) -> None:
        self._listeners = listeners

    def note(self, text: str) -> None:
        """The same line to each."""
        for listener in self._listeners:
            listener.note(text)

    @contextmanager
    def stage(self, label: str, total: int) -> Iterator[Advance]:
        """The same stage to each."""
        with ExitStack() as stages:
            heard = [stages.enter_context(listener.stage(label, total)) for listener in self._listeners]

            def advance(count: int) -> None:
                for tell in heard:
                    tell(count)

            yield advance


silent: Progress = Silent()


def progress_on(stream: TextIO | None = None) -> Progress:
    """A bar when `stream` (standard error by default) is a terminal, else plain lines."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Plain(stream)
