"""From paired scores to an oriented interval: which statistic answers which kind of metric."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import pvariance

from registry.errors import GateError
from registry.intervals import Interval, mean_t, ratio_contrast, score_contrast, tango, wilson
from registry.pairing import Paired


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of models' values with its interval, turned so that more is better.

    `variance` is that of one document's term, in the metric's unit, clusters counted in.
    """

    coefficients: tuple[float, ...]
    interval: Interval
    variance: float


@contextmanager
def _naming(paired: Paired) -> Iterator[None]:
    try:
        yield
    except GateError as error:
        raise GateError(f"{paired.task.label} of {' and '.join(paired.models)}: {error}") from error


def absolute(paired: Paired, alpha: float) -> Contrast:
    """The value of the only model in `paired`: Wilson's interval for unclustered 0/1 scores, else mean -/+ t * SE."""
    with _naming(paired):
        found = _absolute(paired, alpha)
    return _oriented(paired, (1.0,), found)


def _absolute(paired: Paired, alpha: float) -> Interval:
    (scores,) = paired.scores
    if paired.kind == "ratio":
        return ratio_contrast([scores], paired.weights, (1.0,), paired.clusters, alpha)
    if paired.kind == "mean" or (paired.clusters is not None and len(set(scores)) > 1):
        return mean_t(scores, paired.clusters, alpha)
    # Clusters that all agree leave the clustered error without width: count each cluster once instead.
    units = len(set(paired.clusters)) if paired.clusters is not None else paired.n
    return wilson(round(paired.values[0] * units), units, alpha)


def contrast(paired: Paired, coefficients: Sequence[float], alpha: float) -> Contrast:
    """The sum over the models of coefficient * value, paired document by document.

    Unclustered 0/1 scores take a score interval (Tango's when two models are compared), ratios the delta method, means
    the t interval. Coefficients sum to zero, and at most one of them is positive, a model's own.
    """
    used = [(c, s) for c, s in zip(coefficients, paired.scores, strict=True) if c]
    signs, columns = [c for c, _ in used], [s for _, s in used]
    with _naming(paired):
        if paired.kind == "ratio":
            found = ratio_contrast(columns, paired.weights, signs, paired.clusters, alpha)
        else:
            terms = [sum(c * x for c, x in zip(signs, row, strict=True)) for row in zip(*columns, strict=True)]
            found = _mean(paired, signs, terms, alpha)
    return _oriented(paired, tuple(coefficients), found)


def _mean(paired: Paired, signs: Sequence[float], terms: Sequence[float], alpha: float) -> Interval:
    if paired.kind == "mean" or (paired.clusters is not None and len(set(terms)) > 1):
        return mean_t(terms, paired.clusters, alpha)
    # Clusters that all agree leave the clustered error without width: count each cluster once instead.
    units = terms if paired.clusters is None else terms[: len(set(paired.clusters))]
    if sorted(signs) == [-1.0, 1.0]:
        return tango(sum(t > 0 for t in units), sum(t < 0 for t in units), len(units), alpha)
    low, high = sum(c for c in signs if c < 0), sum(c for c in signs if c > 0)
    return score_contrast([round(t, 12) for t in units], low, high, alpha)


def _oriented(paired: Paired, coefficients: tuple[float, ...], found: Interval) -> Contrast:
    turned = found if paired.task.higher_is_better else found.turned()
    return Contrast(coefficients, turned, _variance(paired, coefficients))


def _variance(paired: Paired, coefficients: Sequence[float]) -> float:
    """The variance of one document's term; a cluster counts as its documents do together (the design effect)."""
    weight = sum(paired.weights) / paired.n if paired.kind == "ratio" else 1.0
    values = paired.values if paired.kind == "ratio" else (0.0,) * len(paired.values)
    rows = zip(paired.weights, zip(*paired.scores, strict=True), strict=True)
    terms = [
        sum(c * (x - value * w) for c, x, value in zip(coefficients, row, values, strict=True)) / weight
        for w, row in rows
    ]
    if paired.clusters is None:
        return float(pvariance(terms))
    mean = sum(terms) / paired.n
    sums: dict[str, float] = {}
    for term, cluster in zip(terms, paired.clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + term - mean
    return sum(s * s for s in sums.values()) / paired.n
