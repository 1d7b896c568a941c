"""`widen promote`, `rollback` and `history`: who moved the champion, on whose word, and back."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from flows.environment import prepare
from flows.registries import registry_at

if TYPE_CHECKING:
    from registry.history import History
    from registry.promotion import Promotion
    from registry.store import Registry


def promote_version(
    model: str, by: str | None, reason: str | None, override: str | None, workspace: Path, registry: str | None
) -> None:
    """Make a version the champion, on the decision that it was registered with or against it with `override`."""
    where = _registry(workspace, registry)
    from registry.promotion import promote
    from registry.versions import read_decision, resolve

    version = resolve(where, model).version
    decision = read_decision(where, version)
    why = reason or f"the gate said {decision.verdict}"
    who = by or person(workspace)
    done = promote(where, version.name, version.version, decision, by=who, reason=why, override=override)
    _print_move(version.name, done)
    _retell(where, version.name, done)


def roll_back(name: str, to: int | None, by: str | None, reason: str, workspace: Path, registry: str | None) -> None:
    """Make a former champion the champion again."""
    where = _registry(workspace, registry)
    from registry.promotion import rollback

    done = rollback(where, name, to, by=by or person(workspace), reason=reason)
    _print_move(name, done)
    _retell(where, name, done)


def show_history(name: str, workspace: Path, registry: str | None, as_json: bool) -> None:
    """Print a model's history, finishing first what a killed promotion left. Raises HistoryAltered after printing."""
    where = _registry(workspace, registry)
    from registry.errors import HistoryAltered
    from registry.history import finish_history

    history = finish_history(where, name)
    print(_as_json(history) if as_json else "\n".join(history_lines(history)))
    if history.faults:
        raise HistoryAltered(f"the history of {name} has faults: {'; '.join(history.faults)}")


def history_lines(history: "History") -> list[str]:
    """The history for a terminal, newest entry last; digests short but for the head's."""
    from registry.history import short

    texts = {}
    for entry in history.entries:
        gone = " (version deleted)" if entry.to_version in history.deleted else ""
        texts[entry.number] = f"{short(entry.digest())}  {entry.line()}{gone}"
    for void in history.void:
        texts[void.entry.number] = f"{short(void.entry.digest())}  {void.line()}"
    lines = [f"{number:>4}  {text}" for number, text in sorted(texts.items())]
    if not lines:
        held = "no champion" if history.alias is None else f"version {history.alias}, set before histories were kept"
        return [f"{history.name}: no entry yet; champion: {held}", *(f"fault: {fault}" for fault in history.faults)]
    return [
        *lines,
        f"head  {history.head} (kept elsewhere, it shows that nothing up to here was rewritten)",
        *(f"fault: {fault}" for fault in history.faults),
    ]


def _as_json(history: "History") -> str:
    entries = [{**asdict(entry), "digest": entry.digest()} for entry in history.entries]
    void = [{**asdict(v.entry), "digest": v.entry.digest(), "lost_to": v.lost_to} for v in history.void]
    held = {
        "name": history.name,
        "champion": history.alias,
        "head": history.head,
        "entries": entries,
        "void": void,
        "faults": history.faults,
        "deleted": sorted(history.deleted),
    }
    return json.dumps(held, indent=1, sort_keys=True, ensure_ascii=False)


def _print_move(name: str, done: "Promotion") -> None:
    from registry.history import short

    if not done.moved:
        print(f"{name}: version {done.to_version} is the champion already, nothing was moved")
    elif done.entry is not None:
        before = "no champion" if done.from_version is None else f"version {done.from_version}"
        print(f"{name}: champion moved from {before} to version {done.to_version}")
        print(f"entry {done.entry.number} ({short(done.entry.digest())}): {done.entry.line()}")


def _retell(where: "Registry", name: str, done: "Promotion") -> None:
    """The pages of both versions, once the move is done and told."""
    if done.moved:
        from registry.history import read_history
        from registry.retelling import retell

        retell(where, read_history(where, name), (done.from_version, done.to_version))


def _registry(workspace: Path, uri: str | None) -> "Registry":
    workspace = workspace.resolve()
    prepare(workspace)
    return registry_at(uri, workspace)


def person(workspace: Path) -> str:
    """Who is at the keyboard: git's user.name <user.email> in the workspace, else user@host."""
    name, email = _git_setting(workspace, "user.name"), _git_setting(workspace, "user.email")
    if name and email:
        return f"{name} <{email}>"
    return name or email or _login()


def _git_setting(workspace: Path, key: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(workspace), "config", key], capture_output=True, text=True, check=False)
    except (OSError, ValueError):  # git is not installed, or the setting is not text
        return ""
    return done.stdout.strip()


def _login() -> str:
    import getpass
    import os
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
