"""What a model changed, tensor by tensor, in numbers small enough to read: validation and reports live on these."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import fsum, sqrt
from typing import Any

from widen.architecture import Kind

_LAYER = re.compile(r"^(.*?\.\d+)\.")


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to, such as model.layers.3; empty outside the layers."""
    match = _LAYER.match(tensor)
    return match.group(1) if match else ""


@dataclass(frozen=True)
class TensorSummary:
    """One tensor of a model beside the base's: counts over all elements, and Frobenius norms."""

    tensor: str
    kind: Kind
    elements: int
    nan: int
    inf: int
    zeros: int
    changed: int
    largest_change: float
    base_norm: float
    model_norm: float
    delta_norm: float

    @property
    def layer(self) -> str:
        """The layer that the tensor belongs to, such as model.layers.3; empty outside the layers."""
        return layer_of(self.tensor)

    @property
    def relative_change(self) -> float:
        """Norm of the delta over the norm of the base's tensor; infinite for a change from zero."""
        return _relative(self.delta_norm, self.base_norm)

    @property
    def direction_change(self) -> float:
        """1 - cos between the model's tensor and the base's, in [0, 2]."""
        return _direction(self.base_norm, self.model_norm, self.delta_norm)


@dataclass(frozen=True)
class ModelSummary:
    """One model beside the base. Two models with equal `digest` have the same column sums throughout: equal weights."""

    model: str
    tensors: tuple[TensorSummary, ...]
    digest: str

    @property
    def changed(self) -> int:
        """Elements that differ from the base's, over the network."""
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def relative_change(self) -> float:
        """Norm of the network's delta over the norm of the base."""
        return _relative(self._norms[2], self._norms[0])

    @property
    def direction_change(self) -> float:
        """1 - cos between all of the model's weights and all of the base's."""
        return _direction(*self._norms)

    @cached_property
    def _norms(self) -> tuple[float, float, float]:
        rows = [(tensor.base_norm, tensor.model_norm, tensor.delta_norm) for tensor in self.tensors]
        base, model, delta = (sqrt(fsum(row[i] ** 2 for row in rows)) for i in range(3))
        return base, model, delta

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back, equal to the last bit."""
        return {"model": self.model, "digest": self.digest, "tensors": [asdict(tensor) for tensor in self.tensors]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], model: str | None = None) -> "ModelSummary":
        """Read back; `model` renames, for a summary that was cached under another name."""
        tensors = tuple(TensorSummary(**tensor) for tensor in content["tensors"])
        return cls(model or content["model"], tensors, content["digest"])


def _relative(delta: float, base: float) -> float:
    if base > 0.0:
        return delta / base
    return float("inf") if delta > 0.0 else 0.0


def _direction(base: float, model: float, delta: float) -> float:
    if base == 0.0 or model == 0.0:
        return 0.0 if base == model else 1.0
    growth = model - base
    return max(0.0, (delta * delta - growth * growth) / (2.0 * base * model))
