"""How much of what its parents gained a merge keeps: the mean over clauses, and how two merges differ in it.

The share that a merge keeps on one clause is (merged - base) / (owner - base), whichever way the metric is better.
Every figure here carries what each document contributes to it, to first order, so that a difference of two merges is
formed document by document, and documents that several clauses ask about count once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from registry.clauses import Parent
from registry.contrast import absolute, contrast
from registry.errors import GateError
from registry.intervals import Interval, mean_t
from registry.pairing import Paired, pair
from registry.scorecard import Scorecard


@dataclass(frozen=True)
class Kept:
    """A share kept. `terms`: what each document, or cluster of them, adds to its error to first order; sums to zero."""

    value: float
    terms: Mapping[str, float]

    def minus(self, other: "Kept") -> "Kept":
        """The difference, document by document."""
        units = sorted({*self.terms, *other.terms})
        terms = {unit: self.terms.get(unit, 0.0) - other.terms.get(unit, 0.0) for unit in units}
        return Kept(self.value - other.value, terms)

    def interval(self, alpha: float) -> Interval:
        """With one-sided bounds at level alpha each: the t interval of the linearised figure.

        Raises GateError with fewer than two documents or clusters. Source: the delta method for a ratio, as in
        `ratio_contrast`; W. G. Cochran, Sampling Techniques, 3rd ed. (1977), section 6.4.
        """
        count = len(self.terms)
        found = mean_t([self.value + count * term for term in self.terms.values()], None, alpha)
        return replace(found, method="t, delta method")


def kept_share(clause: Parent, merged: Scorecard, base: Scorecard, owner: Scorecard) -> Kept:
    """What `merged` keeps of the owner's gain over the base on one clause.

    Raises GateError where the owner has no gain, and as `pair` does.
    """
    cards = {"the merge": merged, "the owner": owner, "the base": base}  # no model can have such a name
    paired = pair(cards, clause.task, clause.metric, clause.filter)
    value, top, bottom = paired.values
    gain = top - bottom
    if (gain if paired.task.higher_is_better else -gain) <= 0:
        raise GateError(
            f"{clause}: {clause.owner} has no gain over the base there ({top:.4g} against {bottom:.4g}), so there is "
            "no share of it to compare merges by; name another owner, or leave the clause out of the comparison"
        )
    share = (value - bottom) / gain
    errors = [_errors(paired, model) for model in range(3)]
    terms: defaultdict[str, float] = defaultdict(float)
    for unit, at_merged, at_owner, at_base in zip(_units(paired), *errors, strict=True):
        terms[unit] += (at_merged - share * at_owner - (1.0 - share) * at_base) / gain
    return Kept(share, dict(sorted(terms.items())))


def mean_kept(shares: Sequence[Kept]) -> Kept:
    """The mean of the clauses' shares, each counting the same. Raises GateError for none."""
    if not shares:
        raise GateError("a mean of shares needs at least one clause under gates.parents, found none")
    count = len(shares)
    units = sorted({unit for one in shares for unit in one.terms})
    terms = {unit: sum(one.terms.get(unit, 0.0) for one in shares) / count for unit in units}
    return Kept(sum(one.value for one in shares) / count, terms)


def gain_is_clear(clause: Parent, base: Scorecard, owner: Scorecard, alpha: float) -> bool:
    """Whether the owner's gain over the base is above zero at level alpha."""
    paired = pair({"the owner": owner, "the base": base}, clause.task, clause.metric, clause.filter)
    return contrast(paired, (1.0, -1.0), alpha).interval.lower > 0


def score_interval(card: Scorecard, task: str, metric: str, filter_name: str, alpha: float) -> Interval:
    """A model's score with its bounds, in the metric's own direction."""
    paired = pair({card.model: card}, task, metric, filter_name)
    found = absolute(paired, alpha).interval
    return found if paired.task.higher_is_better else found.turned()


def _errors(paired: Paired, model: int) -> list[float]:
    """What each document adds to the error of a model's value, to first order."""
    scores, value = paired.scores[model], paired.values[model]
    if paired.kind == "ratio":
        total = sum(paired.weights)
        return [(score - value * weight) / total for score, weight in zip(scores, paired.weights, strict=True)]
    return [(score - value) / paired.n for score in scores]


def _units(paired: Paired) -> list[str]:
    """What is independent: a cluster, or a document; one that two tasks ask about is the same one in both.

    Clusters go by name, whichever task names them. Where tasks that share nothing use equal names, units that are
    independent are pooled: their errors add up to the same variance, told from fewer units than there are.
    """
    if paired.clusters is not None:
        return list(paired.clusters)
    return [document.doc_hash.partition("#")[0] for document in paired.task.documents]
