"""A scoring unit: one model, loaded once, and some of its tasks, each kept as soon as it is answered. Done here, by any
process that sees the model.

A unit done twice is done once: what is at hand is not asked again, so that one which was killed goes on where it was.
"""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry.scorecard import Scorecard
from tasks.evaluate_settings import EvaluateSettings
from tasks.kept_scores import at_hand, keep, name_of
from tasks.samples import task_scores
from tasks.scoring_cost import remember, weight_of
from tasks.task_definitions import Definition, definitions
from widen.errors import EnvironmentFault

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """The checkpoint in `folder`, called `model`, with its digest; of the tasks in `settings` those named, or all.

    cache: where scores are kept; lm-eval's data sets lie beside it, unless it is `apart` from a workspace.
    """

    model: str
    folder: Path
    digest: str
    settings: EvaluateSettings
    cache: Path
    tasks: tuple[str, ...] = ()
    apart: bool = False

    def __str__(self) -> str:
        return f"score {self.model}: {', '.join(self.tasks) or 'all tasks'}"

    @property
    def hub(self) -> Path | None:
        """lm-eval's data sets; None for those of this machine's user, where the workspace is not seen."""
        return None if self.apart else self.cache.parent / "huggingface"

    def asked(self) -> tuple[Definition, ...]:
        """Its tasks. Raises RecipeError for one that there is not."""
        every = definitions(self.settings.tasks, self.settings.include_path, self.cache)
        return tuple(one for one in every if not self.tasks or one.task in self.tasks)

    def missing(self) -> tuple[Definition, ...]:
        """Those of its tasks whose scores are not at hand."""
        return tuple(one for one in self.asked() if at_hand(self.kept(one, one.digest())) is None)

    def kept(self, asked: Definition, pin: str) -> Path:
        """The file of a task's scores; pin: the definition's digest."""
        return self.cache / name_of(self.digest, self.settings.measured_by(), self.settings, asked, pin)


def score(unit: Unit) -> dict[str, Path]:
    """Have the scores of every task of the unit kept; returns their files, by task in the order asked.

    Raises as `tasks.evaluate.evaluate` does.
    """
    asked = unit.asked()
    pins = {one.task: one.digest() for one in asked}  # before they are read: an edit meanwhile is asked again
    kept = {one.task: unit.kept(one, pins[one.task]) for one in asked}
    missing = [one for one in asked if at_hand(kept[one.task]) is None]
    held = ", ".join(one.task for one in asked if one not in missing)
    if not missing:
        log.info("%s: scores for %s are at hand", unit.model, held)
        return kept
    names = ", ".join(one.task for one in missing)
    log.info("%s: evaluating %s%s", unit.model, names, held and f" ({held}: at hand)")
    return kept | _asked_of(unit, missing, pins)


def _asked_of(unit: Unit, tasks: list[Definition], pins: Mapping[str, str]) -> dict[str, Path]:
    """The files of what the model was asked just now."""
    from tasks.harness import ask

    kept: dict[str, Path] = {}
    blank = Scorecard(unit.model, unit.digest, unit.settings.measured_by(), ())
    weight = weight_of(unit.folder)

    def done(one: Definition, results: Mapping[str, Any], seconds: float) -> None:
        scores = tuple(task_scores(unit.model, one.task, results))
        # Named only now: the commit of a data set that was fetched just now was not known before.
        kept[one.task] = unit.kept(one, pins[one.task])
        keep(kept[one.task], replace(blank, tasks=scores), results["samples"][one.task])
        remember(unit.cache, pins[one.task], unit.settings, seconds, weight)
        log.info("%s: %s asked in %.1f s", unit.model, one.task, seconds)

    ask(unit.model, unit.folder, unit.settings, tasks, unit.hub, done)
    return kept


@dataclass(frozen=True)
class Answers:
    """What came of a unit elsewhere. files: kept scores by their names. node: where."""

    files: Mapping[str, bytes]
    node: str


def score_away(unit: Unit, harness: str) -> Answers:
    """Do the unit on a node that need not share the cache, and return what was kept.

    harness: what measures on the coordinator. Raises EnvironmentFault where the node does not see the model or the
    tasks, or would measure by something else, and as `score` does.
    """
    node = socket.gethostname()
    for what, place in ((unit.model, unit.folder), ("evaluate.include_path", unit.settings.include_path)):
        if place is not None and not place.is_dir():
            raise EnvironmentFault(
                f"{what}: the node {node} finds no folder at {place}; every node must see models and tasks under the "
                "same path, on a file system that all share"
            )
    if (found := unit.settings.measured_by()) != harness:
        raise EnvironmentFault(
            f"{unit.model}: the node {node} measures by {found}, the coordinator by {harness}; install one version"
        )
    if unit.cache.is_dir():  # what is done is kept there at once, and found again after a loss
        return _brought(score(unit), node)
    with TemporaryDirectory(prefix="widen-scores-") as scratch:
        return _brought(score(replace(unit, cache=Path(scratch), apart=True)), node)


def _brought(kept: Mapping[str, Path], node: str) -> Answers:
    return Answers({path.name: path.read_bytes() for path in kept.values()}, node)
