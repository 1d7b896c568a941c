"""Superiority over several tasks at once: better on any of them (Holm), or in the mean of them."""

from collections.abc import Sequence
from dataclasses import replace

from registry.answers import Cards, verdict
from registry.clauses import BASE_ROLE, CHAMPION_ROLE, Better
from registry.contrast import Contrast, contrast
from registry.decision import ClauseResult, Question, Reference, Verdict
from registry.errors import GateError
from registry.holm import holm
from registry.intervals import Interval, mean_of
from registry.pairing import Paired
from registry.scorecard import Scorecard

_BETTER = (1.0, -1.0)


def answer_better(clause: Better, cards: Cards) -> tuple[list[ClauseResult], list[str]]:
    """One result for each model that `clause` compares with, and notes.

    That is the one it names; without a champion yet, every parent in its place. Raises GateError for a name that no
    model has, and for a mean over tasks that share documents or are in different units.
    """
    rivals, notes = _rivals(clause, cards)
    answer = _any if clause.rule == "any" else _mean
    results = []
    for name, card in rivals.items():
        pairs = [cards.beside(clause, {name: card}, *task) for task in clause.tasks]
        if len({(one.task.task, one.task.metric, one.task.filter) for one in pairs}) < len(pairs):
            raise GateError(f"{clause}: two of its tasks are the same scores; name each once")
        results.append(answer(clause, name, pairs, [contrast(one, _BETTER, cards.alpha) for one in pairs], cards.alpha))
    return results, notes


def _rivals(clause: Better, cards: Cards) -> tuple[dict[str, Scorecard], list[str]]:
    if clause.than == BASE_ROLE:
        return {cards.base.model: cards.base}, []
    if clause.than != CHAMPION_ROLE:
        return {clause.than: cards.parent(clause, clause.than)}, []
    if cards.champion is not None:
        return {CHAMPION_ROLE: cards.champion}, []
    if not cards.parents:
        raise GateError(f"{clause}: there is no champion yet and no parent to stand in for it")
    names = sorted(cards.parents)
    note = f"{clause}: there is no champion yet; asked against every parent instead: {', '.join(names)}"
    return {name: cards.parents[name] for name in names}, [note]


def _any(clause: Better, name: str, pairs: Sequence[Paired], found: Sequence[Contrast], alpha: float) -> ClauseResult:
    """PASS if some p-value adjusted after Holm is at most alpha, FAIL if every task's upper bound is below zero."""
    p_values = [one.interval.above_zero for one in found]
    adjusted = holm(p_values)
    best = min(range(len(found)), key=lambda index: p_values[index])
    first = contrast(pairs[best], _BETTER, alpha / len(found)).interval  # the level of Holm's first step
    upper = max(one.interval.upper for one in found)
    whole = replace(first, upper=upper, method=f"{first.method}, Holm over {len(found)} tasks")
    answer = Verdict.PASS if adjusted[best] <= alpha else Verdict.FAIL if upper < 0 else Verdict.INCONCLUSIVE
    rows = zip(pairs, found, p_values, adjusted, strict=True)
    said = "; ".join(f"{_said(pair, one)}, p {p:.2g}, adjusted {q:.2g}" for pair, one, p, q in rows)
    text = f"better than {name} on at least one: {said}; needs an adjusted p of at most {alpha:g}"
    values = (pairs[best].values[0], pairs[best].values[1])
    return _result(clause, name, "better on any", answer, whole, pairs, found[best].variance, values, text)


def _mean(clause: Better, name: str, pairs: Sequence[Paired], found: Sequence[Contrast], alpha: float) -> ClauseResult:
    _require_independent(clause, pairs)
    _require_one_unit(clause, pairs)
    count = len(pairs)
    whole = mean_of([one.interval for one in found], alpha)
    # So that variance / n is the square of the mean's standard error, as for a single task.
    variance = whole.n * sum(one.variance / pair.n for one, pair in zip(found, pairs, strict=True)) / count**2
    values = (sum(pair.values[0] for pair in pairs) / count, sum(pair.values[1] for pair in pairs) / count)
    said = "; ".join(_said(*row) for row in zip(pairs, found, strict=True))
    numbers = f"{whole.estimate:+.4g} [{whole.lower:+.4g}, {whole.upper:+.4g}], p {whole.above_zero:.2g}"
    text = f"better than {name} in the mean: {numbers}, needs +0, {whole.n} documents: {said}"
    asked: Question = "better in the mean"
    return _result(clause, name, asked, verdict(whole.lower, whole.upper, 0.0), whole, pairs, variance, values, text)


def _said(paired: Paired, found: Contrast) -> str:
    held = found.interval
    return f"{paired.task.label} {held.estimate:+.4g} [{held.lower:+.4g}, {held.upper:+.4g}]"


def _require_independent(clause: Better, pairs: Sequence[Paired]) -> None:
    """The errors of a mean add in squares only when no document counts in two tasks."""
    seen: dict[tuple[str, str], str] = {}
    for pair in pairs:
        for key in {document.key for document in pair.task.documents}:
            if key in seen:
                raise GateError(
                    f"{clause}: {seen[key]} and {pair.task.label} share documents, so their errors do not just add; "
                    "take one of them, or the rule any"
                )
        seen.update((document.key, pair.task.label) for document in pair.task.documents)


def _require_one_unit(clause: Better, pairs: Sequence[Paired]) -> None:
    units = {(p.task.higher_is_better, "a share" if p.kind == "proportion" else p.task.metric) for p in pairs}
    if len(units) > 1:
        found = ", ".join(sorted(f"{unit} ({'higher' if higher else 'lower'} is better)" for higher, unit in units))
        raise GateError(f"{clause}: a mean needs tasks in one unit, found {found}; take the rule any, or a clause each")


def _result(
    clause: Better, name: str, question: Question, found: Verdict, interval: Interval, pairs: Sequence[Paired],
    variance: float, values: tuple[float, float], text: str,
) -> ClauseResult:  # fmt: skip
    return ClauseResult(
        clause=str(clause),
        question=question,
        task=" + ".join(pair.task.task for pair in pairs),
        metric=" + ".join(pair.task.metric for pair in pairs),
        filter=" + ".join(pair.task.filter for pair in pairs),
        higher_is_better=pairs[0].task.higher_is_better,
        verdict=found,
        estimate=interval.estimate,
        lower=interval.lower,
        upper=interval.upper,
        threshold=0.0,
        margin=None,
        n=interval.n,
        clusters=interval.clusters,
        variance=variance,
        method=interval.method,
        merged=values[0],
        references=(Reference(name, values[1]),),
        text=text,
    )
