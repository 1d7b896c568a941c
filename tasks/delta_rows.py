"""What validation looks at: a row a tensor, a layer and a network of each model, and a row a structural problem.

The rule for a change that is far off its neighbours': tensors of one name in the other layers (`q_proj` of every
layer), and layers of one stack, are neighbours; `times_median` is a relative change over the median of its
neighbours', itself included. It is only worked out with at least four neighbours, a median above zero, and for
tensors of a layer that changed at all: an untouched layer is a finding of its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import fsum, isfinite, sqrt
from statistics import median
from typing import Any

from widen.checks import Problem
from widen.errors import RecipeError
from widen.summary import ModelSummary, TensorSummary

NETWORK = "(network)"
NEIGHBOURS = 4
COLUMNS = (
    "model", "tensor", "row", "elements", "nan", "inf", "changed", "relative_change", "direction_change",
    "times_median", "lo", "hi", "same_as", "problem",
)  # fmt: skip
_NUMBER = re.compile(r"\.\d+(?=\.|$)")
Row = dict[str, Any]
Bands = Mapping[str, tuple[float, float]]


def delta_rows(models: Sequence[ModelSummary], problems: Sequence[Problem], bands: Bands) -> list[Row]:
    """The rows, each with every one of COLUMNS (None where it does not apply). Raises RecipeError without a band."""
    rows: list[Row] = []
    first: dict[str, str] = {}
    for summary in models:
        if summary.model not in bands:
            raise RecipeError(
                f"validate.relative_change: expected a band [lo, hi] for {summary.model}, "
                f"found bands for {', '.join(bands) or 'no model'}; add one"
            )
        twin = first.setdefault(summary.digest, summary.model)
        rows.append(_network(summary, bands[summary.model], twin if twin != summary.model else None))
        rows += _layers_and_tensors(summary)
    rows += [_row(p.model, p.tensor or NETWORK, "problem", problem=_told(p)) for p in problems]
    return rows


def _row(model: str, tensor: str, row: str, **found: Any) -> Row:
    return {**dict.fromkeys(COLUMNS), "model": model, "tensor": tensor, "row": row, **found}


def _told(problem: Problem) -> str:
    return f"{problem.what}: expected {problem.expected}, found {problem.found}; {problem.remedy}"


def _network(summary: ModelSummary, band: tuple[float, float], twin: str | None) -> Row:
    return _row(
        summary.model,
        NETWORK,
        "network",
        **_counts(summary.tensors),
        relative_change=summary.relative_change,
        direction_change=summary.direction_change,
        lo=float(band[0]),
        hi=float(band[1]),
        same_as=twin,
    )


def _layers_and_tensors(summary: ModelSummary) -> Iterator[Row]:
    layers: dict[str, list[TensorSummary]] = {}
    for tensor in summary.tensors:
        layers.setdefault(tensor.layer, []).append(tensor)
    untouched = {name for name, held in layers.items() if name and not any(tensor.changed for tensor in held)}
    changes = {name: _relative_change(held) for name, held in layers.items() if name}
    times = _times_median({name: change for name, change in changes.items() if name not in untouched})
    for name, change in changes.items():
        found = {"relative_change": change, "times_median": times.get(name)}
        yield _row(summary.model, name, "layer", **_counts(layers[name]), **found)
    judged = {tensor.tensor: tensor.relative_change for tensor in summary.tensors if tensor.layer not in untouched}
    times = _times_median(judged)
    for tensor in summary.tensors:
        found = {"relative_change": tensor.relative_change, "direction_change": tensor.direction_change}
        counts = _counts([tensor])
        yield _row(summary.model, tensor.tensor, "tensor", **counts, **found, times_median=times.get(tensor.tensor))


def _counts(tensors: Sequence[TensorSummary]) -> Row:
    return {key: sum(getattr(tensor, key) for tensor in tensors) for key in ("elements", "nan", "inf", "changed")}


def _relative_change(tensors: Sequence[TensorSummary]) -> float:
    base = sqrt(fsum(tensor.base_norm**2 for tensor in tensors))
    delta = sqrt(fsum(tensor.delta_norm**2 for tensor in tensors))
    return delta / base if base > 0 else (float("inf") if delta > 0 else 0.0)


def _times_median(changes: Mapping[str, float]) -> dict[str, float]:
    """Each change over the median of those whose names differ in a layer's number only, where the rule applies."""
    stacks: dict[str, dict[str, float]] = {}
    for name, change in changes.items():
        stacks.setdefault(_NUMBER.sub(".*", name), {})[name] = change
    times: dict[str, float] = {}
    for stack in stacks.values():
        middle = median(stack.values()) if all(isfinite(change) for change in stack.values()) else 0.0
        if len(stack) >= NEIGHBOURS and middle > 0:
            times |= {name: change / middle for name, change in stack.items()}
    return times
