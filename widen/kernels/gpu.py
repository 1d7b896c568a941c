"""The CUDA backend: tensors through pinned buffers to one GPU or several, the kernels on them, the merged bits back."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from widen.combination import Combination, Weighted
from widen.dtypes import F32, StorageType
from widen.errors import EnvironmentFault
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.kernels import CHUNK_ROWS
from widen.kernels.cpu import CpuResident
from widen.kernels.lanes import CudaPlace, HostPlace, Lane, Place, lane_count, make_lanes

if TYPE_CHECKING:
    import torch

    from widen.kernels.triton_kernels import Operand

USABLE = 0.9
"""Of a device's free memory: the rest is for its context, the compiled kernels and what the allocator rounds up."""

REMEDY = "use --device cpu, the bytes are the same"


class CudaBackend:
    """Both passes on GPUs. The bits depend neither on the devices nor on lanes, buffers and tiles."""

    name = "cuda"

    def __init__(self, devices: Sequence[int] | None, memory: int, device_memory: int | None = None) -> None:
        """Lanes are dealt to `devices` in turn, all visible ones by default.

        memory: host bytes for all pinned buffers together. device_memory: bytes to use of each device, most of what is
        free by default. Raises EnvironmentFault when the devices cannot be used.
        """
        indices = _usable_devices(devices)
        count = lane_count(len(indices), memory)
        places = [CudaPlace(indices[number % len(indices)]) for number in range(count)]
        available = min(_free_memory(index) for index in indices) if device_memory is None else device_memory
        from widen.kernels import triton_kernels

        self._open(triton_kernels, places, memory, available // ceil(count / len(indices)))
        self._check_arithmetic(min(count, len(indices)))

    @classmethod
    def interpreted(cls, kernels: ModuleType, lanes: int, memory: int, device_memory: int) -> "CudaBackend":
        """The same on the processor, with kernels for Triton's interpreter: for tests where there is no GPU."""
        backend = cls.__new__(cls)
        backend._open(kernels, [HostPlace() for _ in range(lanes)], memory, device_memory // lanes)
        return backend

    def _open(self, kernels: ModuleType, places: Sequence[Place], memory: int, share: int) -> None:
        self.lanes = len(places)
        self._kernels = kernels
        self._every_lane = make_lanes(places, memory, share)
        self._idle: SimpleQueue[Lane] = SimpleQueue()
        for lane in self._every_lane:
            self._idle.put(lane)

    @contextmanager
    def resident(
        self, base: StoredTensor, models: Sequence[StoredTensor], geometry: Geometry
    ) -> Iterator["CudaResident"]:
        """A tensor of the base and of every model, on the device of a lane that is free; waits for one.

        Raises EnvironmentFault when the device's memory is too small.
        """
        import torch

        lane = self._idle.get()
        resident = CudaResident(self._kernels, lane, (base, *models), geometry)
        try:
            yield resident
        except torch.cuda.OutOfMemoryError as error:
            message = f"device {lane.place.device}: expected {lane.share:,} free bytes for a tensor, found fewer"
            raise EnvironmentFault(f"{message}; end what else runs there, or {REMEDY}") from error
        finally:
            resident.release()
            self._idle.put(lane)

    def close(self) -> None:
        """Give back buffers and device memory."""
        import torch

        for lane in self._every_lane:
            lane.release()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _check_arithmetic(self, lanes: int) -> None:
        """Both passes on a few numbers on every device, against NumPy: a fused operation would show."""
        for _ in range(lanes):
            try:
                same = _agrees_with_numpy(self)
            except EnvironmentFault:
                raise
            except Exception as error:
                message = f"device cuda: expected Triton to compile for this device, found {error!r}"
                raise EnvironmentFault(f"{message}; {REMEDY}") from error
            if not same:
                message = "device cuda: expected the arithmetic of the CPU, found other bits from the compiled kernels"
                raise EnvironmentFault(f"{message}; {REMEDY}, and please report this")


@dataclass(frozen=True)
class Tile:
    """Whole matrices of a tensor, or a run of stored rows of one: contiguous in storage, with columns in sequence.

    shape: the tile as a tensor of its own. element, column: the place of its first element in the tensor's storage and
    of its first column among the (batch, columns) of the tensor.
    """

    shape: Geometry
    element: int
    column: int

    @property
    def elements(self) -> slice:
        """Its place in storage."""
        return slice(self.element, self.element + self.shape.elements)

    @property
    def columns(self) -> slice:
        """Its place among the tensor's columns."""
        return slice(self.column, self.column + self.shape.batch * self.shape.columns)


def tiles(geometry: Geometry, stored: int, models: int, room: int) -> list[Tile]:
    """Cut a tensor so that a tile takes at most `room` bytes of device memory in either pass.

    stored: bytes of one element in base, models, output and running total together. Tiles of a matrix begin at whole
    chunks of rows, so that the sums keep their order; a single chunk, or a single stored row of a transposed tensor,
    is not cut further.
    """

    def size(shape: Geometry) -> int:
        summed = shape.stored_columns if shape.transposed else shape.stored_rows
        of_a_column = 24 * ceil(summed / CHUNK_ROWS) + 24 + 8 * models
        return shape.elements * stored + shape.batch * shape.columns * of_a_column

    one = replace(geometry, batch=1)
    if geometry.elements == 0:
        return []
    if size(one) <= room:
        return list(_of_matrices(geometry, room // size(one)))
    step = min(1 if geometry.transposed else CHUNK_ROWS, geometry.stored_rows)
    return list(_of_rows(geometry, max(1, room // size(replace(one, stored_rows=step))) * step))


def _of_matrices(geometry: Geometry, count: int) -> Iterator[Tile]:
    of_one = geometry.stored_rows * geometry.stored_columns
    for first in range(0, geometry.batch, count):
        shape = replace(geometry, batch=min(count, geometry.batch - first))
        yield Tile(shape, first * of_one, first * geometry.columns)


def _of_rows(geometry: Geometry, count: int) -> Iterator[Tile]:
    for matrix in range(geometry.batch):
        for row in range(0, geometry.stored_rows, count):
            shape = replace(geometry, batch=1, stored_rows=min(count, geometry.stored_rows - row))
            element = (matrix * geometry.stored_rows + row) * geometry.stored_columns
            yield Tile(shape, element, matrix * geometry.columns + (row if geometry.transposed else 0))


class CudaResident:
    """One tensor of the base and of every model on a device: whole if it fits the lane's share, else tile by tile."""

    def __init__(self, kernels: ModuleType, lane: Lane, tensors: Sequence[StoredTensor], geometry: Geometry) -> None:
        models = len(tensors) - 1
        stored = sum(tensor.kind.itemsize for tensor in tensors) + F32.itemsize
        total = 8 if models > kernels.MODELS_AT_ONCE else 0
        self._kernels, self._lane, self._tensors, self._geometry = kernels, lane, tensors, geometry
        self._tiles = tiles(geometry, stored + total, models, lane.share)
        self._kept: dict[int, torch.Tensor] = {}

    def measure(self, model: int, against: int | None = None) -> ColumnSums:
        """Pass 1 of one model against the base, or against another; only these two are brought to the device."""
        import torch

        place, shape = self._lane.place, (3, self._geometry.batch, self._geometry.columns)
        with place.active():
            sums = torch.zeros(3 * shape[1] * shape[2], dtype=torch.float64, device=place.device)
            tally = torch.zeros(3, dtype=torch.int64, device=place.device)
        for tile in self._tiles:
            self._measure_tile(tile, (0 if against is None else against + 1, model + 1), sums, tally)
        a, p, q = self._fetch(sums).view(np.float64).reshape(shape)
        counts = self._fetch(tally).view(np.int64)
        return ColumnSums(a, p, q, int(counts[0]), int(counts[1]), float(counts[2:].view(np.float64)[0]))

    def combine(self, combination: Combination, out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        """Pass 2: the merged bits, flat, in storage order; a block is good until the next is asked for.

        Weights of columns are combined on the device, whatever else on the processor: the bits are the same.
        """
        weighs = isinstance(combination, Weighted) and combination.growth is None and combination.lines == "columns"
        if isinstance(combination, Weighted) and weighs and len(combination.weights):
            return self._weigh(combination.weights, out_type)
        return CpuResident(self._tensors[0], self._tensors[1:], self._geometry).combine(combination, out_type)

    def _weigh(self, weights: NDArray[np.float64], out_type: StorageType) -> Iterator[NDArray[np.unsignedinteger]]:
        flat = weights.reshape(len(weights), self._geometry.batch * self._geometry.columns)
        for tile in self._tiles:
            for block in self._lane.download(self._combine_tile(tile, flat[:, tile.columns], out_type)):
                yield block.view(out_type.bits)

    def release(self) -> None:
        """Let go of what is on the device. The lane's next work comes later in its stream than all that used it."""
        self._kept.clear()

    def _measure_tile(self, tile: Tile, pair: tuple[int, int], sums: "torch.Tensor", tally: "torch.Tensor") -> None:
        base, model = (self._operand(number, tile) for number in pair)
        stride = self._geometry.batch * self._geometry.columns
        with self._lane.place.active():
            self._kernels.add_column_sums(base, model, tile.shape, sums[tile.column :], stride, tally)

    def _combine_tile(self, tile: Tile, weights: NDArray[np.float64], out_type: StorageType) -> "torch.Tensor":
        import torch

        base, *models = [self._operand(number, tile) for number in range(len(self._tensors))]
        on_device = self._lane.upload(np.ascontiguousarray(weights).reshape(-1))
        with self._lane.place.active():
            out = torch.empty_like(base[0], dtype=torch.int32 if out_type is F32 else torch.int16)
            self._kernels.combine(base, models, on_device, tile.shape, (out, out_type))
        return out

    def _operand(self, number: int, tile: Tile) -> "Operand":
        """Tensor `number`, the base first, of a tile; kept when the tile is the whole tensor."""
        tensor = self._tensors[number]
        if number in self._kept:
            return self._kept[number], tensor.kind
        bits = self._lane.upload(tensor.data.reshape(-1)[tile.elements])
        if len(self._tiles) == 1:
            self._kept[number] = bits
        return bits, tensor.kind

    def _fetch(self, source: "torch.Tensor") -> NDArray[np.uint8]:
        blocks = [block.copy() for block in self._lane.download(source)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.uint8)


def _usable_devices(devices: Sequence[int] | None) -> list[int]:
    import torch

    if torch.version.cuda is None:
        raise EnvironmentFault(
            f"device cuda: expected torch built with CUDA, found torch {torch.__version__}; {REMEDY}"
        )
    if importlib.util.find_spec("triton") is None:
        raise EnvironmentFault(f"device cuda: expected the package triton, found none; install it, or {REMEDY}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = list(range(found) if devices is None else devices)
    if not wanted or not set(wanted) <= set(range(found)):
        expected = "a CUDA device and its driver" if devices is None else f"CUDA devices {wanted}"
        raise EnvironmentFault(f"device cuda: expected {expected}, found {found} devices; {REMEDY}")
    return wanted


def _free_memory(index: int) -> int:
    import torch

    return int(torch.cuda.mem_get_info(index)[0] * USABLE)


def _agrees_with_numpy(backend: CudaBackend) -> bool:
    """Numbers of very different sizes, so that products of deltas have more digits than float64 keeps."""
    generator = np.random.default_rng(0)
    values = [np.ldexp(generator.standard_normal((40, 64)), generator.integers(-15, 15, (40, 64))) for _ in range(2)]
    stored = [StoredTensor(value.astype(np.float32).view(np.uint32).reshape(-1), F32) for value in values]
    weights = generator.random((1, 1, 64))
    with backend.resident(stored[0], stored[1:], Geometry(1, 40, 64, transposed=False)) as resident:
        sums = resident.measure(0)
        merged = np.concatenate([block.copy() for block in resident.combine(Weighted(weights), F32)])
    base, model = (one.data.view(np.float32).astype(np.float64).reshape(40, 64) for one in stored)
    delta = model - base
    expected = np.zeros((3, 64))
    for terms in zip(base * base, delta * base, delta * delta, strict=True):
        expected += np.stack(terms)
    same = np.stack([sums.base[0], sums.product[0], sums.delta[0]]).tobytes() == expected.tobytes()
    return same and merged.tobytes() == (base + (0.0 + weights[0] * delta)).astype(np.float32).tobytes()
