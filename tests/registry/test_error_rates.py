"""By simulation: at the margin's edge 5% pass wrongly, at equality as many pass as computed beforehand."""

import math
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest

from bench import gate as bench
from bench.gate import Row
from registry.gate import Better, Champion, Verdict, decide
from registry.scorecard import Document, Scorecard, TaskScores

Simulation = Callable[[np.random.Generator, int], Iterator[Row]]
GATE = ": the gate"


def in_1319(random: np.random.Generator, rounds: int) -> Iterator[Row]:
    return bench.paired(random, rounds, bench.Paired(1319, 0.15, 0.03, 0.62))


def in_164(random: np.random.Generator, rounds: int) -> Iterator[Row]:
    return bench.paired(random, rounds, bench.Paired(164, 0.15, 0.08, 0.62))


# The last number: how far the rate may be off beside Monte Carlo error, because counts are whole numbers.
@pytest.mark.parametrize(
    ("simulation", "rounds", "slack"),
    [
        (in_1319, 4000, 0.003),
        (in_164, 4000, 0.02),
        (bench.clustered, 400, 0.0),
        (bench.ratio, 400, 0.005),
        (bench.share, 400, 0.01),
        (bench.holm_any, 2000, 0.005),
    ],
)
def test_the_gates_rules_hold_their_level_and_their_computed_power(
    simulation: Simulation, rounds: int, slack: float
) -> None:
    row = next(row for row in simulation(np.random.default_rng(11), rounds) if row.rule.endswith(GATE))
    assert row.computed is not None
    assert row.edge == pytest.approx(0.05, abs=slack + 3 * math.sqrt(0.05 * 0.95 / rounds))
    assert row.good == pytest.approx(row.computed, abs=0.02 + 3 * math.sqrt(0.25 / rounds))


def test_the_rules_that_look_alike_do_not() -> None:
    """As the documentation's table says: a threshold passes half, an unpaired test half of what is equal."""
    found = {row.rule: row for row in in_1319(np.random.default_rng(12), 4000)}
    assert found["point estimate"].edge == pytest.approx(0.50, abs=0.03)
    assert found["unpaired"].good == pytest.approx(0.46, abs=0.03)
    assert found["unpaired"].edge < 0.01
    small = {row.rule: row for row in bench.paired(np.random.default_rng(13), 4000, bench.Paired(40, 0.12, 0.12, 0.62))}
    assert small["paired, normal"].edge > 0.10
    assert small["paired, Tango: the gate"].edge < 0.06
    none = next(row for row in bench.holm_any(np.random.default_rng(14), 2000) if row.rule == "each task at 5%")
    assert none.edge > 0.15


@cache
def card(model: str, tasks: tuple[tuple[int, int], ...], n: int) -> Scorecard:
    """0/1 scores: the reference is right on the first half; a model gains and loses so many documents by task."""
    held = []
    for number, (gained, lost) in enumerate(tasks):
        right = np.arange(n) < n // 2
        right[:lost], right[n - gained :] = False, True
        documents = tuple(Document(f"{number}-{i:03}", "t", float(value)) for i, value in enumerate(right))
        held.append(TaskScores(f"task{number}", "acc", "none", "proportion", True, "1", "hash", documents))
    return Scorecard(model, model, "harness", tuple(held))


def verdicts(clause: Champion | Better, shares: list[list[float]], n: int, rounds: int) -> list[Verdict]:
    """The gate itself, asked about simulated models whose tasks gain and lose documents with these chances."""
    random = np.random.default_rng(15)
    draws = [random.multinomial(n, [*chances, 1 - sum(chances)], size=rounds)[:, :2].tolist() for chances in shares]
    none = ((0, 0),) * len(shares)
    answer = cache(
        lambda tasks: (
            decide(
                (clause,), card("merged", tasks, n), card("base", none, n), {}, 0.05, card("champion", none, n)
            ).verdict
        )
    )
    return [answer(tuple(tuple(counts) for counts in row)) for row in zip(*draws, strict=True)]


def test_the_champion_clause_itself_holds_its_level() -> None:
    found = verdicts(Champion("task0", "acc", 0.06), [[0.02, 0.08]], 300, 1500)
    assert np.mean([one is Verdict.PASS for one in found]) == pytest.approx(0.05, abs=0.01 + 3 * 0.0056)


def test_better_in_the_mean_holds_its_level() -> None:
    clause = Better("champion", (("task0", "acc", None), ("task1", "acc", None)), "mean")
    found = verdicts(clause, [[0.02, 0.02], [0.03, 0.03]], 60, 800)
    assert np.mean([one is Verdict.PASS for one in found]) == pytest.approx(0.05, abs=0.01 + 3 * 0.0077)
