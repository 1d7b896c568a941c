"""Answers that never change (what a commit holds, whether it follows another), kept in the workspace's `.widen/`."""

import json
from pathlib import Path

from tasks.workspace import state_folder
from widen.digests import canonical_json, digest_of
from widen.staging import write_atomically

FOLDER = "upstream"


def recall(workspace: Path, *question: str) -> str | None:
    """The answer that was kept to `question`, if there is one."""
    try:
        kept = json.loads(_entry(workspace, question).read_bytes())
        return str(kept["answer"]) if kept["question"] == list(question) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(workspace: Path, *question: str, answer: str) -> str:
    """Keep `answer`, and return it."""
    entry = _entry(workspace, question)
    entry.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(entry, canonical_json({"question": list(question), "answer": answer}).encode())
    return answer


def _entry(workspace: Path, question: tuple[str, ...]) -> Path:
    return state_folder(workspace) / FOLDER / f"{digest_of(list(question))}.json"
