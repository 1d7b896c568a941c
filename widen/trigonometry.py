"""Sine, cosine and the angle of a cosine from +, -, *, / and sqrt alone, so that their bits are the same everywhere.

A mathematical library's own functions differ in the last place from one machine to the next. Accurate to about two
units in the last place, on scalars and arrays, float64.
"""

import numpy as np
from numpy.typing import NDArray

Angle = NDArray[np.float64] | np.float64
"""A float64 array or scalar; what is returned is an array, of no dimension for a scalar."""

PI = np.float64(3.141592653589793)
_HALVINGS = 3
_SINE = [np.float64(1.0)]
_COSINE = [np.float64(1.0)]
for _order in range(1, 12):
    _SINE.append(_SINE[-1] / np.float64(-(2 * _order) * (2 * _order + 1)))
    _COSINE.append(_COSINE[-1] / np.float64(-(2 * _order - 1) * (2 * _order)))
_ARCTANGENT = [np.float64((-1) ** order) / np.float64(2 * order + 1) for order in range(14)]


def sine(angle: Angle) -> NDArray[np.float64]:
    """sin(angle) for 0 <= angle <= pi: turned into the first quadrant, then its Taylor series."""
    near = np.asarray(np.where(angle > PI / 2, PI - angle, angle))
    return near * _polynomial(_SINE, near * near)


def cosine(angle: Angle) -> NDArray[np.float64]:
    """cos(angle) for 0 <= angle <= pi."""
    far = np.asarray(angle > PI / 2)
    near = np.where(far, PI - angle, angle)
    value = _polynomial(_COSINE, near * near)
    return np.where(far, -value, value)


def angle_of(cosine_value: Angle) -> NDArray[np.float64]:
    """The angle in [0, pi] whose cosine is given, clamped to [-1, 1]: twice arctan(sqrt((1 - c) / (1 + c)))."""
    c = np.maximum(np.minimum(np.asarray(cosine_value, np.float64), 1.0), -1.0)
    mirrored = np.abs(c)  # near -1 the quotient would grow without bound
    angle = np.float64(2.0) * _arctangent(np.sqrt((1.0 - mirrored) / (1.0 + mirrored)))
    return np.where(c < 0.0, PI - angle, angle)


def _arctangent(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """arctan(x) for 0 <= x <= 1: halved until the series converges fast."""
    for _ in range(_HALVINGS):
        x = x / (1.0 + np.sqrt(1.0 + x * x))
    return np.float64(2.0**_HALVINGS) * (x * _polynomial(_ARCTANGENT, x * x))


def _polynomial(coefficients: list[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
