"""Headers and settings become the merge plan: what each thing is, decided once, before any byte is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from widen.architecture import Architecture, Kind
from widen.checkpoint import SINGLE_FILE, Checkpoint, Side
from widen.dtypes import StorageType, storage_type
from widen.errors import RecipeError
from widen.geometry import Geometry
from widen.parameters import places
from widen.settings import Arguments, Settings
from widen.shards import Slot
from widen.slices import Placed, Slice, Stacking
from widen.stacked_config import stacked_config

T = TypeVar("T")
SHARDS, LEAST_SHARD, LARGEST_SHARD = 16, 64_000_000, 5_000_000_000
"""Unless a size is asked for, the output is cut into about SHARDS files within these bounds, in bytes."""


@dataclass(frozen=True)
class TensorPlan:
    """One tensor to be merged. `arguments` are the method's for this tensor; `sides` what is merged, the base first."""

    name: str
    kind: Kind
    geometry: Geometry
    shape: tuple[int, ...]
    out_type: StorageType
    sides: tuple[Side, ...]
    arguments: Arguments = ()

    @property
    def base(self) -> Side:
        """The base's tensor."""
        return self.sides[0]

    @property
    def models(self) -> tuple[Side, ...]:
        """The models' tensors, in recipe order."""
        return self.sides[1:]

    @property
    def read_bytes(self) -> int:
        """Bytes of its sides."""
        return sum(side.size for side in self.sides)

    @property
    def slot(self) -> Slot:
        """Its place in an output file."""
        return Slot(self.name, self.out_type.name, self.shape)


@dataclass(frozen=True)
class MergePlan:
    """A base, its models in recipe order, and what becomes of every tensor. `tied` names are not merged.

    config: the merged model's configuration, but for its type. stacked: where layers are stacked anew, every tensor
    that this asks for, also those that a model lacks.
    """

    base: Checkpoint
    models: tuple[Checkpoint, ...]
    settings: Settings
    tensors: tuple[TensorPlan, ...]
    tied: frozenset[str]
    config: Mapping[str, Any]
    stacked: tuple[Placed, ...] = ()

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The base, then the models."""
        return (self.base, *self.models)

    @property
    def inputs(self) -> tuple[Checkpoint, ...]:
        """What lies on the disk: the checkpoints, and what views among them were made from; each once.

        A folder that has two names is two inputs: what is recorded of inputs is asked for by name.
        """
        found = {(one.name, str(one.folder)): one for checkpoint in self.checkpoints for one in checkpoint.inputs}
        return tuple(found.values())

    @cached_property
    def is_direct(self) -> bool:
        """Whether every tensor is merged from those of its own name in all inputs, as they lie there."""
        return not self.settings.slices and self.inputs == self.checkpoints

    @property
    def out_bytes(self) -> int:
        """Bytes of all merged tensors."""
        return sum(tensor.slot.size for tensor in self.tensors)

    @cached_property
    def files(self) -> dict[str, tuple[TensorPlan, ...]]:
        """The tensors of each output file: by name, a new file where the next tensor would exceed the size.

        Inside a file wider types come first, as the safetensors library lays them out, so that each is aligned.
        """
        parts = cut(self.tensors, [tensor.slot.size for tensor in self.tensors], self.shard_bytes)
        ordered = (tuple(sorted(part, key=lambda tensor: -tensor.out_type.itemsize)) for part in parts)
        if len(parts) == 1:
            return {SINGLE_FILE: next(ordered)}
        return {
            f"model-{number:05d}-of-{len(parts):05d}.safetensors": part for number, part in enumerate(ordered, start=1)
        }

    @property
    def shard_bytes(self) -> int:
        """The largest output file: as asked, else a share of the model, so that an update rewrites few bytes."""
        return self.settings.shard_bytes or share_of(self.out_bytes)


def share_of(out_bytes: int) -> int:
    """The largest output file of a model of so many bytes, unless a size is asked for."""
    return min(LARGEST_SHARD, max(LEAST_SHARD, out_bytes // SHARDS))


def cut(things: Sequence[T], sizes: Sequence[int], most: int) -> list[list[T]]:
    """What stands in each output file: a new one where the next thing would exceed `most` bytes."""
    parts: list[list[T]] = [[]]
    room = most
    for thing, size in zip(things, sizes, strict=True):
        if parts[-1] and size > room:
            parts.append([])
            room = most
        parts[-1].append(thing)
        room -= size
    return parts


def make_plan(
    base: Checkpoint, models: Sequence[Checkpoint], settings: Settings, cache: Path | None = None
) -> MergePlan:
    """Decide, from headers and configuration alone, what every tensor is and becomes.

    Tensors that a model lacks are left out here; `checks.structure_problems` reports them. Raises RecipeError without a
    model, when two checkpoints have one name, and for settings that do not fit the models or a tensor. cache: where
    descriptions of architectures are kept.
    """
    names = [checkpoint.name for checkpoint in (base, *models)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"two checkpoints are called {repeated[0]}; give each its own name")
    architecture = Architecture.of(base, cache)
    tied = frozenset(name for model in (base, *models) for name in model.tensors if architecture.is_tied(name))
    stacking = stacking_of(base, models, settings)
    config = stacked_config(base.config, stacking.stacks()) if stacking else base.config
    placed = tuple(stacking.tensors(architecture) if stacking else _whole(base, models, settings, tied))
    tensors = (_tensor_plan(one, architecture, settings) for one in placed if _matches(one.sides))
    ordered = tuple(sorted(tensors, key=lambda one: one.name))
    return MergePlan(base, tuple(models), settings, ordered, tied, config, placed if stacking else ())


def stacking_of(base: Checkpoint, models: Sequence[Checkpoint], settings: Settings) -> Stacking | None:
    """How layers are stacked anew; None where whole models are merged."""
    if not settings.slices:
        return None
    return Stacking(tuple(Slice.of(one) for one in settings.slices), (base, *models), settings.origin)


def _whole(
    base: Checkpoint, models: Sequence[Checkpoint], settings: Settings, tied: frozenset[str]
) -> Iterator[Placed]:
    """Every tensor of the base merged with those of its name."""
    if not models and settings.definition.most != 1:
        raise RecipeError("a merge needs at least one model besides the base, found none")
    participants = len(models) + (0 if settings.origin else 1)
    if settings.models and len(settings.models) != participants:
        raise RecipeError(
            f"expected the parameters of {participants} participants in the merge, found {len(settings.models)}"
        )
    mergeable = [name for name in base.tensors if name not in tied and all(name in model.tensors for model in models)]
    for name, place in places(mergeable).items():
        yield Placed(name, tuple(Side(one, name) for one in (base, *models)), (), {}, place)


def _matches(sides: Sequence[Side]) -> bool:
    """Whether every side has the tensor, in one shape."""
    found = [side.checkpoint.tensors.get(side.name) for side in sides]
    return None not in found and len({one.shape for one in found if one is not None}) == 1


def _tensor_plan(placed: Placed, architecture: Architecture, settings: Settings) -> TensorPlan:
    base, stored = placed.sides[0]
    participants = len(placed.sides) - (1 if settings.origin else 0)
    settings.definition.require_participants(participants)
    arguments = settings.arguments(participants, placed.name, placed.place, placed.owns, placed.shared)
    entry = base.tensors[stored]
    kind = architecture.kind_of(stored, entry.shape)
    geometry = Geometry.of(entry.shape, transposed=kind in ("embedding", "conv1d"))
    out_type = storage_type(settings.out_dtype) if settings.out_dtype else entry.written_kind
    return TensorPlan(placed.name, kind, geometry, entry.shape, out_type, placed.sides, arguments)
