"""`widen status`: what is followed, what is champion, what happened last, what answers, and what one can do next."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import sleep, time
from typing import Any

from flows.environment import prepare
from flows.settings import settings
from flows.status.found import Service, recipes, services, silent
from flows.status.page import moment, show
from flows.status.values import RecipeStatus, recipe_status
from tasks.run_lock import holder, run_alive
from tasks.workspace import require_workspace
from widen.errors import WidenError

WIDTH = 120
"""Columns where the output is no terminal."""
SCHEMA = "widen-status/1"
_TIMES = frozenset({"at", "since", "due", "checked_at", "next_check"})


class NeedsAttention(WidenError):
    """`--check`: something is held, failed, unreachable or wrong."""

    exit_code = 4


def show_status(asked: Sequence[str], workspace: Path, as_json: bool, check: bool, again: float | None) -> None:
    """Print the status, every `again` seconds if that is given.

    Asks no hub, and the registry for the champion only. Raises NeedsAttention, with a line each, when `check` is set
    and a person has to look into something; RecipeError for a recipe that is not there.
    """
    folder = require_workspace(workspace)
    prepare(folder)
    while True:
        troubles = _once(asked, folder, as_json, again is not None)
        if again is None:
            break
        sleep(again)
    if check and troubles:
        raise NeedsAttention("\n".join(troubles))


def _once(asked: Sequence[str], workspace: Path, as_json: bool, repeated: bool) -> list[str]:
    now, alive = time(), run_alive(workspace)
    quiet = settings().quiet_seconds
    told = [recipe_status(one, now, alive, quiet) for one in recipes(workspace, asked)]
    found, run = services(workspace), (holder(workspace) or "another run") if alive else None
    troubles = [line for one in told for line in one.troubles] + list(silent(found))
    if as_json:
        print(_as_json(workspace, run, told, found, troubles), flush=True)
    else:
        _print(workspace, run, told, found, repeated)
    return troubles


def _print(
    workspace: Path, run: str | None, told: Sequence[RecipeStatus], found: Sequence[Service], repeated: bool
) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    with console.capture() as page:
        show(console, str(workspace), run, told, found, time())
    if repeated:
        console.clear()  # nothing where there is no terminal
    print("\n".join(line.rstrip() for line in page.get().splitlines()), flush=True)


def _as_json(
    workspace: Path, run: str | None, told: Sequence[RecipeStatus], found: Sequence[Service], troubles: Sequence[str]
) -> str:
    held = {
        "schema": SCHEMA,
        "workspace": str(workspace),
        "run": run,
        "recipes": [_dated(asdict(one)) for one in told],
        "services": [asdict(one) for one in found],
        "troubles": troubles,
    }
    return json.dumps(held, indent=1, sort_keys=True, ensure_ascii=False)


def _dated(value: Any) -> Any:
    """The value with every time in ISO 8601."""
    if isinstance(value, dict):
        return {
            key: moment(one) if key in _TIMES and isinstance(one, int | float) else _dated(one)
            for key, one in value.items()
        }
    return [_dated(one) for one in value] if isinstance(value, list | tuple) else value
