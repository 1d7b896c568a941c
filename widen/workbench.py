"""What a merge may use, and what it works with: the plan of its inputs, and an engine on its device."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from widen.arrangement import Folder, arranged
from widen.backend import open_backend
from widen.checkpoint import Checkpoint
from widen.checks import Problem
from widen.contents import Contents
from widen.engine import Engine
from widen.errors import EnvironmentFault
from widen.memory import MemoryBudget, default_budget
from widen.outlook import remember_rates
from widen.plan import MergePlan
from widen.profile import Profile
from widen.progress import Progress, silent
from widen.remote.address import is_url
from widen.remote.cache import FOLDER as REMOTE_FOLDER
from widen.remote.cache import RemoteCache, remote_cache
from widen.settings import Settings
from widen.statistics import StatisticsStore


@dataclass(frozen=True)
class Resources:
    """What a merge may use; none of it changes a byte of the result.

    device: auto, cpu or cuda. threads: of the CPU, all by default. memory: budget in bytes, a quarter of what is
    available by default. cache: a folder for digests, statistics and descriptions of architectures; without it nothing
    is kept between calls. remote_cache: bytes of it for what is fetched from storages, 20 GB by default.
    """

    device: str = "auto"
    threads: int | None = None
    memory: int | None = None
    cache: Folder | None = None
    remote_cache: int | None = None

    @property
    def remote(self) -> RemoteCache:
        """Where what is fetched from storages lies, and how much of it may."""
        return remote_cache(self.kept(REMOTE_FOLDER), self.remote_cache)

    def kept(self, name: str) -> Path | None:
        """A part of the cache. Raises EnvironmentFault when the cache cannot be written."""
        if not self.cache:
            return None
        try:
            Path(self.cache).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"cache {self.cache}: cannot be made ({error.strerror}); choose another") from error
        if not os.access(self.cache, os.W_OK | os.X_OK):
            raise EnvironmentFault(f"cache {self.cache}: cannot be written; choose another")
        return Path(self.cache) / name


DEFAULT_RESOURCES = Resources()


def planned(
    sources: Sequence[Folder | Checkpoint],
    settings: Settings,
    allow_config: Sequence[str],
    resources: Resources,
    progress: Progress = silent,
) -> AbstractContextManager[tuple[MergePlan, list[Problem]]]:
    """`arranged`, with what it computes kept where `resources` say."""
    overlays, architectures = resources.kept("overlays"), resources.kept("architectures")
    remote = resources.remote if any(is_url(one) for one in sources) else None
    return arranged(sources, settings, allow_config, overlays, architectures, progress, remote)


@contextmanager
def open_engine(resources: Resources, progress: Progress, profile: Profile) -> Iterator[Engine]:
    """An engine on the device, with what the cache knows; it keeps what it learnt, however the block ends."""
    contents, store = Contents(resources.kept("contents")), StatisticsStore(resources.kept("statistics"))
    memory = resources.memory or default_budget()
    backend = open_backend(resources.device, resources.threads, memory // 2, progress)
    # A GPU's pinned buffers take half of the budget; the CPU backend holds nothing of its own.
    budget = MemoryBudget(memory if backend.name == "cpu" else memory // 2)
    try:
        yield Engine(backend, budget, contents, store, progress, profile)
    finally:
        contents.save()
        store.close()
        backend.close()
    for line in store.origins():
        progress.note(line)
    if backend.name == "cpu" and resources.cache:
        remember_rates(profile, Path(resources.cache))
