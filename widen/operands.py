"""One tensor as a method asks about it, answered by the backend that holds it."""

import hashlib
from collections.abc import Sequence

from widen.backend import Resident
from widen.combination import Mark
from widen.geometry import ColumnSums
from widen.plan import MergePlan, TensorPlan

RANDOM = "widen-random/1"
"""Names the way from seed, tensor and model to random numbers; another way gets another name."""


class TensorOperands:
    """`widen.methods.operands.Operands` of one tensor in a plan; `sums` is pass 1 of every model against the base."""

    def __init__(self, plan: MergePlan, tensor: TensorPlan, resident: Resident, sums: Sequence[ColumnSums]) -> None:
        self.participants, self.origin = plan.participants, plan.settings.origin
        self.is_vector = tensor.kind == "vector"
        self.elements, self.batch, self.columns = (
            tensor.geometry.elements,
            tensor.geometry.batch,
            tensor.geometry.columns,
        )
        self._name, self._resident, self._sums = tensor.name, resident, sums

    def sums(self, model: int) -> ColumnSums:
        """Pass 1 of a model against the base, as it was measured or remembered."""
        return self._sums[model]

    def between(self, first: int, second: int) -> ColumnSums:
        """Pass 1 of one model against another."""
        return self._resident.measure(second, against=first)

    def mark(self, model: int, rank: int) -> Mark:
        """Where `rank` elements of a model's delta, the smallest, end."""
        return self._resident.mark(model, rank)

    def key(self, seed: int, model: int) -> int:
        """The first 64 bits of a SHA-256 of what the random numbers belong to."""
        name = "\0".join((RANDOM, str(seed), str(model), self._name))
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
