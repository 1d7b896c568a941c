"""Spherical linear interpolation of two models (Shoemake, SIGGRAPH 1985, section 3.3), each tensor one vector."""

import numpy as np
from numpy.typing import NDArray

from widen.combination import Weighted
from widen.methods.definition import merge_method
from widen.methods.gram import Coefficients, gram, spread
from widen.methods.operands import Operands
from widen.trigonometry import PI, Angle, angle_of, sine

PARALLEL = 0.9995
"""Beyond this cosine, of either sign, the arc is as good as a line, and no plane of rotation is well defined."""
LEAST_NORM = 1e-8


@merge_method("slerp", origin="none", least=2, most=2)
def slerp(tensor: Operands, t: float) -> Weighted:
    """sin((1 - t) a) / sin a * W_0 + sin(t a) / sin a * W_1, with a the angle between them; t = 0 is the base."""
    products = gram(tensor)[:, :, 0, 0]
    norms = np.sqrt(np.maximum(np.diag(products), 0.0))
    norms = np.where(norms > LEAST_NORM, norms, 1.0)
    cosine = products[0, 1] / (norms[0] * norms[1])
    return spread(tensor, arc(t, cosine, straight=abs(cosine) > PARALLEL))


def arc(t: float, cosine: Angle, straight: NDArray[np.bool_] | np.bool_) -> Coefficients:
    """The coefficients of both ends at `t` of the way along the arc between them, or, where `straight`, along the line.

    cosine, straight: of any shape; the coefficients are (2, ...).
    """
    rest, way = np.float64(1.0) - np.float64(t), np.float64(t)
    angle = angle_of(np.where(straight, 0.0, cosine))
    ends = np.stack([_sine_of(rest * angle), _sine_of(way * angle)]) / sine(angle)
    line = np.stack([np.full_like(angle, rest), np.full_like(angle, way)])
    return np.where(straight, line, ends)


def _sine_of(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sine of any angle: with t beyond its ends an interpolation is an extrapolation."""
    within = angle - np.float64(2.0) * PI * np.rint(angle / (np.float64(2.0) * PI))
    return np.where(within < 0.0, -sine(np.maximum(-within, 0.0)), sine(np.maximum(within, 0.0)))
