"""The small vectors: exponential, ranks, direction, and the rules for what divides by zero."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracle
from widen.geometry import ColumnSums
from widen.methods.widen import widen_weights
from widen.scores import exponential, magnitude_and_direction_change, places, rank_scores, softmax


def sums_of(base: np.ndarray, model: np.ndarray) -> ColumnSums:
    delta = model - base
    parts = (base**2).sum(0), (delta * base).sum(0), (delta**2).sum(0)
    return ColumnSums(*(part[None] for part in parts), 0, 0, 0.0)


@settings(max_examples=500, deadline=None)
@given(st.floats(min_value=-700.0, max_value=0.0))
def test_exponential_is_within_two_units_in_the_last_place(x: float) -> None:
    found = float(exponential(np.array([x]))[0])
    assert abs(found - math.exp(x)) <= 2 * math.ulp(math.exp(x))


def test_exponential_ends() -> None:
    assert list(exponential(np.array([0.0, -0.0, -1e9]))) == [1.0, 1.0, 0.0]


def test_softmax_sums_to_one_and_ignores_a_common_shift() -> None:
    values = np.random.default_rng(0).random((3, 50))
    assert np.allclose(softmax(values).sum(0), 1.0, rtol=0, atol=1e-15)
    assert np.allclose(softmax(values), softmax(values + 5.0), rtol=1e-14)


def test_places_follow_a_stable_order() -> None:
    assert places(np.array([[3.0, 1.0, 1.0, 2.0], [0.0, 0.0, 5.0, -1.0]])).tolist() == [[3, 0, 1, 2], [1, 2, 3, 0]]


@given(st.permutations(range(9)))
def test_places_move_with_their_columns(order: list[int]) -> None:
    changes = np.linspace(0.1, 0.9, 9)[None]
    assert np.array_equal(places(changes[:, order]), places(changes)[:, order])


@pytest.mark.parametrize("columns", [1, 2, 5, 9, 101])
def test_threshold_is_the_exact_mean_rank(columns: int) -> None:
    scores = rank_scores(np.arange(columns, dtype=float)[None, None], t=1.0, s=7.0)[0, 0]
    # Half of the places lie above the mean (c-1)/2; the middle one of an odd count is the mean itself, not above it.
    assert list(scores == 7.0) == [place > (columns - 1) / 2 for place in range(columns)]


def test_direction_of_columns_without_magnitude() -> None:
    base = np.array([[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 1.0, 0.0]])
    model = np.array([[0.0, 1.0, 0.0, 2.0], [0.0, 1.0, 0.0, 0.0]])
    magnitude, direction = magnitude_and_direction_change(sums_of(base, model))
    assert list(direction[0]) == [0.0, 1.0, 1.0, 0.0]
    assert magnitude[0] == pytest.approx([0.0, math.sqrt(2.0), math.sqrt(2.0), 0.0], rel=1e-15)


def test_an_untouched_column_has_changes_of_exactly_zero() -> None:
    base = np.random.default_rng(0).standard_normal((400, 30))
    model = base.copy()
    model[:, 10:] *= 1.0 + 1e-7
    magnitude, direction = magnitude_and_direction_change(sums_of(base, model))
    assert not magnitude[0, :10].any()
    assert not direction[0, :10].any()
    assert magnitude[0, 10:].all()


def test_a_tiny_change_keeps_its_digits() -> None:
    generator = np.random.default_rng(0)
    base = generator.standard_normal((64, 50))
    model = base + 1e-9 * generator.standard_normal((64, 50))
    _, direction = magnitude_and_direction_change(sums_of(base, model))
    wide, wider = base.astype(np.longdouble), model.astype(np.longdouble)
    cosine = (wide * wider).sum(0) / np.sqrt((wide**2).sum(0) * (wider**2).sum(0))
    # 80 bits leave the paper's form about two digits here; float64 would leave it none.
    assert np.allclose(direction[0], (1 - cosine).astype(float), rtol=0.05)
    assert len(np.unique(direction)) == 50


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.5, 1.3), (1.7, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("models", [1, 2, 4])
def test_matrix_weights_equal_the_oracle(t: float, s: float, models: int) -> None:
    generator = np.random.default_rng(5)
    base = generator.standard_normal((40, 33))
    changed = [base + 0.3 * (k + 1) * generator.standard_normal(base.shape) for k in range(models)]
    weights = widen_weights([sums_of(base, model) for model in changed], False, t, s)[:, 0]
    merged = base + sum(weight * (model - base) for weight, model in zip(weights, changed, strict=True))
    assert np.allclose(merged, oracle.merge_matrix(base, changed, t, s).astype(float), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.5, 1.3)])
def test_vector_weights_equal_the_oracle(t: float, s: float) -> None:
    generator = np.random.default_rng(6)
    base = generator.standard_normal(57)
    changed = [base + 0.2 * generator.standard_normal(57) for _ in range(3)]
    sums = [sums_of(base[None], model[None]) for model in changed]
    weights = widen_weights(sums, True, t, s)[:, 0]
    merged = base + sum(weight * (model - base) for weight, model in zip(weights, changed, strict=True))
    assert np.allclose(merged, oracle.merge_vector(base, changed, t, s).astype(float), rtol=1e-12, atol=1e-13)
