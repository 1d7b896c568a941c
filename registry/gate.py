"""When a merged model may be promoted: clauses in, a decision with numbers out. Pure: no file, no clock, no chance.

Each clause is a question put to a one-sided confidence bound. "All must pass" needs no correction for the number of
clauses: it is an intersection-union test, whose level is that of its single tests (R. L. Berger, Technometrics 24
(1982), 295-300). "Better on at least one" does, and has Holm's.
"""

from collections.abc import Iterable, Mapping, Sequence

from registry.answers import Cards, answer_absolute, answer_champion, answer_parent
from registry.better import answer_better
from registry.clauses import (
    CHAMPION_ROLE,
    Absolute,
    Better,
    Champion,
    Clause,
    Parent,
    asks_champion,
    stands_in,
)
from registry.decision import NO_CHAMPION, ClauseResult, Decision, Verdict, overall
from registry.errors import GateError
from registry.power import required_documents
from registry.scorecard import Scorecard

__all__ = ["Absolute", "Better", "Champion", "Clause", "ClauseResult", "Decision", "Parent", "Verdict", "decide"]


def decide(
    clauses: Iterable[Clause],
    merged: Scorecard,
    base: Scorecard,
    parents: Mapping[str, Scorecard],
    alpha: float = 0.05,
    champion: Scorecard | None = None,
) -> Decision:
    """Answer every clause about `merged`, at the one-sided level `alpha`.

    `parents` are by name and do not hold the base. `champion` is None on a first run: a champion clause is then
    answered by the parents clause on the same task and metric, and "better than the champion" against every parent;
    notes say so. PASS when every question passes, FAIL when any fails, else INCONCLUSIVE. Raises GateError for whatever
    could not be asked: no clause, an unknown model, a task that is missing, empty or measured differently somewhere, a
    superiority without a rival, a comparison of a model with itself, a champion clause for which nothing stands in, a
    threshold that no model can miss.
    """
    asked = tuple(clauses)
    against = _against(asked, merged, base, parents, champion)
    cards = Cards(merged, base, parents, champion, alpha)
    results: list[ClauseResult] = []
    warnings: list[str] = []
    notes: list[str] = []
    for clause in asked:
        results += _answer(clause, cards, asked, warnings, notes)
    warnings += [line for result in results for line in _thin(result, alpha)]
    roles = [("merged", merged.model, merged), ("base", base.model, base)]
    roles += [("parent", name, parents[name]) for name in sorted(parents)]
    roles += [(CHAMPION_ROLE, CHAMPION_ROLE, champion)] if champion is not None and against is not None else []
    return Decision(
        merged=merged.model,
        merged_digest=merged.digest,
        alpha=alpha,
        verdict=overall(result.verdict for result in results),
        results=tuple(results),
        models=tuple((role, name, card.digest, card.digest_of_scores()) for role, name, card in roles),
        warnings=tuple(dict.fromkeys(warnings)),
        against=against,
        notes=tuple(dict.fromkeys(notes)),
    )


def _against(
    clauses: Sequence[Clause],
    merged: Scorecard,
    base: Scorecard,
    parents: Mapping[str, Scorecard],
    champion: Scorecard | None,
) -> str | None:
    """What `Decision.against` says of these clauses."""
    asking = [clause for clause in clauses if asks_champion(clause)]
    if not asking:
        return None
    if CHAMPION_ROLE in (merged.model, base.model, *parents):
        raise GateError(f"{asking[0]}: a model of this merge is itself named {CHAMPION_ROLE}; give it another name")
    return NO_CHAMPION if champion is None else champion.digest


def _answer(
    clause: Clause, cards: Cards, asked: Sequence[Clause], warnings: list[str], notes: list[str]
) -> list[ClauseResult]:
    if isinstance(clause, Absolute):
        return [answer_absolute(clause, cards)]
    if isinstance(clause, Parent):
        results, thin = answer_parent(clause, cards)
        warnings += thin
        return results
    if isinstance(clause, Better):
        results, said = answer_better(clause, cards)
        notes += said
        return results
    if cards.champion is None:
        notes += _stand_in(clause, asked)
        return []
    result, thin = answer_champion(clause, cards.champion, cards)
    warnings += thin
    return [result]


def _stand_in(clause: Champion, asked: Sequence[Clause]) -> list[str]:
    """Which parents clauses answer for `clause` while there is no champion; they are asked in any case."""
    found = [str(one) for one in asked if isinstance(one, Parent) and stands_in(one, clause)]
    if not found:
        raise GateError(
            f"{clause}: there is no champion yet, and no parents clause on the same task and metric stands in; "
            "add one under gates.parents"
        )
    return [f"{clause}: there is no champion yet; this stands in: {'; '.join(found)}"]


def _thin(result: ClauseResult, alpha: float) -> list[str]:
    """What to know about the power behind a result: too few documents for the margin, or no difference to measure."""
    label = f"{result.task}/{result.metric}"
    if result.question != "absolute" and result.variance == 0:
        return [f"{label}: all {result.n} documents show the same difference; a few more may not"]
    if result.question != "non-inferior" or not result.margin:
        return []
    needed = required_documents(result.variance, result.margin, alpha)
    if needed <= result.n:
        return []
    return [f"{label}: {result.n} documents; a margin of {result.margin:.4g} needs about {needed} to be resolved"]
