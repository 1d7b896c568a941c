"""The statistics, against published figures, independent methods and simulation at the edge of a margin."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from registry.errors import GateError
from registry.intervals import mean_t, ratio_contrast, score_contrast, tango, tango_nuisance, wilson
from registry.power import required_documents, smallest_margin


@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, n: int, lower: float, upper: float) -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3."""
    found = wilson(successes, n, 0.025)
    assert (round(found.lower, 4), round(found.upper, 4)) == (lower, upper)


@given(st.integers(1, 400), st.data())
def test_wilson_inverts_its_test(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    found = wilson(successes, n, 0.05)
    z = stats.norm.ppf(0.95)
    for bound in (found.lower, found.upper):
        assert (successes / n - bound) ** 2 == pytest.approx(z * z * bound * (1 - bound) / n, abs=1e-12)


def test_tango_as_published() -> None:
    """Airway hyper-responsiveness, in Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), 2850-2875."""
    found = tango(1, 7, 21, 0.025)
    assert (round(found.lower, 3), round(found.upper, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("gained", "lost", "n"), [(3, 9, 40), (0, 4, 30), (5, 0, 25), (0, 0, 50), (10, 10, 20)])
@pytest.mark.parametrize("difference", [-0.6, -0.1, 0.05, 0.5])
def test_tangos_nuisance_maximises_the_likelihood(gained: int, lost: int, n: int, difference: float) -> None:
    def loss(q: float) -> float:
        cells = ((gained, q + difference), (lost, q), (n - gained - lost, 1 - 2 * q - difference))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    grid = np.linspace(low, high, 20001)
    best = loss(tango_nuisance(gained, lost, n, difference))
    assert best <= min(loss(float(q)) for q in grid) + 1e-9


@settings(deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 60), st.sampled_from([0.05, 0.025]))
def test_tangos_bounds_solve_its_equation_and_mirror(gained: int, lost: int, rest: int, alpha: float) -> None:
    n = gained + lost + rest
    found, mirrored = tango(gained, lost, n, alpha), tango(lost, gained, n, alpha)
    assert -1 <= found.lower < found.estimate < found.upper <= 1
    assert (found.lower, found.upper) == pytest.approx((-mirrored.upper, -mirrored.lower), abs=1e-9)
    for bound in (found.lower, found.upper):
        q = tango_nuisance(gained, lost, n, bound)
        statistic = (gained - lost - n * bound) / math.sqrt(n * (2 * q + bound * (1 - bound)))
        assert abs(statistic) == pytest.approx(stats.norm.ppf(1 - alpha), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_the_score_contrast_is_tangos_for_two_models(gained: int, lost: int, rest: int) -> None:
    n = gained + lost + rest
    if n == 0:
        return
    one = score_contrast([1.0] * gained + [-1.0] * lost + [0.0] * rest, -1.0, 1.0, 0.05)
    other = tango(gained, lost, n, 0.05)
    assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper), abs=1e-8)


def test_the_score_contrast_against_a_brute_force_fit() -> None:
    """The bound solves the score equation with the multinomial that a general optimiser finds."""
    values, counts = np.array([-1.0, -0.4, 0.0, 0.4, 0.6, 1.0]), np.array([0, 2, 20, 3, 5, 0])
    data = [v for v, count in zip(values.tolist(), counts.tolist(), strict=True) for _ in range(count)]
    found = score_contrast(data, -1.0, 1.0, 0.05)
    for bound in (found.lower, found.upper):
        fit = optimize.minimize(
            lambda p: -float(counts[counts > 0] @ np.log(p[counts > 0])),
            np.full(6, 1 / 6),
            jac=lambda p: -np.where(counts > 0, counts / p, 0.0),
            bounds=[(1e-12, 1)] * 6,
            constraints=[
                {"type": "eq", "fun": lambda p: p.sum() - 1},
                {"type": "eq", "fun": lambda p, bound=bound: p @ values - bound},
            ],
            method="SLSQP",
            options={"ftol": 1e-13, "maxiter": 500},
        )
        variance = float(fit.x @ values**2) - bound**2
        assert abs(found.estimate - bound) / math.sqrt(variance / 30) == pytest.approx(1.6449, abs=2e-3)


def test_a_score_contrast_without_variation_still_has_a_width() -> None:
    found = score_contrast([0.4] * 10, -1.0, 1.0, 0.05)
    assert found.estimate == pytest.approx(0.4)
    assert found.lower < 0.2
    assert mean_t([0.4] * 10, None, 0.05).lower == pytest.approx(0.4)


def test_the_mean_is_students() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 25)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.90)
    found = mean_t(values.tolist(), None, 0.05)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_equal_clusters_are_students_on_their_means() -> None:
    """With clusters of one size the clustered error is exactly that of the cluster means."""
    values = np.random.default_rng(2).normal(size=(12, 5))
    expected = stats.ttest_1samp(values.mean(axis=1), 0.0).confidence_interval(0.90)
    found = mean_t(values.ravel().tolist(), [i for i in range(12) for _ in range(5)], 0.05)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (found.n, found.clusters) == (60, 12)


def test_a_ratio_with_equal_weights_is_the_mean() -> None:
    losses = np.random.default_rng(3).normal(2.0, 0.2, size=(2, 40))
    one = ratio_contrast(losses.tolist(), [4.0] * 40, (1.0, -1.0), None, 0.05)
    other = mean_t(((losses[0] - losses[1]) / 4).tolist(), None, 0.05)
    assert (one.estimate, one.lower, one.upper) == pytest.approx((other.estimate, other.lower, other.upper), abs=1e-12)


def test_the_delta_method_agrees_with_a_bootstrap() -> None:
    random = np.random.default_rng(4)
    weights = random.integers(20, 400, 300).astype(float)
    ours = weights * random.normal(1.0, 0.2, 300)
    theirs = ours + weights * random.normal(0.05, 0.1, 300)
    found = ratio_contrast([ours.tolist(), theirs.tolist()], weights.tolist(), (1.0, -1.0), None, 0.05)
    drawn = random.integers(0, 300, size=(4000, 300))
    resampled = (ours[drawn] - theirs[drawn]).sum(axis=1) / weights[drawn].sum(axis=1)
    assert found.estimate == pytest.approx((ours - theirs).sum() / weights.sum())
    assert found.estimate - found.lower == pytest.approx(1.65 * resampled.std(), rel=0.05)


def test_intervals_refuse_what_has_no_interval() -> None:
    for nothing in (
        lambda: wilson(0, 0, 0.05),
        lambda: tango(0, 0, 0, 0.05),
        lambda: tango(5, 6, 10, 0.05),
        lambda: score_contrast([], -1, 1, 0.05),
        lambda: mean_t([1.0], None, 0.05),
        lambda: mean_t([1.0, 2.0], ["one", "one"], 0.05),
        lambda: ratio_contrast([[1.0]], [0.0], (1.0,), None, 0.05),
        lambda: wilson(1, 2, 0.5),
        lambda: mean_t([1.0, 2.0], None, 0.0),
    ):
        with pytest.raises(GateError):
            nothing()


def accepted(passes: list[bool]) -> tuple[float, float]:
    """The share of wrong passes and its Monte Carlo error."""
    return float(np.mean(passes)), math.sqrt(0.05 * 0.95 / len(passes))


def test_tango_passes_a_model_at_the_edge_of_the_margin_in_five_percent() -> None:
    """150 documents, 15% discordant, truly worse by exactly the margin of 5 points."""
    bound = cache(lambda gained, lost: tango(gained, lost, 150, 0.05).lower)
    draws = np.random.default_rng(5).multinomial(150, [0.05, 0.10, 0.85], size=20000)
    share, error = accepted([bound(int(b), int(c)) > -0.05 for b, c, _ in draws])
    assert share == pytest.approx(0.05, abs=3 * error + 0.004)  # 0.004: counts are whole numbers


def test_the_kept_share_at_its_edge_passes_in_five_percent() -> None:
    """merged - 0.5 owner - 0.5 base is truly 0; 60 documents, far too few for a normal approximation to be trusted."""
    # Outcomes (merged, owner, base): the owner gains 0.325, of which the merged model keeps half.
    outcomes = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    contrast = outcomes @ np.array([1.0, -0.5, -0.5])
    chances = np.array([0.3, 0.325, 0.1625, 0.1875, 0.025])
    assert contrast @ chances == pytest.approx(0)
    draws = np.random.default_rng(6).multinomial(60, chances, size=1500)
    bound = cache(lambda *counts: score_contrast(np.repeat(contrast, counts).tolist(), -1.0, 1.0, 0.05).lower)
    share, error = accepted([bound(*row) > 0 for row in draws.tolist()])
    assert share == pytest.approx(0.05, abs=3 * error + 0.01)


def test_clusters_at_the_edge_pass_in_five_percent_and_would_not_without() -> None:
    random = np.random.default_rng(7)
    names = [i for i in range(30) for _ in range(8)]
    clustered, plain = [], []
    for _ in range(2000):
        values = (random.normal(-0.1, 0.3, 30)[:, None] + random.normal(0, 0.5, (30, 8))).ravel().tolist()
        clustered.append(mean_t(values, names, 0.05).lower > -0.1)
        plain.append(mean_t(values, None, 0.05).lower > -0.1)
    share, error = accepted(clustered)
    assert share == pytest.approx(0.05, abs=3 * error)
    assert np.mean(plain) > 0.10


def test_ratios_at_the_edge_pass_in_five_percent() -> None:
    random = np.random.default_rng(8)
    passed = []
    for _ in range(2000):
        weights = random.integers(50, 500, 120).astype(float)
        owner = weights * random.normal(1.0, 0.2, 120)
        merged = owner + weights * random.normal(0.02, 0.1, 120)  # worse by exactly 0.02 bits per byte
        found = ratio_contrast([merged.tolist(), owner.tolist()], weights.tolist(), (1.0, -1.0), None, 0.05)
        passed.append(found.upper < 0.02)
    share, error = accepted(passed)
    assert share == pytest.approx(0.05, abs=3 * error + 0.005)


@pytest.mark.parametrize(("points", "documents"), [(0.01, 6183), (0.02, 1546), (0.03, 687)])
def test_required_documents(points: float, documents: int) -> None:
    assert required_documents(0.10, points) == documents
    assert smallest_margin(documents, 0.10) == pytest.approx(points, rel=1e-3)


def test_power_refuses_nonsense() -> None:
    for omega2, delta, power in ((0.0, 0.1, 0.8), (0.1, 0.0, 0.8), (0.1, math.inf, 0.8), (0.1, 0.1, 1.0)):
        with pytest.raises(GateError):
            required_documents(omega2, delta, 0.05, power)
