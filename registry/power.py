"""How many documents a margin needs: asked before the evaluation, not after it."""

import math
from statistics import NormalDist

from registry.errors import GateError


def required_documents(omega2: float, delta: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """The documents with which an equal model passes a margin of `delta` with probability `power`.

    n >= (z_alpha + z_power)^2 * omega2 / delta^2. `omega2` is the variance of the paired difference on one document;
    for 0/1 scores of about equal models that is the share of documents on which the two disagree. Raises GateError for
    numbers outside their range.

    Source: E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 5, one-sided.
    """
    return math.ceil((_quantiles(alpha, power) ** 2) * _positive("omega2", omega2) / _positive("delta", delta) ** 2)


def smallest_margin(n: int, omega2: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The margin that `n` documents can resolve: the inverse of `required_documents`."""
    return _quantiles(alpha, power) * math.sqrt(_positive("omega2", omega2) / _positive("n", n))


def _quantiles(alpha: float, power: float) -> float:
    if not (0.0 < alpha < 0.5 and 0.5 <= power < 1.0):
        raise GateError(f"expected 0 < alpha < 0.5 and 0.5 <= power < 1, found {alpha} and {power}")
    return NormalDist().inv_cdf(1.0 - alpha) + NormalDist().inv_cdf(power)


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise GateError(f"{name}: expected a finite number above zero, found {value}")
    return value
