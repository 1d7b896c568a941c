"""The gate's formulas against published worked examples and against statsmodels, SciPy and NumPy."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_power
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from registry.errors import GateError
from registry.holm import holm
from registry.intervals import Interval, mean_of, mean_t, quantile, ratio_contrast, score_contrast, tango, wilson
from registry.power import Power, pass_probability, required_documents, smallest_margin

CLUSTERS = np.repeat(np.arange(25), np.random.default_rng(0).integers(1, 9, 25))


@pytest.mark.parametrize(
    ("gained", "lost", "n", "level", "lower", "upper"),
    [
        (9, 3, 32, 0.95, -0.027, 0.390),  # Tango 1998, in the tests of the R package ratesci
        (0, 1, 44, 0.90, -0.096, 0.037),  # Tango 1998, lens disinfection, likewise
        (16, 8, 86, 0.95, -0.020, 0.207),  # Agresti and Min, Statistics in Medicine 24 (2005), likewise
        (1, 7, 21, 0.95, -0.517, -0.026),  # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014)
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # R's PropCIs::scoreci.mp(25, 28, 618, 0.90)
    ],
)
def test_tango_as_published(gained: int, lost: int, n: int, level: float, lower: float, upper: float) -> None:
    found = tango(gained, lost, n, (1 - level) / 2)
    digits = max(len(str(bound).partition(".")[2]) for bound in (lower, upper))
    assert (round(found.lower, digits), round(found.upper, digits)) == (lower, upper)


@pytest.mark.parametrize(("gained", "lost", "rest"), [(9, 3, 20), (0, 5, 30), (7, 7, 1), (120, 80, 1000), (1, 0, 0)])
def test_tangos_p_value_is_mcnemars(gained: int, lost: int, rest: int) -> None:
    found = tango(gained, lost, gained + lost + rest, 0.05)
    two_sided = mcnemar([[rest, gained], [lost, 0]], exact=False, correction=False).pvalue
    assert 2 * min(found.above_zero, found.below_zero) == pytest.approx(two_sided, rel=1e-9)
    assert found.above_zero + found.below_zero == pytest.approx(1)
    assert (found.above_zero < 0.5) == (gained > lost)


@pytest.mark.parametrize(("successes", "n"), [(0, 12), (3, 12), (81, 263), (263, 263), (700, 1319)])
def test_wilson_is_statsmodels(successes: int, n: int) -> None:
    found = wilson(successes, n, 0.05)
    assert (found.lower, found.upper) == pytest.approx(
        proportion_confint(successes, n, alpha=0.10, method="wilson"), abs=1e-12
    )


def test_the_paired_mean_is_statsmodels_and_passes_as_its_equivalence_test() -> None:
    merged, owner = np.random.default_rng(1).normal([[0.0], [0.1]], 1.0, (2, 60))
    found = mean_t((merged - owner).tolist(), None, 0.05)
    assert (found.lower, found.upper) == pytest.approx(DescrStatsW(merged - owner).tconfint_mean(alpha=0.10), rel=1e-12)
    assert found.above_zero == pytest.approx(stats.ttest_rel(merged, owner, alternative="greater").pvalue, rel=1e-12)
    assert found.below_zero == pytest.approx(stats.ttest_rel(merged, owner, alternative="less").pvalue, rel=1e-12)
    for margin in (0.1, 0.3, 0.5):
        _, (_, p_value, _), _ = ttost_paired(merged, owner, -margin, margin)
        assert (found.lower > -margin) == (p_value < 0.05)


def test_clustered_errors_are_those_of_a_regression() -> None:
    values = (
        np.random.default_rng(2).normal(0.2, 1.0, len(CLUSTERS)) + np.random.default_rng(3).normal(0, 1, 25)[CLUSTERS]
    )
    fit = sm.OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": CLUSTERS, "use_correction": True}, use_t=True
    )
    found = mean_t(values.tolist(), CLUSTERS.tolist(), 0.05)
    assert (found.lower, found.upper) == pytest.approx(tuple(fit.conf_int(0.10)[0]), rel=1e-10)
    assert 2 * min(found.above_zero, found.below_zero) == pytest.approx(float(fit.pvalues[0]), rel=1e-9)


@pytest.mark.parametrize("clustered", [False, True])
def test_a_ratio_is_a_weighted_regression_through_the_origin(clustered: bool) -> None:
    """Cochran's estimator: the slope of losses on bytes with a variance that grows with the bytes."""
    random = np.random.default_rng(4)
    bytes_ = random.integers(20, 400, len(CLUSTERS)).astype(float)
    ours = bytes_ * random.normal(1.0, 0.2, len(CLUSTERS))
    theirs = bytes_ * random.normal(1.1, 0.2, len(CLUSTERS))
    groups = CLUSTERS if clustered else np.arange(len(CLUSTERS))
    fit = sm.WLS(ours - theirs, bytes_, weights=1 / bytes_).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True}, use_t=True
    )
    names = CLUSTERS.tolist() if clustered else None
    found = ratio_contrast([ours.tolist(), theirs.tolist()], bytes_.tolist(), (1.0, -1.0), names, 0.05)
    assert (found.lower, found.upper) == pytest.approx(tuple(fit.conf_int(0.10)[0]), rel=1e-9)
    assert 2 * min(found.above_zero, found.below_zero) == pytest.approx(float(fit.pvalues[0]), rel=1e-9)


def intervals() -> list[tuple[str, Callable[[float], Interval]]]:
    random = np.random.default_rng(5)
    values, weights = (random.normal(0.3, 0.5, 40)).tolist(), random.integers(10, 90, 40).astype(float).tolist()
    kept = random.choice([-0.4, 0.0, 0.4, 0.6], 40, p=[0.1, 0.5, 0.2, 0.2]).tolist()
    return [
        ("t", lambda alpha: mean_t(values, None, alpha)),
        ("clustered", lambda alpha: mean_t(values, [i // 4 for i in range(40)], alpha)),
        ("ratio", lambda alpha: ratio_contrast([values], weights, (1.0,), None, alpha)),
        ("tango", lambda alpha: tango(12, 5, 60, alpha)),
        ("score", lambda alpha: score_contrast(kept, -1.0, 1.0, alpha)),
        ("mean", lambda alpha: mean_of([mean_t(values, None, alpha), tango(12, 5, 60, alpha)], alpha)),
    ]


@pytest.mark.parametrize(("name", "interval"), intervals(), ids=[name for name, _ in intervals()])
def test_a_p_value_is_the_level_at_which_its_interval_touches_zero(
    name: str, interval: Callable[[float], Interval]
) -> None:
    found = interval(0.05)
    assert 0 < found.above_zero < 0.5
    if name == "mean":  # Tango's half-width depends on the level a little, so the p-value is that at 5%
        touching = interval(float(found.above_zero))
        assert touching.lower == pytest.approx(0, abs=0.01)
        return
    assert interval(found.above_zero).lower == pytest.approx(0, abs=1e-9)
    assert interval(found.above_zero * 0.9).lower < 0 < interval(min(0.49, found.above_zero * 1.1)).lower


def test_turned_is_the_interval_of_the_negated_values() -> None:
    values = np.random.default_rng(6).normal(0.1, 1.0, 30)
    one, other = mean_t(values.tolist(), None, 0.05).turned(), mean_t((-values).tolist(), None, 0.05)
    assert (one.estimate, one.lower, one.upper, one.above_zero) == pytest.approx(
        (other.estimate, other.lower, other.upper, other.above_zero), rel=1e-12
    )


def test_nothing_seen_is_significant_of_nothing() -> None:
    for found in (tango(0, 0, 50, 0.05), mean_t([0.0] * 5, None, 0.05), score_contrast([0.0] * 5, -1, 1, 0.05)):
        assert (found.above_zero, found.below_zero) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels(seed: int) -> None:
    p_values = np.random.default_rng(seed).random(8) ** 2
    p_values[3] = p_values[5]
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_as_published() -> None:
    """Four p-values as in S. Holm (1979) and most textbooks since: 0.01, 0.04, 0.03, 0.005."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()


def test_the_mean_of_two_tasks_is_welchs_test() -> None:
    """mean(x) - mean(y) is twice the mean of the tasks x and -y."""
    random = np.random.default_rng(7)
    one, other = random.normal(0.3, 1.0, 25), random.normal(0.1, 3.0, 12)
    expected = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    found = mean_of([mean_t(one.tolist(), None, 0.05), mean_t((-other).tolist(), None, 0.05)], 0.05)
    assert found.freedom == pytest.approx(expected.df)
    assert found.above_zero == pytest.approx(expected.pvalue)
    assert 2 * found.lower == pytest.approx(expected.confidence_interval(0.95).low)


def test_the_mean_of_one_task_is_that_task_and_of_none_an_error() -> None:
    for one in (mean_t([0.1, 0.4, -0.2, 0.5], None, 0.05), tango(9, 3, 32, 0.05)):
        found = mean_of([one], 0.05)
        assert (found.lower, found.upper) == pytest.approx((one.lower, one.upper))
    with pytest.raises(GateError, match="at least one task"):
        mean_of([], 0.05)


def test_quantiles() -> None:
    assert quantile(0.05, 7) == pytest.approx(stats.t.ppf(0.95, 7))
    assert quantile(0.05) == pytest.approx(stats.norm.ppf(0.95))


@pytest.mark.parametrize(
    ("n", "omega2", "delta", "alpha"), [(1319, 0.15, 0.03, 0.05), (164, 0.1, 0.05, 0.05), (50, 1.2, 0.4, 0.01)]
)
def test_power_is_statsmodels(n: int, omega2: float, delta: float, alpha: float) -> None:
    expected = float(normal_power(delta / math.sqrt(omega2), n, alpha, alternative="larger"))
    assert pass_probability(n, omega2, delta, alpha) == pytest.approx(expected, abs=1e-9)
    assert pass_probability(n, omega2, 0.0, alpha) == pytest.approx(alpha)
    needed = required_documents(omega2, delta, alpha)
    assert pass_probability(needed, omega2, delta, alpha) >= 0.8 > pass_probability(needed - 1, omega2, delta, alpha)
    assert smallest_margin(needed, omega2, alpha) <= delta


def test_human_eval_cannot_resolve_a_few_points() -> None:
    """164 documents: 6.1 points at 10% discordant answers, 7.5 at 15%."""
    assert smallest_margin(164, 0.10) == pytest.approx(0.0614, abs=1e-4)
    assert smallest_margin(164, 0.15) == pytest.approx(0.0752, abs=1e-4)
    found = Power("champion humaneval/pass@1: margin 0.05", 164, 0.10, "assumed", 0.05)
    assert found.warning is not None
    assert "cannot resolve a margin below 0.0614" in found.warning
    assert "take 248 documents, or allow 0.061" in found.warning
    assert (found.needed, found.chance) == (248, pytest.approx(0.648, abs=1e-3))
    assert Power("clause", 248, 0.10, "assumed", 0.05).warning is None


def test_what_is_not_known_is_said() -> None:
    assert str(Power("clause", None, None, "not known", 0.1)) == "clause: unknown documents (not known)"
    assert str(Power("clause", None, 0.1, "assumed", 0.03)) == "clause: unknown documents, 687 needed (assumed)"
    told = "600 documents, 172 needed; they resolve a margin of 0.0321; an equal model passes in over 99% (assumed)"
    assert str(Power("clause", 600, 0.1, "assumed", 0.06)) == f"clause: {told}"
    assert "80% likely to show a difference of 0.0321" in str(Power("clause", 600, 0.1, "assumed", None))
    for nonsense in (lambda: pass_probability(10, 0.1, -0.1), lambda: pass_probability(10, 0.1, 0.1, 0.6)):
        with pytest.raises(GateError):
            nonsense()


def test_an_interval_that_is_exact_has_no_p_value_between() -> None:
    certain: Interval = mean_t([0.25] * 4, None, 0.05)
    assert (certain.above_zero, certain.below_zero) == (0.0, 1.0)
