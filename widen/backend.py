"""What every device offers, and how one is chosen: by name, or by `auto`, which says which and why."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from widen.combination import Combination
from widen.dtypes import StorageType
from widen.errors import EnvironmentFault, RecipeError
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.memory import default_budget
from widen.progress import Progress, silent

Device = Literal["auto", "cpu", "cuda"]


class Resident(Protocol):
    """One tensor of the base and of every model, where the backend computes. Models are numbered from 0."""

    def measure(self, model: int, against: int | None = None) -> ColumnSums:
        """Pass 1 of a model against the base, or against another model."""

    def combine(self, combination: Combination, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2: the merged bits, block by block, in storage order; a block is good until the next is asked for."""


class Backend(Protocol):
    """A device's two passes. Every backend returns the same bits for the same tensors.

    lanes: how many tensors it wants in flight at once, each from a thread of its own.
    """

    name: str
    lanes: int

    def resident(
        self, base: StoredTensor, models: Sequence[StoredTensor], geometry: Geometry
    ) -> AbstractContextManager[Resident]:
        """Bring a tensor to where it is computed, for the length of a `with` block."""

    def close(self) -> None:
        """Give back what the backend holds."""


def require_device(device: str) -> None:
    """Raise RecipeError for a device that has no meaning, EnvironmentFault for one that is not there."""
    if device not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"device {device!r} is unknown; expected auto, cpu or cuda")
    if device == "cuda" and not _has_nvidia_device():
        raise EnvironmentFault(
            "device cuda: expected an NVIDIA device, found none; use --device cpu, the bytes are the same"
        )


def uses_cuda(device: str) -> bool:
    """Whether work for `device` goes to a CUDA device on this machine, as far as its files tell."""
    return device == "cuda" or (device == "auto" and _has_nvidia_device())


def open_backend(
    device: str = "auto", threads: int | None = None, memory: int | None = None, progress: Progress = silent
) -> Backend:
    """The backend for `device`. threads: lanes of the CPU backend, all allowed processors by default.

    memory: the host's budget in bytes. Raises RecipeError for an unknown device or thread count, EnvironmentFault for a
    device that is not there.
    """
    require_device(device)
    if threads is not None and threads < 1:
        raise RecipeError(f"threads must be at least 1, found {threads}")
    if device == "cuda":
        return _cuda(memory)
    why = ""
    if device == "auto" and _has_nvidia_device():
        try:
            backend = _cuda(memory)
        except EnvironmentFault as fault:
            why = f" ({fault})"
        else:
            progress.note(f"device auto: cuda with {backend.lanes} lanes")
            return backend
    from widen.kernels.cpu import CpuBackend

    lanes = threads or len(os.sched_getaffinity(0))
    if device == "auto":
        progress.note(f"device auto: cpu with {lanes} threads{why or ' (no NVIDIA device here)'}")
    return CpuBackend(lanes)


def _cuda(memory: int | None) -> Backend:
    from widen.kernels.gpu import CudaBackend

    return CudaBackend(None, memory or default_budget())


def _has_nvidia_device() -> bool:
    """Asked of the file system, because asking torch costs a second of imports."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
