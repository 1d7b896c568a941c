"""What scoring a task costs, in seconds: as an earlier run took, else guessed from its documents and kind of question.

Only for dividing work: a wrong guess costs time, never a score.
"""

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from registry.scorecard import canonical
from tasks.evaluate_settings import EvaluateSettings
from tasks.task_definitions import Definition
from widen.staging import write_atomically

CHOICES = 4
"""Answers to choose from, where the task's file does not list them."""
GENERATED = 30.0
"""A generation in passes over a prompt."""
REQUEST_S = 0.002
GIGABYTE_S = {"cpu": 0.5, "cuda": 0.001}
"""A request: fixed, and by the gigabyte of weights that it is answered with."""
LOAD_S, LOAD_RATE = 3.0, 0.5e9
"""A model: fixed, and bytes of weights that are read, checked and brought to the device in a second."""


def weight_of(folder: Path) -> int:
    """Bytes of a checkpoint's weights; 0 where there are none."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def load_seconds(weight: int) -> float:
    """Loading a model with `weight` bytes."""
    return LOAD_S + weight / LOAD_RATE


def task_seconds(
    asked: Sequence[Definition], documents: Mapping[str, int], settings: EvaluateSettings, weight: int, cache: Path
) -> dict[str, float]:
    """Each task's cost of a model with `weight` bytes, by name.

    Measured ones are those of a run with equal settings on the same kind of device, scaled by weight; guesses beside
    them are scaled by how far guesses of the measured ones were off.
    """
    guessed = {one.task: _guess(one, documents[one.task], settings, weight) for one in asked}
    known = {one.task: _measured(one, settings, weight, cache) for one in asked}
    measured = {name: seconds for name, seconds in known.items() if seconds is not None}
    off = statistics.median(seconds / guessed[name] for name, seconds in measured.items()) if measured else 1.0
    return {name: measured.get(name, off * seconds) for name, seconds in guessed.items()}


def remember(cache: Path, pin: str, settings: EvaluateSettings, seconds: float, weight: int) -> None:
    """Keep what a task took of a model with `weight` bytes. pin: its definition's digest."""
    write_atomically(cache / _name(pin, settings), json.dumps({"seconds": seconds, "weight": weight}).encode())


def _measured(one: Definition, settings: EvaluateSettings, weight: int, cache: Path) -> float | None:
    try:
        held = json.loads((cache / _name(one.digest(), settings)).read_bytes())
        return max(1e-3, float(held["seconds"]) * (weight or 1) / (float(held["weight"]) or 1))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _guess(one: Definition, documents: int, settings: EvaluateSettings, weight: int) -> float:
    kind, listed = str(one.config.get("output_type")), one.config.get("doc_to_choice")
    choices = len(listed) if isinstance(listed, list) else CHOICES
    passes = {"multiple_choice": float(choices), "generate_until": GENERATED}.get(kind, 1.0)
    request = REQUEST_S + weight / 1e9 * GIGABYTE_S[_kind_of(settings)]
    return max(1, documents) * passes * request


def _name(pin: str, settings: EvaluateSettings) -> str:
    content = [pin, settings.prompting(), settings.dtype, settings.backend, settings.batch_size, _kind_of(settings)]
    return hashlib.sha256(canonical(content).encode()).hexdigest() + ".seconds"


def _kind_of(settings: EvaluateSettings) -> str:
    return "cpu" if settings.device == "cpu" else "cuda"
