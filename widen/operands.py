"""One tensor as a method asks about it, answered by the backend that holds it and by the mapped bytes."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from widen.backend import Resident
from widen.combination import Lines
from widen.geometry import ColumnSums
from widen.plan import TensorPlan
from widen.settings import Settings

if TYPE_CHECKING:
    from widen.kernels.elements import Elements

RANDOM = "widen-random/1"
"""Names the way from seed, tensor and model to random numbers; another way gets another name."""


class TensorOperands:
    """`widen.methods.operands.Operands` of one tensor; `sums` is pass 1 of every model against the base."""

    def __init__(self, settings: Settings, tensor: TensorPlan, resident: Resident, sums: Sequence[ColumnSums]) -> None:
        self.origin = settings.origin
        self.participants = len(tensor.models) + (0 if self.origin else 1)
        self.is_vector, self.geometry = tensor.kind == "vector", tensor.geometry
        self._tensor, self._resident, self._sums = tensor, resident, sums

    @cached_property
    def elements(self) -> "Elements":
        """Its single elements."""
        from widen.kernels.elements import Elements

        base, *models = (side.tensor() for side in self._tensor.sides)
        return Elements(base, models, self.geometry)

    def sums(self, model: int, against: int | None = None, lines: Lines = "columns") -> ColumnSums:
        """Pass 1 of a model against the base, as measured or remembered; against another model, or by other lines."""
        if lines != "columns":
            return self._on_host(lines).measure(model, against)
        return self._sums[model] if against is None else self._resident.measure(model, against)

    def _on_host(self, lines: Lines) -> Resident:
        from widen.kernels.cpu import CpuResident

        return CpuResident(self.elements.base, self.elements.models, self.geometry.by(lines))

    def key(self, seed: int, model: int) -> int:
        """The first 64 bits of a SHA-256 of what the random numbers belong to."""
        name = "\0".join((RANDOM, str(seed), str(model), self._tensor.name))
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
