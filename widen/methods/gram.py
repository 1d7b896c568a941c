"""Methods that live in the span of their participants: inner products of whole tensors, and coefficients made of them.

A merge that is a linear combination of its participants needs no more of them than their Gram matrix: the geometry of a
sphere of millions of dimensions happens in a few numbers, float64, and pass 2 is a weighted sum like any other.
"""

import numpy as np
from numpy.typing import NDArray

from widen.combination import Weighted
from widen.methods.operands import Operands, total

Matrix = NDArray[np.float64]
Coefficients = NDArray[np.float64]


def gram(operands: Operands) -> Matrix:
    """Inner products of the participants, flattened: float64 (participants, participants).

    From sums over deltas: <d_i, d_j> = (|d_i|^2 + |d_j|^2 - |d_j - d_i|^2) / 2.
    """
    models = operands.participants - (0 if operands.origin else 1)
    deltas = np.zeros((models, models))
    for i in range(models):
        deltas[i, i] = total(operands.sums(i).delta)
    for i in range(models):
        for j in range(i + 1, models):
            apart = total(operands.between(i, j).delta)
            deltas[i, j] = deltas[j, i] = (deltas[i, i] + deltas[j, j] - apart) / np.float64(2.0)
    return deltas if operands.origin else _from_zero(operands, deltas)


def _from_zero(operands: Operands, deltas: Matrix) -> Matrix:
    """<b + d_i, b + d_j>, the base itself first."""
    square = total(operands.sums(0).base) if len(deltas) else np.float64(0.0)
    onto = np.array([0.0, *(total(operands.sums(i).product) for i in range(len(deltas)))])
    wide = np.zeros((operands.participants, operands.participants))
    wide[1:, 1:] = deltas
    shifted: Matrix = ((square + onto[:, None]) + onto[None, :]) + wide
    return shifted


def inner(gram_matrix: Matrix, x: Coefficients, y: Coefficients) -> np.float64:
    """<x, y> of two combinations of the participants, summed in one order."""
    return total((x[:, None] * gram_matrix) * y[None, :])


def norm(gram_matrix: Matrix, x: Coefficients) -> np.float64:
    """The length of a combination of the participants; rounding may make a square of nothing negative."""
    return np.float64(np.sqrt(np.maximum(inner(gram_matrix, x, x), 0.0)))


def spread(operands: Operands, coefficients: Coefficients, affine: bool = False) -> Weighted:
    """The combination of participants with these coefficients, one for a whole tensor.

    affine: they sum to one, whatever their own rounding says.
    """
    growth = 0.0 if operands.origin or affine else float(total(coefficients) - np.float64(1.0))
    of_models = coefficients if operands.origin else coefficients[1:]
    shape = (len(of_models), operands.batch, operands.columns)
    weights = np.ascontiguousarray(np.broadcast_to(of_models[:, None, None], shape))
    return Weighted(weights, growth)
