"""The candidates of a comparison, one after the other: every method's defaults, then what its search asks for."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.compare.bench import Bench
from flows.compare.plan import Candidate, defaults, tried
from flows.compare.result import Figure, Tried, figures_of, shares_of
from flows.recipe.methods import settings_of
from widen.errors import InputsRefused, RecipeError

if TYPE_CHECKING:
    from registry.clauses import Parent
    from registry.scorecard import Scorecard
    from tasks.study import Search, Trial


@dataclass(frozen=True)
class Contest:
    """What candidates are held against: clauses, the references' scores on the selection documents, their identity."""

    bench: Bench
    clauses: "tuple[Parent, ...]"
    base: "Scorecard"
    parents: "dict[str, Scorecard]"
    alpha: float
    identity: str

    @property
    def storage(self) -> Path:
        """The file of the searches."""
        return self.bench.studies / f"{self.identity[:32]}.db"

    def candidates(self, failed: dict[str, str]) -> Iterator[Tried]:
        """Every candidate that could be merged and scored, as soon as it is; reasons of methods that never could."""
        for method in self.bench.plan.methods:
            count = 0
            for one in self._of(method, failed):
                count += 1
                yield one
            if count:
                failed.pop(method, None)

    def _of(self, method: str, failed: dict[str, str]) -> Iterator[Tried]:
        recipe, plan = self.bench.road.recipe, self.bench.plan
        try:
            yield self._tried(defaults(recipe, method))
        except (RecipeError, InputsRefused) as error:
            self.bench.require_unchanged(self.identity)
            failed[method] = _told(method, error)
        if method not in plan.spaces:
            return
        from tasks.study import open_search

        basis = settings_of(defaults(recipe, method).merge).digest
        with open_search(self.storage, method, plan.spaces[method], plan.seed, plan.trials, basis) as search:
            _say_given_up(method, search.finished())
            for trial in search.finished():
                if trial.value is not None:
                    yield self._tried(tried(recipe, method, trial.number, trial.parameters))
            while (asked := search.ask()) is not None:
                found = self._trial(search, asked, method, failed)
                if found is not None:
                    yield found

    def _trial(self, search: "Search", asked: "Trial", method: str, failed: dict[str, str]) -> Tried | None:
        """One new trial, told to its search; None where it cannot be merged or scored."""
        try:
            found = self._tried(tried(self.bench.road.recipe, method, asked.number, asked.parameters))
        except (RecipeError, InputsRefused) as error:
            self.bench.require_unchanged(self.identity)
            reason = _told(f"{method}, trial {asked.number + 1}", error)
            search.give_up(asked, reason)
            failed[method] = reason
            return None
        search.tell(asked, found.kept.value)
        return found

    def _tried(self, candidate: Candidate) -> Tried:
        from registry.kept_share import mean_kept

        work = self.bench.work
        before = len(work.scored)
        merged = self.bench.candidate(candidate, "selection")
        shares = shares_of(self.clauses, merged.card, self.base, self.parents)
        kept = mean_kept(shares)
        found = Tried(
            candidate=candidate,
            key=merged.key,
            digest=merged.digest,
            kept=kept,
            shares={
                str(one): Figure.of(share.interval(self.alpha)) for one, share in zip(self.clauses, shares, strict=True)
            },
            objective=Figure.of(kept.interval(self.alpha)),
            scores=figures_of(merged.card, self.alpha),
        )
        work.compared.append(candidate.name)
        if len(work.scored) > before:
            count = f"{len(work.compared)} of {self.bench.plan.candidates}"
            _say(f"compare: {candidate.name}: keeps {found.objective.value:.3f} ({count})")
        return found


def _say_given_up(method: str, trials: "Sequence[Trial]") -> None:
    """What an earlier run of the search left out, told again: the table is of the others alone."""
    reasons = Counter(one.reason or "reason unknown" for one in trials if one.value is None)
    for reason, count in reasons.items():
        _say(f"compare: {method}: {count} of {len(trials)} trials given up before, {reason}")


def _told(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    _say(f"compare: {name}: left out, {reason}")
    return reason


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
