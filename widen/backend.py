"""The two signatures that every device offers, and how one is chosen: by name, or by `auto`, which says which."""

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from widen.dtypes import StorageType
from widen.errors import EnvironmentFault, RecipeError
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.progress import Progress, silent

Device = Literal["auto", "cpu", "cuda"]


class Backend(Protocol):
    """A device's two passes. Every backend returns the same bits for the same arguments."""

    name: str

    def __enter__(self) -> "Backend": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def measure(self, base: StoredTensor, model: StoredTensor, geometry: Geometry) -> ColumnSums:
        """Pass 1 on one tensor of one (base, model) pair."""

    def combine(
        self,
        base: StoredTensor,
        models: Sequence[StoredTensor],
        weights: NDArray[np.float64],
        geometry: Geometry,
        out_type: StorageType,
    ) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2 on one tensor: the merged bits, block by block, in storage order."""


def require_device(device: str) -> None:
    """Raise RecipeError for a device that has no meaning, EnvironmentFault for one that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device {device!r} is unknown; expected auto, cpu or cuda")
    if device == "cuda":
        raise EnvironmentFault(
            "device cuda: this version merges on the CPU only; use --device cpu, the bytes are the same"
        )


def open_backend(device: str = "auto", threads: int | None = None, progress: Progress = silent) -> Backend:
    """The backend for `device`. threads: of the CPU backend, all allowed processors by default.

    Raises RecipeError for an unknown device or thread count, EnvironmentFault for a device that is not there.
    """
    require_device(device)
    if threads is not None and threads < 1:
        raise RecipeError(f"threads must be at least 1, found {threads}")
    from widen.kernels.cpu import CpuBackend

    count = threads or len(os.sched_getaffinity(0))
    if device == "auto":
        progress.note(f"device auto: cpu with {count} threads (this version has no other backend)")
    return CpuBackend(count)
