"""Lanes of a GPU: a stream, pinned buffers and a share of the device's memory, and the bytes that move through them."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

LANES_A_DEVICE = 8
LARGEST_UNIT = 16 << 20
SMALLEST_UNIT = 1 << 20
UNITS_A_LANE = 6
"""Two buffers of one unit for what comes back, two of two units for what goes in."""


class Event(Protocol):
    """A point in a stream."""

    def synchronize(self) -> None:
        """Wait until everything before it is done."""


class Place(Protocol):
    """Where a lane computes."""

    device: "torch.device"

    def active(self) -> AbstractContextManager[None]:
        """Work that is started in the block goes to this device and this stream."""

    def pinned(self, size: int) -> "torch.Tensor":
        """uint8 (size,) of host memory that the device reads and writes by itself."""

    def mark(self) -> Event | None:
        """A point after all work started so far; None where nothing runs asynchronously."""


class CudaPlace:
    """A CUDA device and a stream of its own."""

    def __init__(self, index: int) -> None:
        import torch

        self.device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self.device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes device and stream the thread's current ones."""
        import torch

        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            yield

    def pinned(self, size: int) -> "torch.Tensor":
        """Page-locked memory. torch rounds its size up to a power of two: `unit_size` gives such sizes."""
        import torch

        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def mark(self) -> Event:
        """An event that sleeps while it waits: the processor belongs to the lanes that hash and write."""
        import torch

        event = torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return event


class HostPlace:
    """The processor, for kernels that run in Triton's interpreter."""

    def __init__(self) -> None:
        import torch

        self.device = torch.device("cpu")

    def active(self) -> AbstractContextManager[None]:
        """The interpreter computes in NumPy, which would warn of infinities that a GPU passes in silence."""
        return np.errstate(all="ignore")

    def pinned(self, size: int) -> "torch.Tensor":
        """Ordinary memory."""
        import torch

        return torch.empty(size, dtype=torch.uint8)

    def mark(self) -> None:
        """Everything is done when it returns."""


@dataclass
class Buffer:
    """Pinned bytes, and when the copy that uses them is done."""

    tensor: "torch.Tensor"
    used: Event | None = None

    @cached_property
    def array(self) -> NDArray[np.uint8]:
        """The same bytes for NumPy."""
        array: NDArray[np.uint8] = self.tensor.numpy()
        return array

    def wait(self) -> None:
        """Until the last copy from or to it is done."""
        if self.used is not None:
            self.used.synchronize()
            self.used = None


@dataclass
class Lane:
    """One tensor's way to the device and back. Used by one thread at a time; allocates its buffers at first use.

    unit: bytes of a buffer back; a buffer in has two. share: bytes of device memory that a tensor may take.
    """

    place: Place
    unit: int
    share: int
    _inward: Iterator[Buffer] | None = field(default=None, init=False)
    _outward: Iterator[Buffer] | None = field(default=None, init=False)

    def upload(self, source: NDArray[Any]) -> "torch.Tensor":
        """A copy on the device of a flat array of 2, 4 or 8 byte items, the same bits as int16, int32 or float64.

        The host copies into one buffer while the device reads the other. Returns before the last bytes have arrived;
        work that is started later in this lane finds them.
        """
        import torch

        kind = {2: torch.int16, 4: torch.int32, 8: torch.float64}[source.dtype.itemsize]
        if self._inward is None:
            self._inward = self._buffers(2 * self.unit)
        data = source.view(np.uint8)
        with self.place.active():
            target = torch.empty(source.size, dtype=kind, device=self.place.device)
            raw = target.view(torch.uint8)
            for start in range(0, data.size, 2 * self.unit):
                span = data[start : start + 2 * self.unit]
                buffer = next(self._inward)
                buffer.wait()
                np.copyto(buffer.array[: span.size], span)
                raw[start : start + span.size].copy_(buffer.tensor[: span.size], non_blocking=True)
                buffer.used = self.place.mark()
        return target

    def download(self, source: "torch.Tensor") -> Iterator[NDArray[np.uint8]]:
        """The bytes of a flat tensor, block by block; a block is good until the next is asked for.

        The next block is on its way while the caller works on the last.
        """
        import torch

        raw = source.view(torch.uint8)
        coming: deque[tuple[Buffer, int]] = deque()
        for start in range(0, raw.numel(), self.unit):
            coming.append(self._fetch(raw[start : start + self.unit]))
            if len(coming) > 1:
                yield _arrived(*coming.popleft())
        for buffer, size in coming:
            yield _arrived(buffer, size)

    def release(self) -> None:
        """Give the pinned buffers back; the next use allocates new ones."""
        self._inward = self._outward = None

    def _fetch(self, raw: "torch.Tensor") -> tuple[Buffer, int]:
        if self._outward is None:
            self._outward = self._buffers(self.unit)
        buffer = next(self._outward)
        with self.place.active():
            buffer.tensor[: raw.numel()].copy_(raw, non_blocking=True)
            buffer.used = self.place.mark()
        return buffer, raw.numel()

    def _buffers(self, size: int) -> Iterator[Buffer]:
        with self.place.active():
            return cycle([Buffer(self.place.pinned(size)) for _ in range(2)])


def _arrived(buffer: Buffer, size: int) -> NDArray[np.uint8]:
    buffer.wait()
    return buffer.array[:size]


def lane_count(devices: int, memory: int) -> int:
    """As many lanes as processors can feed and `memory` bytes can stage."""
    return max(1, min(LANES_A_DEVICE * devices, len(os.sched_getaffinity(0)), memory // (UNITS_A_LANE * SMALLEST_UNIT)))


def unit_size(lanes: int, memory: int) -> int:
    """Bytes of a lane's unit, a power of two, such that all lanes stage within `memory` bytes."""
    return min(LARGEST_UNIT, 1 << max(12, (memory // (lanes * UNITS_A_LANE)).bit_length() - 1))


def make_lanes(places: Sequence[Place], memory: int, share: int) -> list[Lane]:
    """One lane a place. memory: host bytes for all of them; share: device bytes for each."""
    unit = unit_size(len(places), memory)
    return [Lane(place, unit, share) for place in places]
