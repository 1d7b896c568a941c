"""Headers and settings become the merge plan: what each thing is, decided once, before any byte is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from widen.architecture import Architecture, Kind
from widen.checkpoint import SINGLE_FILE, Checkpoint, Side
from widen.dtypes import StorageType, storage_type
from widen.errors import RecipeError
from widen.geometry import Geometry
from widen.parameters import places
from widen.settings import Arguments, Settings
from widen.shards import Slot

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
    """A base, its models in recipe order, and what becomes of every tensor. `tied` names are not merged."""

    base: Checkpoint
    models: tuple[Checkpoint, ...]
    settings: Settings
    tensors: tuple[TensorPlan, ...]
    tied: frozenset[str]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The base, then the models."""
        return (self.base, *self.models)

    @property
    def inputs(self) -> tuple[Checkpoint, ...]:
        """What lies on the disk: the checkpoints, and what views among them were made from; each once."""
        found = {str(one.folder): one for checkpoint in self.checkpoints for one in checkpoint.inputs}
        return tuple(found.values())

    @property
    def is_direct(self) -> bool:
        """Whether every tensor is merged from those of its own name, as they lie in the inputs."""
        return self.inputs == self.checkpoints and all(
            side.name == one.name for one in self.tensors for side in one.sides
        )

    @property
    def out_bytes(self) -> int:
        """Bytes of all merged tensors."""
        return sum(tensor.slot.size for tensor in self.tensors)

    @cached_property
    def files(self) -> dict[str, tuple[TensorPlan, ...]]:
        """The tensors of each output file: by name, a new file where the next tensor would exceed the size.

        Inside a file wider types come first, as the safetensors library lays them out, so that each is aligned.
        """
        parts: list[list[TensorPlan]] = [[]]
        most = room = self.shard_bytes
        for tensor in self.tensors:
            if parts[-1] and tensor.slot.size > room:
                parts.append([])
                room = most
            parts[-1].append(tensor)
            room -= tensor.slot.size
        ordered = (tuple(sorted(part, key=lambda tensor: -tensor.out_type.itemsize)) for part in parts)
        if len(parts) == 1:
            return {SINGLE_FILE: next(ordered)}
        return {
            f"model-{number:05d}-of-{len(parts):05d}.safetensors": part for number, part in enumerate(ordered, start=1)
        }

    @property
    def shard_bytes(self) -> int:
        """The largest output file: as asked, else a share of the model, so that an update rewrites few bytes."""
        return self.settings.shard_bytes or min(LARGEST_SHARD, max(LEAST_SHARD, self.out_bytes // SHARDS))


def make_plan(
    base: Checkpoint, models: Sequence[Checkpoint], settings: Settings, cache: Path | None = None
) -> MergePlan:
    """Decide, from headers and configuration alone, what every tensor is and becomes.

    Tensors that a model lacks are left out here; `checks.structure_problems` reports them. Raises RecipeError without a
    model, when two checkpoints have one name, and for settings that do
    not fit the models or a tensor. cache: where descriptions of architectures are kept.
    """
    if not models:
        raise RecipeError("a merge needs at least one model besides the base, found none")
    names = [checkpoint.name for checkpoint in (base, *models)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(f"two checkpoints are called {repeated[0]}; give each its own name")
    architecture = Architecture.of(base, cache)
    tied = frozenset(name for model in (base, *models) for name in model.tensors if architecture.is_tied(name))
    mergeable = [name for name in base.tensors if name not in tied and _matches(name, base, models)]
    arguments = _arguments(settings, len(models), mergeable)
    tensors = tuple(
        _tensor_plan(tuple(Side(one, name) for one in (base, *models)), name, architecture, settings, arguments[name])
        for name in mergeable
    )
    return MergePlan(base, tuple(models), settings, tensors, tied)


def _arguments(settings: Settings, models: int, names: Sequence[str]) -> dict[str, Arguments]:
    """What the method is told of each tensor. Raises RecipeError where that does not fit so many models."""
    participants = models + (0 if settings.origin else 1)
    settings.definition.require_participants(participants)
    if settings.models and len(settings.models) != participants:
        raise RecipeError(
            f"expected the parameters of {participants} participants in the merge, found {len(settings.models)}"
        )
    return {name: settings.arguments(participants, name, place) for name, place in places(names).items()}


def _matches(name: str, base: Checkpoint, models: Sequence[Checkpoint]) -> bool:
    shape = base.tensors[name].shape
    return all(name in model.tensors and model.tensors[name].shape == shape for model in models)


def _tensor_plan(
    sides: tuple[Side, ...], name: str, architecture: Architecture, settings: Settings, arguments: Arguments
) -> TensorPlan:
    base, stored = sides[0]
    entry = base.tensors[stored]
    kind = architecture.kind_of(stored, entry.shape)
    geometry = Geometry.of(entry.shape, transposed=kind in ("embedding", "conv1d"))
    out_type = storage_type(settings.out_dtype) if settings.out_dtype else entry.kind
    return TensorPlan(name, kind, geometry, entry.shape, out_type, sides, arguments)
