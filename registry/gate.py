"""When a merged model may be promoted: clauses in, a decision with numbers out. Pure: no file, no clock, no chance.

Each clause is a question put to a one-sided confidence bound. "All must pass" needs no correction for the number of
clauses: it is an intersection-union test, whose level is that of its single tests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from registry.contrast import Contrast, absolute, contrast
from registry.decision import ClauseResult, Decision, Question, Reference, Verdict, overall
from registry.errors import GateError
from registry.pairing import Paired, pair
from registry.power import required_documents
from registry.scorecard import Scorecard

__all__ = ["Absolute", "Clause", "ClauseResult", "Decision", "Parent", "Verdict", "decide"]


@dataclass(frozen=True)
class Absolute:
    """The merged model reaches `floor` (higher is better) or stays under `ceiling` (lower is better) on a task.

    Raises GateError unless exactly one of the two is given.
    """

    task: str
    metric: str
    floor: float | None = None
    ceiling: float | None = None
    filter: str | None = None

    def __post_init__(self) -> None:
        if (self.floor is None) == (self.ceiling is None):
            raise GateError(f"absolute {self.task}/{self.metric}: give either a floor or a ceiling")

    def __str__(self) -> str:
        limit = f"floor {self.floor:g}" if self.floor is not None else f"ceiling {self.ceiling:g}"
        return f"absolute {self.task}/{self.metric}: {limit}"


@dataclass(frozen=True)
class Parent:
    """The merged model is not worse than `owner` by `margin`, or keeps the share `keep` of its gain over the base.

    With `keep` the question is whether merged - keep * owner - (1 - keep) * base is above zero, formed document by
    document: the owner's gain is estimated from the same documents, and its uncertainty is in the interval exactly, as
    it would not be in a margin computed first. With `superior` the merged model must also beat every other parent.
    Raises GateError unless exactly one of `keep` (above 0, at most 1) and `margin` (0 or more) is given.
    """

    task: str
    metric: str
    owner: str
    keep: float | None = None
    margin: float | None = None
    superior: bool = False
    filter: str | None = None

    def __post_init__(self) -> None:
        name = f"parents {self.task}/{self.metric}"
        if (self.keep is None) == (self.margin is None):
            raise GateError(f"{name}: give either keep (a share of the owner's gain) or margin (in the metric's unit)")
        if self.keep is not None and not 0.0 < self.keep <= 1.0:
            raise GateError(f"{name}: expected keep above 0 and at most 1, found {self.keep}")
        if self.margin is not None and not 0.0 <= self.margin < float("inf"):
            raise GateError(f"{name}: expected a finite margin of 0 or more, found {self.margin}")

    def __str__(self) -> str:
        rule = f"keep {self.keep:g} of its gain" if self.keep is not None else f"margin {self.margin:g}"
        also = ", superior to every other parent" if self.superior else ""
        return f"parents {self.task}/{self.metric}: owner {self.owner}, {rule}{also}"


Clause = Absolute | Parent


def decide(
    clauses: Iterable[Clause], merged: Scorecard, base: Scorecard, parents: Mapping[str, Scorecard], alpha: float = 0.05
) -> Decision:
    """Answer every clause about `merged`, at the one-sided level `alpha`.

    `parents` are by name and do not hold the base. PASS when every question passes, FAIL when any fails, else
    INCONCLUSIVE. Raises GateError for whatever could not be asked: no clause, an unknown owner, a task that is missing,
    empty or measured differently somewhere, a superiority without another parent, a threshold that no model can miss.
    """
    asked = tuple(clauses)
    results: list[ClauseResult] = []
    warnings: list[str] = []
    for clause in asked:
        if isinstance(clause, Absolute):
            results.append(_absolute(clause, merged, alpha))
        else:
            results += _parent(clause, merged, base, parents, alpha, warnings)
    warnings += [line for result in results for line in _thin(result, alpha)]
    roles = [("merged", merged.model, merged), ("base", base.model, base)]
    roles += [("parent", name, parents[name]) for name in sorted(parents)]
    return Decision(
        merged=merged.model,
        merged_digest=merged.digest,
        alpha=alpha,
        verdict=overall(result.verdict for result in results),
        results=tuple(results),
        models=tuple((role, name, card.digest, card.digest_of_scores()) for role, name, card in roles),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _absolute(clause: Absolute, merged: Scorecard, alpha: float) -> ClauseResult:
    paired = pair({merged.model: merged}, clause.task, clause.metric, clause.filter)
    higher = paired.task.higher_is_better
    limit = clause.floor if clause.floor is not None else clause.ceiling
    if limit is None or higher != (clause.floor is not None):
        wanted = "floor" if higher else "ceiling"
        raise GateError(f"{clause}: {'higher' if higher else 'lower'} is better there, so give a {wanted}")
    if paired.kind == "proportion" and (limit <= 0 if higher else limit >= 1):
        raise GateError(f"{clause}: every model passes this; a proportion is between 0 and 1")
    found = absolute(paired, alpha)
    threshold = limit if higher else -limit
    return _result(clause, "absolute", paired, found, threshold, None, paired.task.label + " of {0}")


def _parent(
    clause: Parent,
    merged: Scorecard,
    base: Scorecard,
    parents: Mapping[str, Scorecard],
    alpha: float,
    warnings: list[str],
) -> list[ClauseResult]:
    if clause.owner not in parents:
        known = ", ".join(sorted(parents)) or "none"
        raise GateError(f"{clause}: the owner is not a parent of this merge; the parents are {known}")
    results = [_owner(clause, merged, base, parents[clause.owner], alpha, warnings)]
    if clause.superior:
        rivals = [name for name in sorted(parents) if name != clause.owner]
        if not rivals:
            raise GateError(f"{clause}: there is no other parent to be superior to; drop superior")
        results += [_superior(clause, merged, name, parents[name], alpha) for name in rivals]
    return results


def _owner(
    clause: Parent, merged: Scorecard, base: Scorecard, owner: Scorecard, alpha: float, warnings: list[str]
) -> ClauseResult:
    names = _distinct(clause, merged.model, clause.owner, base.model)
    cards = dict(zip(names, (merged, owner, base), strict=True))
    paired = pair(cards, clause.task, clause.metric, clause.filter)
    gain = (paired.values[1] - paired.values[2]) * (1 if paired.task.higher_is_better else -1)
    if clause.keep is not None:
        return _keep(clause, clause.keep, paired, gain, alpha, warnings)
    margin = clause.margin or 0.0
    if paired.kind == "proportion" and margin >= 1:
        raise GateError(f"{clause}: every model passes this; two proportions differ by less than 1")
    if gain <= margin:
        warnings.append(f"{clause}: the owner gained {gain:.4g} over the base, so the base would pass here too")
    found = contrast(paired, (1.0, -1.0, 0.0), alpha)
    return _result(clause, "non-inferior", paired, found, -margin, margin, paired.task.label + ": {0} against {1}")


def _keep(clause: Parent, keep: float, paired: Paired, gain: float, alpha: float, warnings: list[str]) -> ClauseResult:
    if gain <= 0:
        raise GateError(
            f"{clause}: {clause.owner} has no gain over the base there ({paired.values[1]:.4g} against "
            f"{paired.values[2]:.4g}), so there is nothing to keep a share of; name another owner or give a margin"
        )
    if contrast(paired, (0.0, 1.0, -1.0), alpha).lower <= 0:
        warnings.append(f"{clause}: {clause.owner}'s gain over the base, {gain:.4g}, is not clear of zero itself")
    found = contrast(paired, (1.0, -keep, keep - 1.0), alpha)
    text = f"{paired.task.label}: {{0}} against {keep:g} of the way from {{2}} to {{1}}"
    return _result(clause, "non-inferior", paired, found, 0.0, (1.0 - keep) * gain, text)


def _superior(clause: Parent, merged: Scorecard, name: str, rival: Scorecard, alpha: float) -> ClauseResult:
    names = _distinct(clause, merged.model, name)
    paired = pair(dict(zip(names, (merged, rival), strict=True)), clause.task, clause.metric, clause.filter)
    found = contrast(paired, (1.0, -1.0), alpha)
    return _result(clause, "superior", paired, found, 0.0, None, paired.task.label + ": {0} better than {1}")


def _distinct(clause: Parent, *names: str) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise GateError(
            f"{clause}: expected distinct models, found {', '.join(names)}; a model is not its own baseline"
        )
    return names


def _result(
    clause: Clause,
    question: Question,
    paired: Paired,
    found: Contrast,
    threshold: float,
    margin: float | None,
    text: str,
) -> ClauseResult:
    verdict = _verdict(found.lower, found.upper, threshold, at_least=question == "absolute")
    named = [f"{name} {value:.4g}" for name, value in zip(paired.models, paired.values, strict=True)]
    numbers = f"{found.estimate:+.4g} [{found.lower:+.4g}, {found.upper:+.4g}]"
    return ClauseResult(
        clause=str(clause),
        question=question,
        task=paired.task.task,
        metric=paired.task.metric,
        filter=paired.task.filter,
        higher_is_better=paired.task.higher_is_better,
        verdict=verdict,
        estimate=found.estimate,
        lower=found.lower,
        upper=found.upper,
        threshold=threshold,
        margin=margin,
        n=paired.n,
        clusters=found.clusters,
        variance=found.variance,
        method=found.method,
        merged=paired.values[0],
        references=_references(paired, found.coefficients),
        text=f"{text.format(*named)}: {numbers}, needs {threshold:+.4g}, {paired.n} documents",
    )


def _references(paired: Paired, coefficients: Sequence[float]) -> tuple[Reference, ...]:
    rows = list(zip(paired.models, paired.values, coefficients, strict=True))[1:]
    return tuple(Reference(name, value) for name, value, coefficient in rows if coefficient)


def _verdict(lower: float, upper: float, threshold: float, at_least: bool) -> Verdict:
    if lower > threshold or (at_least and lower == threshold):
        return Verdict.PASS
    return Verdict.FAIL if upper < threshold else Verdict.INCONCLUSIVE


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
