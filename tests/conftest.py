"""How tests are dealt to workers: those of a file stay together, and so do all that need the demo; and Ctrl-C."""

import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "demo" if _needs_demo(config.rootpath / file) else file

    return ByFile(config, log)


@cache
def _needs_demo(file: Path) -> bool:
    """Whether a test in it asks for the fixture, as every one spells it."""
    return "demo: Ran" in file.read_text()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Processes begun within take a Ctrl-C, also where this one was told to ignore it, as a shell's `&` does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
