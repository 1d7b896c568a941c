"""Units of scoring by cost: every task of every model once, no later than the longest-first bound, cut only to gain."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tasks.scoring_plan import LEAST_GAIN, Piece, makespan, plan

seconds = st.floats(0.001, 1e4)
names = st.text("abcdef", min_size=1, max_size=3)
models = st.lists(st.tuples(seconds, st.dictionaries(names, seconds, max_size=6)), max_size=6)
slots = st.integers(1, 8)


def whole(asked: list[tuple[float, dict[str, float]]]) -> list[Piece]:
    return [Piece(place, load, tasks) for place, (load, tasks) in enumerate(asked) if tasks]


@given(models, slots)
def test_every_task_of_every_model_once(asked: list[tuple[float, dict[str, float]]], count: int) -> None:
    found = Counter((one.model, name) for one in plan(asked, count) for name in one.tasks)
    assert found == Counter((place, name) for place, (_, tasks) in enumerate(asked) for name in tasks)


@given(models, slots)
def test_within_the_bound_of_longest_first(asked: list[tuple[float, dict[str, float]]], count: int) -> None:
    """No order ends before `least`. The last to end is the longest of all, or began below the mean and is at most half
    of `least`, as one more than there are slots are no shorter."""
    pieces = plan(asked, count)
    costs = sorted((one.seconds for one in pieces), reverse=True)
    least = max([sum(costs) / count, *costs[:1], *([costs[count - 1] + costs[count]] if len(costs) > count else [])])
    assert makespan(pieces, count) <= (3 / 2 - 1 / (2 * count)) * least * (1 + 1e-9)


@given(models, slots)
def test_cuts_only_to_gain(asked: list[tuple[float, dict[str, float]]], count: int) -> None:
    pieces, uncut = plan(asked, count), whole(asked)
    if len(pieces) > len(uncut):
        assert makespan(pieces, count) < makespan(uncut, count) * (1 - LEAST_GAIN)
    assert len(plan(asked, 1)) == len(uncut)


@given(models, slots)
def test_the_same_is_planned_alike_and_longest_first(asked: list[tuple[float, dict[str, float]]], count: int) -> None:
    pieces = plan(asked, count)
    backwards = [(load, dict(reversed(tasks.items()))) for load, tasks in asked]
    assert plan(backwards, count) == pieces
    assert [one.seconds for one in pieces] == sorted((one.seconds for one in pieces), reverse=True)


def test_several_equal_models_are_cut_together() -> None:
    """No single cut helps here: both models bound the time."""
    asked = [(1.0, {"a": 10.0, "b": 10.0})] * 2
    assert makespan(plan(asked, 4), 4) == 11.0
    assert [sorted(one.tasks) for one in plan(asked, 2)] == [["a", "b"], ["a", "b"]]


def test_a_load_that_costs_more_than_its_tasks_is_not_paid_twice() -> None:
    assert len(plan([(100.0, {"a": 0.5, "b": 0.4})], 8)) == 1


def test_halves_go_by_cost_and_not_by_number() -> None:
    asked = [(0.5, {"a": 10.0, "b": 4.0, "c": 4.0, "d": 2.0})]
    assert [sorted(one.tasks) for one in plan(asked, 2)] == [["a"], ["b", "c", "d"]]
