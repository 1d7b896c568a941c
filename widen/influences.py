"""Whose weight won where: what the merge's own weights come to, tensor by tensor, in numbers small enough to read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widen.api import DEFAULT_SETTINGS
from widen.architecture import Kind
from widen.arrangement import Folder
from widen.checkpoint import Checkpoint
from widen.checks import refuse
from widen.engine import Engine
from widen.methods.widen import widen_important, widen_weights
from widen.plan import MergePlan, TensorPlan
from widen.profile import Profile
from widen.progress import Progress, silent
from widen.settings import WIDEN, Settings
from widen.statistics import Measured, finiteness_problems
from widen.summary import layer_of
from widen.workbench import DEFAULT_RESOURCES, Resources, open_engine, planned


@dataclass(frozen=True)
class Influence:
    """One model's standing in one tensor.

    mean_score: the mean over the columns of the weight that its delta got. share_above: the share of columns that got
    the whole score s, above the threshold in magnitude and in direction (of a vector: elements above its own).
    share_won: the share of columns in which its weight is above every other model's.
    """

    model: str
    mean_score: float
    share_above: float
    share_won: float


@dataclass(frozen=True)
class TensorInfluence:
    """The standing of every model, in recipe order, in one tensor of `columns` columns (a vector's elements)."""

    tensor: str
    kind: Kind
    layer: str
    columns: int
    models: tuple[Influence, ...]


def influence(
    base: Folder | Checkpoint,
    models: Sequence[Folder | Checkpoint],
    settings: Settings = DEFAULT_SETTINGS,
    allow_config: Sequence[str] = (),
    resources: Resources = DEFAULT_RESOURCES,
    progress: Progress = silent,
) -> tuple[TensorInfluence, ...]:
    """Whose weight won in each tensor of a merge with these arguments, by the arithmetic of the merge itself.

    Nothing for a method other than WIDEN: no other weighs columns.

    Statistics that the cache of an earlier inspection or merge holds are used without reading a weight; what it lacks
    is measured. Tensors without elements are left out. Raises InputsRefused as `merge` does, for structure and for what
    is not finite.
    """
    with planned((base, *models), settings, allow_config, resources, progress) as (plan, problems):
        refuse(problems)
        return _influence(plan, resources, progress) if settings.method == WIDEN else ()


def _influence(plan: MergePlan, resources: Resources, progress: Progress) -> tuple[TensorInfluence, ...]:
    tensors = [tensor for tensor in plan.tensors if tensor.geometry.elements]
    found: dict[str, TensorInfluence] = {}
    with open_engine(resources, progress, Profile()) as engine:
        engine.contents.watch((*plan.inputs, *plan.checkpoints))
        for tensor in tensors:
            if (measured := engine.recall(tensor)) is not None:
                found[tensor.name] = _standing(tensor, measured)
        unknown = [tensor for tensor in tensors if tensor.name not in found]
        if unknown:
            looks = engine.over_tensors("measure", unknown, lambda one: one.sides, partial(_look, engine))
            found |= {one.tensor: one for one in looks}
        engine.contents.require_unchanged()
    return tuple(found[tensor.name] for tensor in tensors)


def _look(engine: Engine, tensor: TensorPlan) -> TensorInfluence:
    return _standing(tensor, engine.measure(tensor))


def _standing(tensor: TensorPlan, measured: Sequence[Measured]) -> TensorInfluence:
    refuse(finiteness_problems(tensor, measured))
    sums, is_vector, told = [one.sums for one in measured], tensor.kind == "vector", dict[str, Any](tensor.arguments)
    weights = widen_weights(sums, is_vector, **told)
    del told["s"]
    above = widen_important(sums, is_vector, **told).mean(axis=(1, 2)).tolist()
    rows = tuple(
        Influence(model.checkpoint.name, _mean(weights[k]), above[k], float(_won(weights, k).mean()))
        for k, model in enumerate(tensor.models)
    )
    return TensorInfluence(tensor.name, tensor.kind, layer_of(tensor.name), weights[0].size, rows)


def _won(weights: NDArray[np.float64], model: int) -> NDArray[np.bool_]:
    """Where the model's weight is above every other's; alone, it wins wherever it is above zero."""
    others = np.delete(weights, model, axis=0)
    rival = others.max(axis=0, initial=0.0)
    won: NDArray[np.bool_] = weights[model] > rival
    return won


def _mean(values: NDArray[np.float64]) -> float:
    """Summed exactly, so that it has one value on every machine."""
    return fsum(values.reshape(-1).tolist()) / values.size
