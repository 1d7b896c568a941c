"""Methods that live in the span of their participants: inner products, and coefficients made of them.

A merge that is a linear combination of its participants needs no more of them than their Gram matrix: the geometry of a
sphere of millions of dimensions happens in a few numbers, float64, and pass 2 is a weighted sum like any other. A
tensor is one vector, or each of its lines is.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from widen.combination import Lines, Weighted
from widen.geometry import ColumnSums
from widen.methods.operands import Operands, total

Matrix = NDArray[np.float64]
Coefficients = NDArray[np.float64]
WHOLE = (1, 1)
"""The lines of a tensor that is one vector: a batch of one, with one line."""


def gram(operands: Operands, lines: Lines | None = None) -> Matrix:
    """Inner products of the participants: float64 (participants, participants, batch, lines), one line for the whole.

    From sums over deltas: <d_i, d_j> = (|d_i|^2 + |d_j|^2 - |d_j - d_i|^2) / 2.
    """
    models = operands.participants - (0 if operands.origin else 1)
    own = [operands.sums(k, lines=lines or "columns") for k in range(models)]
    take = _taking(lines)
    deltas = np.zeros((models, models, *(take(own[0], "delta").shape if own else WHOLE)))
    for i in range(models):
        deltas[i, i] = take(own[i], "delta")
    for i in range(models):
        for j in range(i + 1, models):
            apart = take(operands.sums(j, against=i, lines=lines or "columns"), "delta")
            deltas[i, j] = deltas[j, i] = (deltas[i, i] + deltas[j, j] - apart) / np.float64(2.0)
    return deltas if operands.origin else _from_zero(own, take, deltas)


Take = Callable[[ColumnSums, str], NDArray[np.float64]]


def _taking(lines: Lines | None) -> Take:
    """How sums are read: line by line, or all of them added up."""

    def take(sums: ColumnSums, what: str) -> NDArray[np.float64]:
        values: NDArray[np.float64] = getattr(sums, what)
        return values if lines is not None else total(values).reshape(WHOLE)

    return take


def _from_zero(own: list[ColumnSums], take: Take, deltas: Matrix) -> Matrix:
    """<b + d_i, b + d_j>, the base itself first."""
    shape = deltas.shape[2:]
    square = take(own[0], "base") if own else np.zeros(shape)
    onto = np.stack([np.zeros(shape), *(take(one, "product") for one in own)])
    wide = np.zeros((len(onto), len(onto), *shape))
    wide[1:, 1:] = deltas
    shifted: Matrix = ((square + onto[:, None]) + onto[None, :]) + wide
    return shifted


def inner(products: Matrix, x: Coefficients, y: Coefficients) -> np.float64:
    """<x, y> of two combinations, float64 (participants,), by products (participants, participants); in one order."""
    return total((x[:, None] * products) * y[None, :])


def norm(products: Matrix, x: Coefficients) -> np.float64:
    """The length of a combination of the participants; rounding may make a square of nothing negative."""
    return np.float64(np.sqrt(np.maximum(inner(products, x, x), 0.0)))


def spread(
    operands: Operands, coefficients: Coefficients, affine: bool = False, lines: Lines | None = None
) -> Weighted:
    """The combination of participants with these coefficients: (participants,), or (participants, batch, lines).

    affine: they sum to one, whatever their own rounding says.
    """
    shape = operands.geometry.by(lines or "columns")
    each = coefficients.reshape(len(coefficients), *(coefficients.shape[1:] or WHOLE))
    wide = np.broadcast_to(each, (len(each), shape.batch, shape.columns))
    growth = None if operands.origin or affine else np.cumsum(wide, axis=0)[-1] - np.float64(1.0)
    of_models = wide if operands.origin else wide[1:]
    return Weighted(np.ascontiguousarray(of_models), growth, lines or "columns")
