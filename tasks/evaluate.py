"""Score one checkpoint on lm-eval's tasks, or take the scores that are at hand: the door to that library.

Task files are read here without lm-eval; only what was not scored yet goes through the door, to `tasks.harness`.
"""

import hashlib
import importlib.metadata
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.scorecard import Scorecard, TaskScores, canonical, sha256
from tasks.evaluate_settings import EvaluateSettings
from tasks.kept_scores import at_hand, keep, publish
from tasks.samples import task_scores
from tasks.task_data import count_lines, hub_commit
from tasks.task_definitions import Definition, definitions
from widen.errors import RecipeError
from widen.staging import write_atomically

__all__ = ["EvaluateSettings", "count_documents", "evaluate", "is_scored", "questions"]

KEPT_FORMAT = 2  # raise it when the same samples would give another scorecard

log = logging.getLogger(__name__)


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(model: str, folder: Path, digest: str, settings: EvaluateSettings, cache: Path, out: Path) -> Path:
    """Score the checkpoint in `folder` and return `out`, its scorecard as JSON; samples lie beside it as JSON lines.

    Scores are kept in `cache`, each task's by the model's `digest`, the task's definition and data, the harness, its
    backend and version, and every setting that can change a score: a second call with the same answers from there,
    without `folder` and without loading lm-eval, and one more task or an edited file asks only what it defines.

    Raises InputsRefused for a checkpoint with a missing, misshapen or non-finite tensor, or a score that is not finite;
    RecipeError for a task that does not exist, has no documents or cannot be asked, or a chat template that is not
    there; EnvironmentFault for a device or backend that is not there.
    """
    harness = settings.measured_by()
    asked = definitions(settings.tasks, settings.include_path, cache)
    pins = {one.task: one.digest() for one in asked}  # before they are read: an edit meanwhile is asked again
    blank = Scorecard(model, digest, harness, ())
    kept = {one.task: cache / _key(blank, settings, one, pins) for one in asked}
    missing = [one for one in asked if at_hand(kept[one.task]) is None]
    held = ", ".join(one.task for one in asked if one not in missing)
    if missing:
        log.info("%s: evaluating %s%s", model, _names(missing), held and f" ({held}: at hand)")
        scored, samples = _score(blank, folder, settings, missing, _hub(cache))
        # Named anew: the commit of a data set that was fetched just now is known only now.
        kept |= {one.task: cache / _key(blank, settings, one, pins) for one in missing}
        for one in missing:
            keep(kept[one.task], replace(blank, tasks=scored[one.task]), samples[one.task])
    else:
        log.info("%s: scores for %s are at hand, nothing to evaluate", model, held)
    card = publish(model, [kept[one.task] for one in asked], out)
    for scores in card.tasks:
        log.info("%s: %s %.4f (%d documents)", model, scores.label, scores.value, len(scores.documents))
    return out


def is_scored(digest: str, settings: EvaluateSettings, cache: Path) -> bool:
    """Whether `cache` holds the scores that `evaluate` would otherwise take of the model with that digest."""
    blank = Scorecard("", digest, settings.measured_by(), ())
    asked = definitions(settings.tasks, settings.include_path, cache)
    pins = {one.task: one.digest() for one in asked}
    return all(at_hand(cache / _key(blank, settings, one, pins)) is not None for one in asked)


def questions(settings: EvaluateSettings, cache: Path) -> str:
    """sha256 of all that is asked of a model, whichever it is: the tasks, their data as far as this machine holds it,
    the harness and how it asks.
    """
    asked = definitions(settings.tasks, settings.include_path, cache)
    tasks = [[one.task, one.digest(), hub_commit(one.config)] for one in asked]
    return sha256(canonical([KEPT_FORMAT, settings.measured_by(), settings.prompting(), tasks]))


def count_documents(settings: EvaluateSettings, cache: Path | None = None) -> dict[str, int]:
    """How many documents each task has after `limit`, by task (groups and tags stand for theirs); loads no model.

    Tasks of plain JSON lines are counted as they lie; any other is built by lm-eval, with its data, and its count kept
    in `cache`, the folder that `evaluate` is given. Raises RecipeError as `evaluate` does for the same tasks.
    """
    asked = definitions(settings.tasks, settings.include_path, cache)
    at_hand = {one.task: _count_at_hand(one, cache) for one in asked}
    unknown = [one for one in asked if at_hand[one.task] is None]
    counts = {name: found for name, found in at_hand.items() if found is not None} | _count(unknown, settings, cache)
    for name, found in counts.items():
        if not found:
            raise RecipeError(f"task {name}: expected at least one document, found none; check its data")
    return {one.task: min(counts[one.task], settings.limit or counts[one.task]) for one in asked}


def _score(
    blank: Scorecard, folder: Path, settings: EvaluateSettings, tasks: Sequence[Definition], hub: Path
) -> tuple[dict[str, tuple[TaskScores, ...]], Mapping[str, Sequence[Mapping[str, Any]]]]:
    """Each task's scores and samples, from the model."""
    from tasks.harness import ask

    results = ask(blank.model, folder, settings, tasks, hub)
    return {one.task: tuple(task_scores(blank.model, one.task, results)) for one in tasks}, results["samples"]


def _names(tasks: Sequence[Definition]) -> str:
    return ", ".join(one.task for one in tasks)


def _hub(cache: Path) -> Path:
    return cache.parent / "huggingface"


def _key(blank: Scorecard, settings: EvaluateSettings, definition: Definition, pins: Mapping[str, str]) -> str:
    """The name of a task's scores among the kept: everything that can change them (batches and devices do not)."""
    asked = {
        "format": KEPT_FORMAT,
        "model": blank.digest,
        "harness": blank.harness,
        "task": pins[definition.task],
        "data": hub_commit(definition.config),
        "prompting": settings.prompting(),
    }
    return sha256(canonical(asked)) + ".jsonl"


def _count(tasks: Sequence[Definition], settings: EvaluateSettings, cache: Path | None) -> dict[str, int]:
    """The counts of tasks that lm-eval must build."""
    if not tasks:
        return {}
    from tasks.harness import count

    counts = count(tasks, settings, cache and _hub(cache))
    if cache is not None:
        for one in tasks:
            write_atomically(_count_file(one, cache), str(counts[one.task]).encode())
    return counts


def _count_file(definition: Definition, cache: Path) -> Path:
    named = definition.digest() + str(hub_commit(definition.config)) + importlib.metadata.version("lm_eval")
    return cache / (hashlib.sha256(named.encode()).hexdigest() + ".count")


def _count_at_hand(definition: Definition, cache: Path | None) -> int | None:
    definition.digest()  # refuses data that is not there
    counted = count_lines(definition.config, definition.beside)
    if counted is not None or cache is None:
        return counted
    try:
        return int(_count_file(definition, cache).read_text())
    except (OSError, ValueError):
        return None
