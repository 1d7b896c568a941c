"""How many documents a margin needs, and what those at hand can show: asked before the evaluation, not after it."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from registry.errors import GateError

DISCORDANT = 0.10
"""The share of documents on which two models are taken to disagree while nothing better is known."""

POWER = 0.8


def required_documents(omega2: float, delta: float, alpha: float = 0.05, power: float = POWER) -> int:
    """The documents with which an equal model passes a margin of `delta` with probability `power`.

    n >= (z_alpha + z_power)^2 * omega2 / delta^2. `omega2` is the variance of the paired difference on one document;
    for 0/1 scores of about equal models that is the share of documents on which the two disagree. Raises GateError for
    numbers outside their range.

    Source: E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, section 5, one-sided.
    """
    return math.ceil((_quantiles(alpha, power) ** 2) * _positive("omega2", omega2) / _positive("delta", delta) ** 2)


def smallest_margin(n: int, omega2: float, alpha: float = 0.05, power: float = POWER) -> float:
    """The margin that `n` documents can resolve: the inverse of `required_documents`."""
    return _quantiles(alpha, power) * math.sqrt(_positive("omega2", omega2) / _positive("n", n))


def pass_probability(n: int, omega2: float, delta: float, alpha: float = 0.05) -> float:
    """How likely an equal model is to pass a margin of `delta` with `n` documents; at delta 0 that is alpha.

    Phi(delta * sqrt(n / omega2) - z_alpha), the formula of `required_documents` solved for the power.
    """
    if not delta >= 0:
        raise GateError(f"delta: expected a number of 0 or more, found {delta}")
    return NormalDist().cdf(delta * math.sqrt(_positive("n", n) / _positive("omega2", omega2)) - _quantile(alpha))


@dataclass(frozen=True)
class Power:
    """What is known of one clause before anything is scored; None stands for what is not.

    `variance` is that of one document's term, `source` says where it is from. `margin` is what the clause allows to be
    lost; a clause that wants more than its threshold has none.
    """

    clause: str
    documents: int | None
    variance: float | None
    source: str
    margin: float | None
    alpha: float = 0.05

    @property
    def resolvable(self) -> float | None:
        """The distance from its threshold at which a model passes with probability `POWER`."""
        if self.documents is None or self.variance is None:
            return None
        return smallest_margin(self.documents, self.variance, self.alpha) if self.variance > 0 else 0.0

    @property
    def needed(self) -> int | None:
        """The documents that resolve the margin."""
        if not self.margin or self.variance is None:
            return None
        return required_documents(self.variance, self.margin, self.alpha) if self.variance > 0 else 1

    @property
    def chance(self) -> float | None:
        """How likely an equal model is to pass."""
        if self.margin is None or self.documents is None or not self.variance:
            return None
        return pass_probability(self.documents, self.variance, self.margin, self.alpha)

    @property
    def warning(self) -> str | None:
        """What to do when the task cannot resolve the margin, else None."""
        if self.margin is None or self.resolvable is None or self.resolvable <= self.margin:
            return None
        more = "" if self.needed is None else f"take {self.needed} documents, or "
        return (
            f"{self.clause}: {self.documents} documents cannot resolve a margin below {self.resolvable:.3g} "
            f"({self.source}): {more}allow {self.resolvable:.2g}"
        )

    def __str__(self) -> str:
        parts = [f"{'unknown' if self.documents is None else self.documents} documents"]
        if self.needed is not None:
            parts[0] += f", {self.needed} needed"
        if self.resolvable is not None:
            what = "they resolve a margin" if self.margin is not None else f"{POWER:.0%} likely to show a difference"
            parts.append(f"{what} of {self.resolvable:.3g}")
        if self.chance is not None:
            parts.append(f"an equal model passes in {'over 99%' if self.chance > 0.99 else f'{self.chance:.0%}'}")
        return f"{self.clause}: {'; '.join(parts)} ({self.source})"


def _quantile(alpha: float) -> float:
    if not 0.0 < alpha < 0.5:
        raise GateError(f"expected 0 < alpha < 0.5, found {alpha}")
    return NormalDist().inv_cdf(1.0 - alpha)


def _quantiles(alpha: float, power: float) -> float:
    if not 0.5 <= power < 1.0:
        raise GateError(f"expected 0.5 <= power < 1, found {power}")
    return _quantile(alpha) + NormalDist().inv_cdf(power)


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise GateError(f"{name}: expected a finite number above zero, found {value}")
    return value
