"""Scorecards at hand: a folder each, named by everything that can change the scores."""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.scorecard import Scorecard
from widen.errors import RecipeError

SCORECARD, SAMPLES = "scorecard.json", "samples.jsonl"


def folder_digest(folder: Path) -> str:
    """sha256 over every file's path and content in a folder of task definitions. Raises RecipeError without one."""
    if not folder.is_dir():
        raise RecipeError(f"evaluate.include_path: expected a folder of task YAML, found nothing at {folder}")
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def at_hand(kept: Path) -> bool:
    """Whether `kept` holds a scorecard and its samples."""
    return (kept / SCORECARD).is_file() and (kept / SAMPLES).is_file()


def keep(
    kept: Path,
    card: Scorecard,
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    default: Callable[[Any], Any],
) -> None:
    """Write the folder `kept` in one rename: the scorecard, and the samples of each task as JSON lines.

    `default` turns what JSON has no form for into something it has.
    """
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".staged-") as name:
        staged = Path(name) / "scores"
        staged.mkdir()
        (staged / SCORECARD).write_text(card.to_json(), encoding="utf8")
        with (staged / SAMPLES).open("w", encoding="utf8") as lines:
            for task, rows in samples.items():
                for row in rows:
                    lines.write(json.dumps({"task": task, **row}, default=default, ensure_ascii=False) + "\n")
        shutil.rmtree(kept, ignore_errors=True)
        staged.rename(kept)


def publish(model: str, kept: Path, out: Path) -> Scorecard:
    """Write the kept scorecard to `out` under `model`, a run's name for it, with the samples beside it; return it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    card = dataclasses.replace(Scorecard.from_json((kept / SCORECARD).read_text(encoding="utf8")), model=model)
    staged = out.with_name(out.name + ".part")
    shutil.copyfile(kept / SAMPLES, staged)
    staged.replace(out.with_suffix(".samples.jsonl"))
    staged.write_text(card.to_json(), encoding="utf8")
    staged.replace(out)
    return card
