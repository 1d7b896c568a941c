"""Each clause on a single task put to its confidence bound: the merged model alone, or beside one other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.clauses import CHAMPION_ROLE, Absolute, Champion, Clause, Parent
from registry.contrast import Contrast, absolute, contrast
from registry.decision import ClauseResult, Question, Reference, Verdict
from registry.errors import GateError
from registry.pairing import Paired, pair
from registry.scorecard import Scorecard


@dataclass(frozen=True)
class Cards:
    """The scorecards that clauses speak of, and the one-sided level they are asked at. `parents` are by name."""

    merged: Scorecard
    base: Scorecard
    parents: Mapping[str, Scorecard]
    champion: Scorecard | None
    alpha: float

    def parent(self, clause: Clause, name: str) -> Scorecard:
        """The parent of that name. Raises GateError when this merge has none."""
        if name not in self.parents:
            known = ", ".join(sorted(self.parents)) or "none"
            raise GateError(f"{clause}: {name} is not a parent of this merge; the parents are {known}")
        return self.parents[name]

    def beside(
        self, clause: Clause, others: Mapping[str, Scorecard], task: str, metric: str, filter_name: str | None
    ) -> Paired:
        """The merged model first, then `others`, on the same documents.

        Raises GateError as `pair` does, or when one of `others` is the merged model itself, by name or by its weights.
        """
        names = (self.merged.model, *others)
        if len(set(names)) != len(names):
            raise GateError(
                f"{clause}: expected distinct models, found {', '.join(names)}; a model is not its own baseline"
            )
        for name, card in others.items():
            if card.digest == self.merged.digest:
                raise GateError(
                    f"{clause}: {name} and {names[0]} have the same weights; a model is not its own baseline"
                )
        return pair({names[0]: self.merged, **others}, task, metric, filter_name)


def answer_absolute(clause: Absolute, cards: Cards) -> ClauseResult:
    """The merged model against a floor or a ceiling."""
    paired = pair({cards.merged.model: cards.merged}, clause.task, clause.metric, clause.filter)
    higher = paired.task.higher_is_better
    limit = clause.floor if clause.floor is not None else clause.ceiling
    if limit is None or higher != (clause.floor is not None):
        wanted = "floor" if higher else "ceiling"
        raise GateError(f"{clause}: {'higher' if higher else 'lower'} is better there, so give a {wanted}")
    if paired.kind == "proportion" and (limit <= 0 if higher else limit >= 1):
        raise GateError(f"{clause}: every model passes this; a proportion is between 0 and 1")
    found = absolute(paired, cards.alpha)
    return _result(clause, "absolute", paired, found, limit if higher else -limit, None, paired.task.label + " of {0}")


def answer_parent(clause: Parent, cards: Cards) -> tuple[list[ClauseResult], list[str]]:
    """The merged model against the owner of a capability and, if asked, against every other parent; with warnings."""
    owner = cards.parent(clause, clause.owner)
    others = {clause.owner: owner, cards.base.model: cards.base}
    paired = cards.beside(clause, others, clause.task, clause.metric, clause.filter)
    if clause.keep is not None:
        result, warnings = _keep(clause, clause.keep, paired, cards.alpha)
    else:
        result, warnings = _within(clause, clause.margin or 0.0, "the owner", paired, cards.alpha)
    if not clause.superior:
        return [result], warnings
    rivals = [name for name in sorted(cards.parents) if name != clause.owner]
    if not rivals:
        raise GateError(f"{clause}: there is no other parent to be superior to; drop superior")
    return [result, *(_superior(clause, name, cards) for name in rivals)], warnings


def answer_champion(clause: Champion, champion: Scorecard, cards: Cards) -> tuple[ClauseResult, list[str]]:
    """The merged model against the champion, with warnings."""
    others = {CHAMPION_ROLE: champion, cards.base.model: cards.base}
    paired = cards.beside(clause, others, clause.task, clause.metric, clause.filter)
    return _within(clause, clause.margin, "the champion", paired, cards.alpha)


def _within(
    clause: Parent | Champion, margin: float, whom: str, paired: Paired, alpha: float
) -> tuple[ClauseResult, list[str]]:
    """The first model is not worse than the second by `margin`; the third, the base, only says what that is worth."""
    if paired.kind == "proportion" and margin >= 1:
        raise GateError(f"{clause}: every model passes this; two proportions differ by less than 1")
    warnings, gain = [], _gain(paired)
    if gain <= margin:
        warnings.append(f"{clause}: {whom} gained {gain:.4g} over the base, so the base would pass here too")
    found = contrast(paired, (1.0, -1.0, 0.0), alpha)
    text = paired.task.label + ": {0} against {1}"
    return _result(clause, "non-inferior", paired, found, -margin, margin, text), warnings


def _keep(clause: Parent, keep: float, paired: Paired, alpha: float) -> tuple[ClauseResult, list[str]]:
    warnings, gain = [], _gain(paired)
    if gain <= 0:
        raise GateError(
            f"{clause}: {clause.owner} has no gain over the base there ({paired.values[1]:.4g} against "
            f"{paired.values[2]:.4g}), so there is nothing to keep a share of; name another owner or give a margin"
        )
    if contrast(paired, (0.0, 1.0, -1.0), alpha).interval.lower <= 0:
        warnings.append(f"{clause}: {clause.owner}'s gain over the base, {gain:.4g}, is not clear of zero itself")
    found = contrast(paired, (1.0, -keep, keep - 1.0), alpha)
    text = f"{paired.task.label}: {{0}} against {keep:g} of the way from {{2}} to {{1}}"
    return _result(clause, "non-inferior", paired, found, 0.0, (1.0 - keep) * gain, text), warnings


def _gain(paired: Paired) -> float:
    """What the second model has over the third, more being better."""
    return (paired.values[1] - paired.values[2]) * (1 if paired.task.higher_is_better else -1)


def _superior(clause: Parent, name: str, cards: Cards) -> ClauseResult:
    paired = cards.beside(clause, {name: cards.parents[name]}, clause.task, clause.metric, clause.filter)
    found = contrast(paired, (1.0, -1.0), cards.alpha)
    return _result(clause, "superior", paired, found, 0.0, None, paired.task.label + ": {0} better than {1}")


def _result(
    clause: Clause,
    question: Question,
    paired: Paired,
    found: Contrast,
    threshold: float,
    margin: float | None,
    text: str,
) -> ClauseResult:
    held = found.interval
    named = [f"{name} {value:.4g}" for name, value in zip(paired.models, paired.values, strict=True)]
    numbers = f"{held.estimate:+.4g} [{held.lower:+.4g}, {held.upper:+.4g}]"
    return ClauseResult(
        clause=str(clause),
        question=question,
        task=paired.task.task,
        metric=paired.task.metric,
        filter=paired.task.filter,
        higher_is_better=paired.task.higher_is_better,
        verdict=verdict(held.lower, held.upper, threshold, at_least=question == "absolute"),
        estimate=held.estimate,
        lower=held.lower,
        upper=held.upper,
        threshold=threshold,
        margin=margin,
        n=paired.n,
        clusters=held.clusters,
        variance=found.variance,
        method=held.method,
        merged=paired.values[0],
        references=_references(paired, found.coefficients),
        text=f"{text.format(*named)}: {numbers}, needs {threshold:+.4g}, {paired.n} documents",
    )


def _references(paired: Paired, coefficients: Sequence[float]) -> tuple[Reference, ...]:
    rows = list(zip(paired.models, paired.values, coefficients, strict=True))[1:]
    return tuple(Reference(name, value) for name, value, coefficient in rows if coefficient)


def verdict(lower: float, upper: float, threshold: float, at_least: bool = False) -> Verdict:
    """PASS with `lower` above the threshold (or at it), FAIL with `upper` below it, else INCONCLUSIVE."""
    if lower > threshold or (at_least and lower == threshold):
        return Verdict.PASS
    return Verdict.FAIL if upper < threshold else Verdict.INCONCLUSIVE
