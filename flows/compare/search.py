"""The candidates of a comparison: every method's defaults, then what its search asks for; several at a time."""

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.compare.bench import Bench, Merged
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
        """Every candidate that could be merged and scored, as soon as it is; reasons of methods that never could.

        While some are scored the next is merged, as many as there is room for; what each search asks for is the same.
        """
        begun: deque[_Begun] = deque()
        with ExitStack() as searches:
            courses = [_Course(self, method, searches) for method in self.bench.plan.methods]
            while True:
                asked = next(filter(None, (one.ask() for one in courses)), None) if self._has_room(begun) else None
                if asked is not None:
                    begun.append(self._begin(asked))
                elif begun:
                    yield from self._settle(begun.popleft(), failed)
                else:
                    break
        for one in courses:
            if one.count:
                failed.pop(one.method, None)

    def _has_room(self, begun: "deque[_Begun]") -> bool:
        return len(begun) < self.bench.room

    def _begin(self, asked: "_Asked") -> "_Begun":
        before = len(self.bench.work.scored)
        slots = self.bench.scorers.slots if asked.alone else 1
        try:
            wait = self.bench.begin(asked.candidate, "selection", slots)
        except (RecipeError, InputsRefused) as error:
            return _Begun(asked, partial(_refuse, error), new=True)
        return _Begun(asked, wait, len(self.bench.work.scored) > before)

    def _settle(self, begun: "_Begun", failed: dict[str, str]) -> Iterator[Tried]:
        """The candidate with its scores, told to its search; nothing where it cannot be merged or scored."""
        course, trial, candidate = begun.asked.course, begun.asked.trial, begun.asked.candidate
        try:
            found = self._tried(candidate, begun.wait(), begun.new)
        except (RecipeError, InputsRefused) as error:
            self.bench.require_unchanged(self.identity)
            reason = _told(course.method if candidate.trial is None else candidate.name, error)
            failed[course.method] = reason
            if trial is not None:
                course.give_up(trial, reason)
            return
        if trial is not None:
            course.tell(trial, found.kept.value)
        course.count += 1
        yield found

    def _tried(self, candidate: Candidate, merged: Merged, new: bool) -> Tried:
        from registry.kept_share import mean_kept

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
        compared = self.bench.work.compared
        compared.append(candidate.name)
        if new:
            count = f"{len(compared)} of {self.bench.plan.candidates}"
            _say(f"compare: {candidate.name}: keeps {found.objective.value:.3f} ({count})")
        return found


@dataclass(frozen=True)
class _Asked:
    """A candidate to be tried, and the trial that it is of a search, unless its value is known there.

    alone: those that come after it follow from what it comes to.
    """

    course: "_Course"
    candidate: Candidate
    trial: "Trial | None" = None
    alone: bool = False


@dataclass(frozen=True)
class _Begun:
    """One that is merged and perhaps still scored; `new` where it was not at hand."""

    asked: _Asked
    wait: Callable[[], Merged]
    new: bool


class _Course:
    """One method's candidates in order: its defaults, then what its search asks for; `count` came to something."""

    def __init__(self, contest: Contest, method: str, searches: ExitStack) -> None:
        self.method, self.count = method, 0
        self._contest, self._searches = contest, searches
        self._known: deque[Trial] = deque()
        self._search: Search | None = None
        self._begun = False

    def ask(self) -> _Asked | None:
        """The next candidate; None where there is none, or none before others are settled."""
        recipe = self._contest.bench.road.recipe
        if not self._begun:
            self._begun = True
            return _Asked(self, defaults(recipe, self.method))
        if self.method not in self._contest.bench.plan.spaces:
            return None
        search = self._opened()
        if self._known:
            known = self._known.popleft()
            return _Asked(self, tried(recipe, self.method, known.number, known.parameters))
        trial = search.ask()
        if trial is None:
            return None
        candidate = tried(recipe, self.method, trial.number, trial.parameters)
        return _Asked(self, candidate, trial, not search.independent(trial.number))

    def tell(self, trial: "Trial", value: float) -> None:
        """What a trial came to."""
        self._opened().tell(trial, value)

    def give_up(self, trial: "Trial", reason: str) -> None:
        """That it comes to nothing."""
        self._opened().give_up(trial, reason)

    def _opened(self) -> "Search":
        from tasks.study import open_search

        if self._search is None:
            plan, contest = self._contest.bench.plan, self._contest
            basis = settings_of(defaults(contest.bench.road.recipe, self.method).merge).digest
            search = open_search(contest.storage, self.method, plan.spaces[self.method], plan.seed, plan.trials, basis)
            self._search = self._searches.enter_context(search)
            _say_given_up(self.method, self._search.finished())
            self._known.extend(one for one in self._search.finished() if one.value is not None)
        return self._search


def _refuse(error: Exception) -> Merged:
    raise error


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
