"""`make gate-table`: what the gate's rules accept, by simulation, beside rules that look alike and are not.

    python -m bench.gate [--rounds 20000] [--seed 1]

For each setting: how often a rule passes a model that it must not pass (at the margin's edge, where at most 5% may),
how often it passes one that it should, and the latter as `registry.power` computes it beforehand. The gate's own rules
call the gate's own functions on every simulated evaluation.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from registry.holm import holm
from registry.intervals import mean_t, ratio_contrast, score_contrast, tango
from registry.power import pass_probability

ALPHA, Z = 0.05, 1.6448536269514722
Draws = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """One rule in one setting: the shares of simulated models accepted, and the second as computed beforehand."""

    setting: str
    rule: str
    edge: float
    good: float
    computed: float | None
    rounds: int


def rows(rounds: int, seed: int) -> Iterator[Row]:
    """Every row of the table. Settings whose rule costs a pass over all documents take a fifth of `rounds`."""
    random = np.random.default_rng(seed)
    fewer = max(1, rounds // 5)
    yield from paired(random, rounds, Paired(1319, 0.15, 0.03, 0.62))
    yield from paired(random, rounds, Paired(164, 0.15, 0.08, 0.62))
    yield from paired(random, rounds, Paired(40, 0.12, 0.12, 0.62))
    yield from clustered(random, fewer)
    yield from ratio(random, fewer)
    yield from share(random, fewer)
    yield from holm_any(random, rounds)


@dataclass(frozen=True)
class Paired:
    """0/1 scores of two models on the same `n` questions, of which they answer the share `discordant` differently."""

    n: int
    discordant: float
    margin: float
    accuracy: float

    def draw(self, random: np.random.Generator, difference: float, rounds: int) -> Draws:
        """Counts (both right, gained, lost, both wrong), a row a simulated evaluation."""
        gained, lost = (self.discordant + difference) / 2, (self.discordant - difference) / 2
        both = self.accuracy - lost  # of the reference, whose accuracy is given
        return random.multinomial(self.n, [both, gained, lost, 1 - both - gained - lost], size=rounds)


def paired(random: np.random.Generator, rounds: int, case: Paired) -> Iterator[Row]:
    """The rules for 0/1 scores: a threshold, the unpaired test, the paired normal one, and the gate's."""
    edge, good = (case.draw(random, difference, rounds) for difference in (-case.margin, 0.0))
    setting = f"{case.n:,} questions, {case.discordant:.0%} discordant, margin {100 * case.margin:g} points"
    computed = pass_probability(case.n, case.discordant, case.margin)
    bound = cache(lambda gained, lost: tango(gained, lost, case.n, ALPHA).lower)

    def by_tango(counts: Draws) -> float:
        return float(np.mean([bound(gained, lost) > -case.margin for gained, lost in counts[:, 1:3].tolist()]))

    rules: list[tuple[str, Callable[[Draws], float], float | None]] = [
        ("point estimate", lambda counts: float(np.mean(_difference(counts) > -case.margin)), None),
        ("unpaired", lambda counts: _normal(counts, _unpaired_error(counts), case.margin), None),
        ("paired, normal", lambda counts: _normal(counts, _paired_error(counts), case.margin), None),
        ("paired, Tango: the gate", by_tango, computed),
    ]
    for name, rule, power in rules:
        yield Row(setting, name, rule(edge), rule(good), power, rounds)


def _difference(counts: Draws) -> Draws:
    return np.asarray((counts[:, 1] - counts[:, 2]) / counts.sum(axis=1))


def _paired_error(counts: Draws) -> Draws:
    n = counts.sum(axis=1)
    return np.asarray(np.sqrt(((counts[:, 1] + counts[:, 2]) / n - _difference(counts) ** 2) / (n - 1)))


def _unpaired_error(counts: Draws) -> Draws:
    """The two models' own standard errors, as a harness reports them, added as if they had answered other questions."""
    n = counts.sum(axis=1)
    shares = ((counts[:, 0] + counts[:, column]) / n for column in (1, 2))
    return np.asarray(np.sqrt(sum(share * (1 - share) / (n - 1) for share in shares)))


def _normal(counts: Draws, error: Draws, margin: float) -> float:
    return float(np.mean(_difference(counts) - Z * error > -margin))


def clustered(random: np.random.Generator, rounds: int) -> Iterator[Row]:
    """Eight questions on each of 60 passages; the difference of two models shifts with the passage."""
    passages, each, margin, between, within = 60, 8, 0.05, 0.15, 0.45
    names = [passage for passage in range(passages) for _ in range(each)]

    def accepted(difference: float, clusters: Sequence[int] | None) -> float:
        passed = []
        for _ in range(rounds):
            shift = random.normal(difference, between, passages)[:, None]
            values = (shift + random.normal(0.0, within, (passages, each))).ravel().tolist()
            passed.append(mean_t(values, clusters, ALPHA).lower > -margin)
        return float(np.mean(passed))

    setting = f"{passages} passages of {each} questions, margin 5 points"
    variance = within**2 + each * between**2
    yield Row(setting, "each question by itself", accepted(-margin, None), accepted(0.0, None), None, rounds)
    power = pass_probability(passages * each, variance, margin)
    yield Row(setting, "clustered: the gate", accepted(-margin, names), accepted(0.0, names), power, rounds)


def ratio(random: np.random.Generator, rounds: int) -> Iterator[Row]:
    """Bits per byte on documents of 50 to 500 bytes; what the merged model loses, it loses on the long ones."""
    n, margin, spread, sizes = 200, 0.02, 0.12, np.arange(50, 500)
    longer = float(np.mean(sizes**2) / np.mean(sizes) ** 2)

    def losses(worse: float) -> tuple[Draws, Draws, Draws]:
        weights = random.choice(sizes, n).astype(float)
        owner = weights * random.normal(1.0, 0.2, n)
        # Over all bytes this makes `worse` bits a byte.
        slope = worse * weights / (sizes.mean() * longer)
        return weights, owner, owner + weights * random.normal(slope, spread)

    def accepted(worse: float, rule: Callable[[Draws, Draws, Draws], float]) -> float:
        return float(np.mean([rule(*losses(worse)) < margin for _ in range(rounds)]))

    setting = f"bits per byte on {n} documents, margin {margin:g}"
    for name, rule, power in (
        ("mean of the documents' own", _mean_of_ratios, None),
        ("ratio of sums, delta method: the gate", _ratio_of_sums, pass_probability(n, spread**2 * longer, margin)),
    ):
        yield Row(setting, name, accepted(margin, rule), accepted(0.0, rule), power, rounds)


def _mean_of_ratios(weights: Draws, owner: Draws, merged: Draws) -> float:
    return mean_t(((merged - owner) / weights).tolist(), None, ALPHA).upper


def _ratio_of_sums(weights: Draws, owner: Draws, merged: Draws) -> float:
    return ratio_contrast([merged.tolist(), owner.tolist()], weights.tolist(), (1.0, -1.0), None, ALPHA).upper


def share(random: np.random.Generator, rounds: int) -> Iterator[Row]:
    """Keep half of what the owner gained, on 100 questions: the gain is itself an estimate."""
    n, keep = 100, 0.5
    outcomes = np.array([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1]])  # merged, owner, base
    # The owner gains 30 points; the merged model keeps half of them, then all but five.
    chances = {"edge": [0.30, 0.325, 0.1625, 0.1875, 0.025], "good": [0.30, 0.325, 0.0625, 0.2875, 0.025]}
    terms = outcomes @ np.array([1.0, -keep, keep - 1.0])
    found = cache(lambda *counts: score_contrast(np.repeat(terms, counts).tolist(), -1.0, 1.0, ALPHA).lower > 0)
    fixed = cache(lambda *counts: _fixed_share(np.repeat(outcomes, counts, axis=0), keep))

    def accepted(rule: Callable[..., bool], which: str) -> float:
        return float(np.mean([rule(*row) for row in random.multinomial(n, chances[which], size=rounds).tolist()]))

    setting = f"keep {keep:.0%} of the owner's gain of 30 points, {n} questions"
    mean, square = (float(np.array(chances["good"]) @ terms**power) for power in (1, 2))
    yield Row(
        setting, "margin fixed from the gain seen", accepted(fixed, "edge"), accepted(fixed, "good"), None, rounds
    )
    power = pass_probability(n, square - mean**2, mean)
    yield Row(setting, "one contrast: the gate", accepted(found, "edge"), accepted(found, "good"), power, rounds)


def _fixed_share(scores: Draws, keep: float) -> bool:
    """The gain is measured first and its share taken as if it were known."""
    merged, owner, base = scores.T
    margin = (1.0 - keep) * float(owner.mean() - base.mean())
    gained, lost = int(np.sum(merged > owner)), int(np.sum(merged < owner))
    return tango(gained, lost, len(scores), ALPHA).lower > -margin


def holm_any(random: np.random.Generator, rounds: int) -> Iterator[Row]:
    """Better on at least one of four tasks of 500 questions, 15% discordant; then truly so on one, by 5 points."""
    n, tasks, discordant, better = 500, 4, 0.15, 0.05
    p_value = cache(lambda gained, lost: tango(gained, lost, n, ALPHA).above_zero)

    def p_values(first: float) -> list[list[float]]:
        columns = []
        for difference in (first, *[0.0] * (tasks - 1)):
            chances = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]
            counts = random.multinomial(n, chances, size=rounds)
            columns.append([p_value(gained, lost) for gained, lost in counts[:, :2].tolist()])
        return [list(row) for row in zip(*columns, strict=True)]

    null, true = p_values(0.0), p_values(better)
    setting = f"better on any of {tasks} tasks of {n} questions; truly so on one, by 5 points"
    alone, any_of = (lambda row: min(row) <= ALPHA), (lambda row: min(holm(row)) <= ALPHA)
    yield Row(setting, "each task at 5%", _share_of(null, alone), _share_of(true, alone), None, rounds)
    one = pass_probability(n, discordant - better**2, better, ALPHA / tasks)
    power = 1 - (1 - one) * (1 - ALPHA / tasks) ** (tasks - 1)
    yield Row(setting, "Holm: the gate", _share_of(null, any_of), _share_of(true, any_of), power, rounds)


def _share_of(table: Sequence[Sequence[float]], rule: Callable[[Sequence[float]], bool]) -> float:
    return float(np.mean([rule(row) for row in table]))


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown; a setting is named once."""
    lines = [
        "| setting | rule | wrongly accepted, at the edge | rightly accepted | computed beforehand |",
        "|---|---|---|---|---|",
    ]
    before = ""
    for row in found:
        computed = "" if row.computed is None else f"{row.computed:.1%}"
        setting, before = ("" if row.setting == before else row.setting), row.setting
        lines.append(f"| {setting} | {row.rule} | {row.edge:.1%} | {row.good:.1%} | {computed} |")
    return "\n".join(lines)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20000, help="simulated evaluations a cell")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    found = list(rows(asked.rounds, asked.seed))
    print(table(found))
    least = min(row.rounds for row in found)
    errors = " and ".join(f"{math.sqrt(0.05 * 0.95 / count):.2%}" for count in (asked.rounds, least))
    print(f"\n{asked.rounds:,} simulated evaluations a cell, {least:,} where documents are walked; seed {asked.seed}.")
    print(f"Monte Carlo error at 5%: {errors}.")


if __name__ == "__main__":
    main()
