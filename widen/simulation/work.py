"""What a merge's units have to do, in bytes: of a plan's headers, or of shapes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from widen.engine import COLUMN_BYTES, LANE_BYTES, memory_of
from widen.plan import MergePlan, TensorPlan, cut, share_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """One unit, an output file; or an input file of which the SHA-256 alone is wanted (`hashed`).

    read, write: bytes of all inputs and of the output. measured: bytes of both sides of every measured pair.
    tensors: bytes of each output tensor, in the order in which lanes take them. lane: bytes of memory that a lane needs
    for the largest.
    """

    name: str
    read: int
    write: int = 0
    measured: int = 0
    hashed: int = 0
    tensors: tuple[int, ...] = ()
    lane: int = 0


@dataclass(frozen=True)
class MergeWork:
    """All of a merge. files: a unit for each output file, in order. hashes: of each input file, where its digest is
    recorded (as `widen run` does). shared: bytes that more than one unit reads.
    """

    files: tuple[Work, ...]
    hashes: tuple[Work, ...] = ()
    shared: int = 0

    @property
    def read(self) -> int:
        """Bytes that all units read."""
        return sum(one.read for one in (*self.files, *self.hashes))

    @property
    def write(self) -> int:
        """Bytes that all units write."""
        return sum(one.write for one in self.files)

    @property
    def inputs(self) -> int:
        """Bytes of the inputs, each once."""
        return sum(one.read for one in self.files) - self.shared

    @property
    def lane(self) -> int:
        """Bytes of memory that a lane needs for the largest tensor."""
        return max((one.lane for one in self.files), default=0)


def work_of(plan: MergePlan, file_digests: bool = False) -> MergeWork:
    """A plan's, nothing known and nothing reused."""
    sides = {(str(one.checkpoint.folder), one.name): one.size for tensor in plan.tensors for one in tensor.sides}
    files = tuple(_unit(name, part) for name, part in plan.files.items())
    shared = sum(one.read for one in files) - sum(sides.values())
    paths = [one.folder / shard for one in plan.inputs for shard in one.shards]
    sizes = [(path.name, path.stat().st_size) for path in paths] if file_digests else []
    return MergeWork(files, tuple(Work(name, size, hashed=size) for name, size in sizes), shared)


def work_of_shapes(
    shapes: Mapping[str, Shape], models: int, itemsize: int = 2, shard_bytes: int | None = None, digests: bool = False
) -> MergeWork:
    """Of a base and so many models of these shapes. digests: of the inputs' files are recorded."""
    ordered = sorted(shapes.items())
    sizes = [itemsize * prod(shape) for _, shape in ordered]
    parts = cut(ordered, sizes, shard_bytes or share_of(sum(sizes)))
    files = []
    for number, part in enumerate(parts, start=1):
        tensors = tuple(itemsize * prod(shape) for _, shape in part)
        write, columns = sum(tensors), max(shape[-1] for _, shape in part)
        lane = models * columns * COLUMN_BYTES + LANE_BYTES
        files.append(Work(f"file {number}", (models + 1) * write, write, 2 * models * write, 0, tensors, lane))
    hashes = [Work(f"hash {one.name}", one.write, hashed=one.write) for one in files] * (models + 1) if digests else []
    return MergeWork(tuple(files), tuple(hashes))


def _unit(name: str, part: Sequence[TensorPlan]) -> Work:
    measured = sum(one.base.size + model.size for one in part for model in one.models)
    tensors = tuple(one.slot.size for one in part)
    read, lane = sum(one.read_bytes for one in part), max(memory_of(one) for one in part)
    return Work(name, read, sum(tensors), measured, 0, tensors, lane)
