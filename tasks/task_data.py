"""The files that a task is asked from: found without loading them, and refused where they cannot be pinned."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widen.errors import RecipeError

CODE = frozenset({"class", "custom_dataset", "use_prompt"})
"""Keys through which a task reaches what its YAML and data files do not hold."""


@dataclass(frozen=True)
class Function:
    """A `!function module.name` of a task file in `folder`, not imported."""

    name: str
    folder: Path

    def __str__(self) -> str:
        return f"!function {self.name}"


def folder_digest(folder: Path) -> str:
    """sha256 over every file's path and content below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def data_files(task: str, config: Mapping[str, Any], beside: Path, folder: Path | None) -> Iterator[tuple[str, Path]]:
    """The local files that a task of the recipe's `folder` names, as it names them and where they lie.

    lm-eval's own tasks (no folder) name none: their data sets come from a hub. Raises RecipeError for a file that is
    not there, is empty, or lies outside of the folder.
    """
    if folder is not None:
        yield from _each(task, (config.get("dataset_kwargs") or {}).get("data_files") or (), beside, folder)


def anchored(task: str, files: Any, beside: Path, folder: Path) -> Any:
    """`files` (a path, a list or a mapping of them) as absolute paths: lm-eval would look in the current folder."""
    if isinstance(files, Mapping):
        return {split: anchored(task, one, beside, folder) for split, one in files.items()}
    if isinstance(files, list | tuple):
        return [anchored(task, one, beside, folder) for one in files]
    ((_, path),) = _each(task, files, beside, folder)
    return str(path)


def _each(task: str, files: Any, beside: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    if isinstance(files, Mapping | list | tuple):
        for one in files.values() if isinstance(files, Mapping) else files:
            yield from _each(task, one, beside, folder)
        return
    path = (beside / str(files)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise RecipeError(
            f"task {task}: expected its data file {str(files)!r} beside its YAML in {folder}, found none there; "
            "scores are kept by that file's content"
        )
    if path.stat().st_size == 0:
        raise RecipeError(f"task {task}: its data file {path} is empty; expected at least one document")
    yield str(files), path


def hub_commit(config: Mapping[str, Any]) -> str | None:
    """The commit of the Hugging Face data set that a task means, as far as this machine has fetched it."""
    keywords = config.get("dataset_kwargs") or {}
    name, revision = str(config.get("dataset_path") or ""), str(keywords.get("revision") or "main")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    try:
        return (hub / f"datasets--{name.replace('/', '--')}" / "refs" / revision).read_text().strip()
    except OSError:
        return None


def count_lines(config: Mapping[str, Any], beside: Path) -> int | None:
    """How many documents a task of plain JSON lines holds; None where only lm-eval can tell.

    Only what the JSON reader takes as one document a line is counted: an object on each line that is not blank.
    """
    keywords = config.get("dataset_kwargs") or {}
    plain = config.get("dataset_path") == "json" and keywords.keys() <= {"data_files"} and "process_docs" not in config
    files, split = keywords.get("data_files"), config.get("test_split") or config.get("validation_split")
    if not plain or CODE & config.keys():
        return None
    if isinstance(files, Mapping):
        files = files.get(split)
    elif split != "train":  # the only split of files without a name
        return None
    paths = [beside / str(one) for one in (files if isinstance(files, list | tuple) else [files] if files else ())]
    try:
        return sum(_objects(path) for path in paths) if paths else None
    except ValueError:
        return None


def _objects(path: Path) -> int:
    with path.open("rb") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not JSON lines")
    return len(rows)
