"""A checkpoint's scorecard on lm-eval's tasks, from the scores that are at hand; what is missing is asked.

Task files are read here without lm-eval; only tasks that it alone can count go through the door, to `tasks.harness`.
"""

import hashlib
import importlib.metadata
import logging
from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.scorecard import canonical, sha256
from tasks.evaluate_settings import EvaluateSettings
from tasks.kept_scores import KEPT_FORMAT, publish
from tasks.scoring import Unit, score
from tasks.task_data import count_lines, hub_commit
from tasks.task_definitions import Definition, definitions
from widen.errors import RecipeError
from widen.staging import write_atomically

__all__ = ["EvaluateSettings", "count_documents", "evaluate", "is_scored", "questions"]

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
    unit = Unit(model, folder, digest, settings, cache)
    card = publish(model, list(score(unit).values()), out)
    for scores in card.tasks:
        log.info("%s: %s %.4f (%d documents)", model, scores.label, scores.value, len(scores.documents))
    return out


def is_scored(digest: str, settings: EvaluateSettings, cache: Path) -> bool:
    """Whether `cache` holds the scores that `evaluate` would otherwise take of the model with that digest."""
    return not Unit("", Path(), digest, settings, cache).missing()


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


def _count(tasks: Sequence[Definition], settings: EvaluateSettings, cache: Path | None) -> dict[str, int]:
    """The counts of tasks that lm-eval must build."""
    if not tasks:
        return {}
    from tasks.harness import count

    counts = count(tasks, settings, cache and cache.parent / "huggingface")
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
