"""A search kept on disk and taken up where it was left: the door to Optuna."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.search_space import Choices, Range, Space, Value, grid_size, planned
from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import Trial as Asked

STARTUP = 5
"""Trials at random before TPE models what was found."""
REASON, LONGEST_REASON = "reason", 500
DIGITS = 4
"""Significant digits of a value from a range: what is merged is what a recipe can say in short."""


@dataclass(frozen=True)
class Trial:
    """One point of a search; `value` is None until it was told, and where it was given up for a `reason`."""

    number: int
    parameters: Mapping[str, Value]
    value: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Search:
    """An open study of `trials` points of `space`; where all are lists and few enough, each combination once.

    The point of a trial is a function of seed, name, space and of what the trials before it came to: a search that was
    killed goes on with the points that it would have tried. Every method raises EnvironmentFault where `storage` cannot
    be read or written.
    """

    study: "Study"
    storage: Path
    name: str
    space: Space
    seed: int
    trials: int
    _out: set[int] = field(default_factory=set)

    @property
    def grid(self) -> bool:
        """Whether every combination is tried."""
        return _is_grid(self.space, self.trials)

    @property
    def wanted(self) -> int:
        """How many trials there will be."""
        return planned(self.space, self.trials)

    def finished(self) -> tuple[Trial, ...]:
        """The trials that were told or given up, among the first `wanted`, in order."""
        from optuna.trial import TrialState

        with _keeping(self.storage):
            done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        return tuple(
            Trial(one.number, self._rounded(one.params), one.value, one.user_attrs.get(REASON))
            for one in done
            if one.number < self.wanted
        )

    def ask(self) -> Trial | None:
        """The point to try next, first of all one that was asked for before a kill; it is `out` until told or given up.

        None when none is left, or while the next one follows from what those that are out come to.
        """
        with _keeping(self.storage):
            left = self._left()
            number = left.number if left else len(self.study.get_trials(deepcopy=False))
            if number >= self.wanted or (self._out and not self.independent(number)):
                return None
            self.study.sampler = self._sampler(number)
            asked = left or self.study.ask()
            found = {name: _suggested(asked, name, one) for name, one in sorted(self.space.items())}
        self._out.add(asked.number)
        return Trial(asked.number, self._rounded(found))

    def independent(self, number: int) -> bool:
        """Whether a trial's point is the same whatever the trials before it come to."""
        return self.grid or number < STARTUP

    def _left(self) -> "Asked | None":
        """The first trial that was asked for before a kill, and never told."""
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        left = [one.number for one in running if one.number not in self._out]
        return self._asked(min(left)) if left else None

    def _asked(self, number: int) -> "Asked":
        from optuna.trial import Trial as Asked

        return Asked(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)

    def tell(self, trial: Trial, value: float) -> None:
        """Keep what a trial came to."""
        from optuna.samplers import TPESampler

        self.study.sampler = TPESampler(seed=0)  # the grid's own ends the study that it was not started in
        with _keeping(self.storage):
            self.study.tell(trial.number, value)
        self._out.discard(trial.number)

    def give_up(self, trial: Trial, reason: str) -> None:
        """Keep that the trial asked for comes to nothing, and why; it is not asked for again."""
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        self.study.sampler = TPESampler(seed=0)
        with _keeping(self.storage):
            self._asked(trial.number).set_user_attr(REASON, reason[:LONGEST_REASON])
            self.study.tell(trial.number, state=TrialState.FAIL)
        self._out.discard(trial.number)

    def _sampler(self, number: int) -> "BaseSampler":
        from optuna.samplers import GridSampler, TPESampler

        if self.grid:
            lists = {name: list(one.values) for name, one in self.space.items() if isinstance(one, Choices)}
            return GridSampler(lists, seed=_seed(self.seed, self.name))
        return TPESampler(seed=_seed(self.seed, self.name, number), n_startup_trials=STARTUP)

    def _rounded(self, found: Mapping[str, Value]) -> dict[str, Value]:
        return {name: _short(found[name], self.space[name]) for name in sorted(found)}


@contextmanager
def open_search(storage: Path, name: str, space: Space, seed: int, trials: int, basis: str = "") -> Iterator[Search]:
    """The search called `name` in the file `storage`, which is made where it is missing; one process at a time.

    Another space, seed or way to search is another study beside it, and so is another `basis`, a digest of all else
    that a trial's value depends on; its points are the same. Raises EnvironmentFault when the file cannot be read or
    written.
    """
    import optuna
    from sqlalchemy import URL

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    identity = {key: asdict(one) for key, one in sorted(space.items())}
    known = [identity, seed, _is_grid(space, trials)]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    named = f"{name}-{digest[:16]}"
    with _keeping(storage):
        storage.parent.mkdir(parents=True, exist_ok=True)
        place = optuna.storages.RDBStorage(URL.create("sqlite", database=str(storage)).render_as_string())
    try:
        with _keeping(storage):
            study = optuna.create_study(
                storage=place,
                study_name=f"{named}-{basis[:16]}" if basis else named,
                direction="maximize",
                load_if_exists=True,
            )
        yield Search(study, storage, named, space, seed, trials)
    finally:
        place.engine.dispose()


@contextmanager
def _keeping(storage: Path) -> Iterator[None]:
    """Around calls to a study alone: what merges and scorings raise between them is told as their own."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        raise EnvironmentFault(
            f"{storage}: the search cannot be kept there ({str(error).splitlines()[0]}); mend the disk, or move the "
            "file away to begin the search anew"
        ) from error


def _is_grid(space: Space, trials: int) -> bool:
    size = grid_size(space)
    return size is not None and size <= trials


def _seed(*parts: object) -> int:
    """A seed of 32 bits by name."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:4])


def _suggested(asked: "Asked", name: str, one: Choices | Range) -> Value:
    """A value of the trial; what was suggested before a kill is suggested again."""
    if isinstance(one, Choices):
        found: Any = asked.suggest_categorical(name, one.values)
        return found  # type: ignore[no-any-return]
    if one.whole:
        return asked.suggest_int(name, int(one.low), int(one.last), log=one.log, step=int(one.step or 1))
    return asked.suggest_float(name, one.low, one.last, log=one.log, step=one.step)


def _short(value: Value, one: Choices | Range) -> Value:
    """A float of a range to a few digits, never outside of it."""
    if isinstance(one, Choices) or isinstance(value, int):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), one.low), one.high)
