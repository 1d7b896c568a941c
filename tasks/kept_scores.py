"""Scores at hand: one file a model and task, named by everything that can change them."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.errors import GateError
from registry.scorecard import Scorecard, canonical, sha256
from tasks.evaluate_settings import EvaluateSettings
from tasks.task_data import hub_commit
from tasks.task_definitions import Definition
from widen.trimming import DAY, Leftover, files

KEPT_FORMAT = 3  # raise it when the same question would give another scorecard


def name_of(digest: str, harness: str, settings: EvaluateSettings, asked: Definition, pin: str) -> str:
    """The file name of a task's scores: everything that can change them (batches and devices do not).

    digest: the model's. pin: the definition's digest, as it was before its data were read.
    """
    content = {
        "format": KEPT_FORMAT,
        "model": digest,
        "harness": harness,
        "task": pin,
        "data": hub_commit(asked.config),
        "prompting": settings.prompting(),
    }
    return sha256(canonical(content)) + ".jsonl"


def at_hand(kept: Path) -> Scorecard | None:
    """The scorecard of one task that `kept` holds in its first line; None when there is none or it is damaged."""
    try:
        with kept.open(encoding="utf8") as lines:
            return Scorecard.from_json(next(lines, ""))
    except (FileNotFoundError, GateError, UnicodeDecodeError):
        return None


def keep(kept: Path, card: Scorecard, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write the scorecard of one task and, below it, its samples as JSON lines; in one rename, the last writer wins."""
    (task,) = {one.task for one in card.tasks}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".staged-") as name:
        staged = Path(name) / kept.name
        with staged.open("w", encoding="utf8") as lines:
            lines.write(card.to_json() + "\n")
            for row in samples:
                lines.write(json.dumps({"task": task, **row}, default=_plain, ensure_ascii=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        staged.replace(kept)


def publish(model: str, kept: Sequence[Path], out: Path) -> Scorecard:
    """Write the kept scores to `out` as one scorecard of `model`, a run's name for it, with the samples beside it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staged, cards = out.with_name(out.name + ".part"), []
    with staged.open("w", encoding="utf8") as samples:
        for path in kept:
            with path.open(encoding="utf8") as lines:
                cards.append(Scorecard.from_json(next(lines, "")))
                samples.writelines(lines)
    staged.replace(out.with_suffix(".samples.jsonl"))
    card = dataclasses.replace(cards[0], model=model, tasks=tuple(task for one in cards for task in one.tasks))
    staged.write_text(card.to_json(), encoding="utf8")
    staged.replace(out)
    return card


def unreferenced(folder: Path, digests: Container[str], days: float, now: float) -> Iterator[Leftover]:
    """Kept scores, older than `days`, of models whose digest is not among `digests`, and damaged ones; reads only."""
    old = [path for path in sorted(folder.glob("*.jsonl")) if path.stat().st_mtime < now - days * DAY]
    cards = {path: at_hand(path) for path in old}
    paths = [path for path, card in cards.items() if card is None or card.digest not in digests]
    if paths:
        yield files(f"{len(paths)} scorecards of models that no version and no input refers to", paths)


def _plain(value: Any) -> Any:
    """What JSON has no form for: NumPy's scalars are numbers, a set is a list, the rest its text."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return value.item() if callable(getattr(value, "item", None)) and not getattr(value, "shape", ()) else str(value)
