"""One tensor as a method asks about it, answered by the backend that holds it and by the mapped bytes."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from widen.backend import Resident
from widen.combination import Lines
from widen.geometry import ColumnSums
from widen.plan import MergePlan, TensorPlan

if TYPE_CHECKING:
    from widen.kernels.elements import Elements

RANDOM = "widen-random/1"
"""Names the way from seed, tensor and model to random numbers; another way gets another name."""


class TensorOperands:
    """`widen.methods.operands.Operands` of one tensor in a plan; `sums` is pass 1 of every model against the base."""

    def __init__(self, plan: MergePlan, tensor: TensorPlan, resident: Resident, sums: Sequence[ColumnSums]) -> None:
        self.participants, self.origin = plan.participants, plan.settings.origin
        self.is_vector, self.geometry = tensor.kind == "vector", tensor.geometry
        self._plan, self._tensor, self._resident, self._sums = plan, tensor, resident, sums

    @cached_property
    def elements(self) -> "Elements":
        """Its single elements."""
        from widen.kernels.elements import Elements

        base, *models = (checkpoint.tensor(self._tensor.name) for checkpoint in self._plan.checkpoints)
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
