"""One-sided confidence bounds for scores and for paired differences of scores.

Every function returns an `Interval` whose `lower` and `upper` are each a one-sided bound at level alpha (together they
make a two-sided interval at 1 - 2 alpha). Nothing here knows what a task or a model is.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from registry.errors import GateError

# How close to an end of its range a bound is searched for; the bounds are compared with margins of 1e-3 and more.
_EDGE = 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate with its one-sided bounds, from `n` documents in `clusters` independent groups.

    `above_zero` is the p-value against "the truth is zero or less", `below_zero` that against "zero or more": the
    smallest level at which the bound on that side would still exclude zero. `freedom` are the degrees of freedom of the
    quantile that the bounds were taken at, infinite for the normal one.
    """

    estimate: float
    lower: float
    upper: float
    n: int
    clusters: int
    method: str
    above_zero: float
    below_zero: float
    freedom: float = math.inf

    def turned(self) -> "Interval":
        """The same interval of the value with its sign turned."""
        return replace(
            self,
            estimate=-self.estimate,
            lower=-self.upper,
            upper=-self.lower,
            above_zero=self.below_zero,
            below_zero=self.above_zero,
        )


def quantile(alpha: float, freedom: float = math.inf) -> float:
    """The 1 - alpha quantile of Student's t, of the normal distribution without `freedom`.

    Raises GateError unless 0 < alpha < 0.5.
    """
    if not 0.0 < alpha < 0.5:
        raise GateError(f"alpha: expected a number between 0 and 0.5, found {alpha}")
    if math.isinf(freedom):
        return NormalDist().inv_cdf(1.0 - alpha)
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1.0 - alpha))


def _tails(estimate: float, se: float, freedom: float = math.inf) -> tuple[float, float]:
    """The p-values of `Interval`; without an error only the estimate's side is certain."""
    from scipy.special import ndtr, stdtr

    if se == 0.0:
        return float(estimate <= 0.0), float(estimate >= 0.0)
    ratio = estimate / se
    if math.isinf(freedom):
        return float(ndtr(-ratio)), float(ndtr(ratio))
    return float(stdtr(freedom, -ratio)), float(stdtr(freedom, ratio))


def wilson(successes: int, n: int, alpha: float) -> Interval:
    """The score interval of a proportion. Raises GateError when n is 0.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927), 209-212.
    """
    if n < 1 or not 0 <= successes <= n:
        raise GateError(f"a proportion needs 0 <= successes <= n and n >= 1, found {successes} of {n}")
    z = quantile(alpha)
    share, scale = successes / n, 1.0 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1.0 - share) / n + z * z / (4.0 * n * n))
    # At 0 and at n the bound is 0 and 1 exactly; rounding would leave 1e-18 there.
    lower = 0.0 if successes == 0 else max(0.0, centre - half)
    upper = 1.0 if successes == n else min(1.0, centre + half)
    # Under a share of zero no success can happen, and no share is below it.
    return Interval(share, lower, upper, n, n, "Wilson score", float(successes == 0), 1.0)


def mean_t(values: Sequence[float], clusters: Sequence[Hashable] | None, alpha: float) -> Interval:
    """The mean of `values` -/+ t * SE, clustered when `clusters` names each value's group.

    SE = sqrt(C / (C - 1) * sum over clusters of (sum in the cluster of (v - mean))^2) / n, with C - 1 degrees of
    freedom for the t quantile; without clusters each value is its own, which is the textbook t interval. For paired
    models the values are the per-document differences. Raises GateError with fewer than two independent values.

    Source: E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640, equations 4 and 7; the factor C / (C - 1) is the
    small-sample correction of cluster-robust errors (Cameron and Miller, J. Human Resources 50 (2015), 317-372).
    """
    n = len(values)
    mean = math.fsum(values) / n if n else 0.0
    return _clustered(mean, [v - mean for v in values], clusters, alpha, "t")


def ratio_contrast(
    losses: Sequence[Sequence[float]],
    weights: Sequence[float],
    coefficients: Sequence[float],
    clusters: Sequence[Hashable] | None,
    alpha: float,
) -> Interval:
    """sum over models of coefficient * (sum of losses / sum of weights), models paired on the same documents.

    `losses` holds one sequence a model, all as long as `weights`. The error is the delta method's: a model's ratio R
    is linear in the documents to first order, with terms (loss_i - R * weight_i) / mean weight, which are summed over
    models before squaring, so that what two models share on a document cancels. Raises GateError as `mean_t` does, or
    when the weights sum to zero.

    Source: W. G. Cochran, Sampling Techniques, 3rd ed. (1977), section 6.4 (ratio estimator).
    """
    n, total = len(weights), math.fsum(weights)
    if n == 0 or total <= 0:
        raise GateError(f"a ratio needs documents whose weights sum to more than zero, found {n} that sum to {total}")
    ratios = [math.fsum(loss) / total for loss in losses]
    estimate = math.fsum(c * r for c, r in zip(coefficients, ratios, strict=True))
    # sum_m c_m (l_mi - R_m w_i) / mean weight
    combined = [math.fsum(c * x for c, x in zip(coefficients, row, strict=True)) for row in zip(*losses, strict=True)]
    terms = [(loss - estimate * w) * n / total for loss, w in zip(combined, weights, strict=True)]
    return _clustered(estimate, terms, clusters, alpha, "t, delta method")


def _clustered(
    estimate: float, deviations: Sequence[float], clusters: Sequence[Hashable] | None, alpha: float, method: str
) -> Interval:
    n = len(deviations)
    sums = _cluster_sums(deviations, clusters)
    groups = len(sums)
    if groups < 2:
        what = "cluster" if clusters is not None else "document"
        raise GateError(f"a standard error needs at least two {what}s, found {groups}")
    se = math.sqrt(groups / (groups - 1) * math.fsum(s * s for s in sums)) / n
    half = quantile(alpha, groups - 1) * se
    name = f"{method}, {groups} clusters" if clusters is not None else method
    tails = _tails(estimate, se, groups - 1)
    return Interval(estimate, estimate - half, estimate + half, n, groups, name, *tails, groups - 1)


def _cluster_sums(values: Sequence[float], clusters: Sequence[Hashable] | None) -> list[float]:
    if clusters is None:
        return list(values)
    members: defaultdict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        members[cluster].append(value)
    return [math.fsum(group) for group in members.values()]


def tango(gained: int, lost: int, n: int, alpha: float) -> Interval:
    """The score interval of (gained - lost) / n, the difference of two paired proportions.

    `gained` counts the documents that only the first model has right, `lost` those that only the second has. A bound is
    the difference d at which (gained - lost - n d) / sqrt(n (2 q + d (1 - d))) is the normal quantile, q being the
    maximum-likelihood share of `lost` given d. It holds its level below a few hundred documents, and without a
    discordant document it still has a width, where the normal interval has none.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), 891-908.
    """
    if n < 1 or gained < 0 or lost < 0 or gained + lost > n:
        raise GateError(f"paired proportions need 0 <= gained + lost <= n, found {gained} + {lost} of {n}")

    def variance(d: float) -> float:
        return max(0.0, 2.0 * tango_nuisance(gained, lost, n, d) + d * (1.0 - d))

    return _score_interval((gained - lost) / n, -1.0, 1.0, variance, n, alpha, "Tango score")


def tango_nuisance(gained: int, lost: int, n: int, difference: float) -> float:
    """The maximum-likelihood share of `lost` documents when the difference of the proportions is `difference`."""
    a = 2.0 * n
    b = -gained - lost + (2.0 * n - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    root = math.sqrt(max(0.0, b * b - 4.0 * a * c))
    # (root - b) / 2a cancels when b is positive; -2c / (b + root) is the same number without the loss.
    q = (root - b) / (2.0 * a) if b <= 0 else -2.0 * c / (b + root)
    lowest, highest = max(0.0, -difference), (1.0 - difference) / 2.0
    return min(max(q, lowest), highest)


def score_contrast(values: Sequence[float], low: float, high: float, alpha: float) -> Interval:
    """The score interval of the mean of a discrete contrast of 0/1 scores that can be anything from `low` to `high`.

    Tango's interval with more than three outcomes: the variance in (mean - d) / sqrt(variance / n) is that of the
    multinomial which fits the counts best among those whose mean is d, outcomes nobody saw included. With values in
    {-1, 0, 1} it is Tango's. Used for merged - k * owner - (1 - k) * base, whose t interval has no width, and so
    passes, when a few dozen documents happen to agree.

    Source: the multinomial fit is empirical likelihood with the ends of the range in its support (A. B. Owen, Empirical
    Likelihood (2001), section 2.9); the score interval as in Tango (1998).
    """
    n = len(values)
    if n < 1:
        raise GateError("a contrast needs at least one document, found 0")
    shares = {value: count / n for value, count in sorted(Counter(values).items())}
    mean = math.fsum(values) / n
    return _score_interval(mean, low, high, lambda d: _fitted_variance(shares, d, low, high), n, alpha, "score")


def _fitted_variance(shares: dict[float, float], mean: float, low: float, high: float) -> float:
    """The variance of the best-fitting multinomial with the given mean, strictly between `low` and `high`.

    The fit is p_v = share_v / (1 + slope * (v - mean)), with what is missing to 1 on the end of the range where the
    slope ran into it.
    """
    from scipy.optimize import brentq

    def slack(slope: float) -> float:
        return math.fsum(p * (v - mean) / max(1.0 + slope * (v - mean), _EDGE * _EDGE) for v, p in shares.items())

    first, last = -1.0 / (high - mean), 1.0 / (mean - low)
    if slack(last) >= 0:  # even there too much lies above: the rest goes to the low end
        slope, end = last, low
    elif slack(first) <= 0:
        slope, end = first, high
    else:
        slope, end = float(brentq(slack, first, last, xtol=1e-15, rtol=1e-14)), mean
    fitted = {v: p / max(1.0 + slope * (v - mean), _EDGE * _EDGE) for v, p in shares.items()}
    rest = max(0.0, 1.0 - math.fsum(fitted.values()))
    return math.fsum(p * (v - mean) ** 2 for v, p in fitted.items()) + rest * (end - mean) ** 2


def _score_interval(
    estimate: float, low: float, high: float, variance: Callable[[float], float], n: int, alpha: float, method: str
) -> Interval:
    """The bounds d where |estimate - d| = z * sqrt(variance(d) / n), searched on either side of the estimate."""
    z = quantile(alpha)

    def bound(end: float) -> float:
        from scipy.optimize import brentq

        def distance(d: float) -> float:
            return abs(estimate - d) - z * math.sqrt(variance(d) / n)

        # At the estimate itself the distance is -z * SE, or a root that is no bound when the SE is 0: start beside it.
        near, far = estimate + (end - estimate) * 1e-9, end + (estimate - end) * _EDGE
        if abs(estimate - end) < 1e-9 or distance(far) <= 0:
            return end
        return float(brentq(distance, near, far, xtol=1e-13)) if distance(near) < 0 else near

    tails = _tails(estimate, math.sqrt(variance(0.0) / n))
    return Interval(estimate, bound(low), bound(high), n, n, method, *tails)


def mean_of(parts: Sequence[Interval], alpha: float) -> Interval:
    """The equal-weight mean of independent estimates, each given with its own interval at this same `alpha`.

    Each part's standard error is read back from its own bound, half-width over quantile, on either side by itself: for
    a t interval that is its SE, for Tango's it keeps what makes that hold for few documents. The errors add in squares
    and the degrees of freedom are Welch and Satterthwaite's. Raises GateError for no part.

    Source: F. E. Satterthwaite, Biometrics Bulletin 2 (1946), 110-114; B. L. Welch, Biometrika 34 (1947), 28-35;
    errors from bounds: G. Y. Zou and A. Donner, Statistics in Medicine 27 (2008), 1693-1702.
    """
    if not parts:
        raise GateError("a mean of tasks needs at least one task, found none")
    count = len(parts)
    estimate = math.fsum(part.estimate for part in parts) / count
    below = [(part.estimate - part.lower) / quantile(alpha, part.freedom) / count for part in parts]
    above = [(part.upper - part.estimate) / quantile(alpha, part.freedom) / count for part in parts]
    (low_error, low_freedom), (high_error, high_freedom) = (_combined(errors, parts) for errors in (below, above))
    return Interval(
        estimate=estimate,
        lower=estimate - quantile(alpha, low_freedom) * low_error,
        upper=estimate + quantile(alpha, high_freedom) * high_error,
        n=sum(part.n for part in parts),
        clusters=sum(part.clusters for part in parts),
        method=f"mean of {count} tasks, Welch-Satterthwaite",
        above_zero=_tails(estimate, low_error, low_freedom)[0],
        below_zero=_tails(estimate, high_error, high_freedom)[1],
        freedom=low_freedom,
    )


def _combined(errors: Sequence[float], parts: Sequence[Interval]) -> tuple[float, float]:
    """The standard error of a sum of independent terms, and its degrees of freedom."""
    variance = math.fsum(error * error for error in errors)
    spent = math.fsum(error**4 / part.freedom for error, part in zip(errors, parts, strict=True))
    return math.sqrt(variance), variance * variance / spent if spent > 0 else math.inf
