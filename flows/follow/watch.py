"""The watch: look at what every recipe is made from, ask for a run of what moved. A daemon and, scheduled, a flow."""

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import sleep, time
from typing import TYPE_CHECKING, NoReturn

from prefect import flow

from flows.environment import prepare
from flows.follow.followed import is_followed
from flows.follow.outcome import recipe_path
from flows.follow.server import send_event, start_remerge
from flows.recipe import Recipe, load_recipe
from flows.road import Road, plainly
from flows.settings import settings
from tasks.ledger import ledger_lock, read_ledger, read_ledgers, write_ledger
from tasks.run_lock import run_alive
from tasks.updates import Ledger, Update, asked, decide, held_pins, held_up, noted, recipe_of
from tasks.upstream import Upstream, look_all
from tasks.workspace import require_workspace
from widen.errors import EnvironmentFault, RecipeError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

Ask = Callable[[Update, int], None]
"""Asks for a run of an update, for the n-th time; raises EnvironmentFault where nobody took the request."""

_HOUR = 3600.0


def check(workspace: Path, ask: Ask, now: float) -> tuple[str, ...]:
    """Look at the sources of every recipe that can run, keep what was found in its ledger, and ask for what is due.

    Returns a line for each thing that happened, and for each that is wrong as long as it is. A recipe that is wrong, a
    hub that does not answer and a disk that is full stop none of the others.
    """
    lines: list[str] = []
    names: dict[str, str] = {}
    for file in sorted((workspace / "recipes").glob("*.yaml")):
        path = recipe_path(file, workspace)
        try:
            recipe = load_recipe(file)
            if not is_followed(recipe):
                continue
            if recipe.name in names:
                raise RecipeError(f"{path}: the name `{recipe.name}` belongs to {names[recipe.name]}; choose another")
            names[recipe.name] = path
            lines += _check_recipe(recipe, workspace, ask, now)
        except RecipeError as error:
            lines += _fault(workspace, path, str(error), names, now)
        except Exception as error:  # noqa: BLE001 - the watch outlives whatever happens
            lines.append(f"{path}: {_spoken(error)}")
    return tuple(lines)


def _check_recipe(recipe: Recipe, workspace: Path, ask: Ask, now: float) -> list[str]:
    road = Road(recipe, workspace, "cpu", plainly)
    held = held_pins(read_ledger(workspace, recipe.name), road.sources)
    found = look_all(road.sources, held, workspace)
    with ledger_lock(workspace):
        # Read again, for a run may have ended while the hubs were asked.
        ledger = read_ledger(workspace, recipe.name)
        seen = noted(ledger, road.sources, found, recipe.digest, recipe_path(recipe.path, workspace), now)
        seen = replace(seen, next_check=now + settings().watch_seconds)
        lines = [*_news(ledger, found), *_update_seen(ledger, seen)]
        try:
            told, after = _act(seen, workspace, ask, now)
        except EnvironmentFault as fault:
            told, after = [f"{recipe.name}: not asked for yet: {fault}"], seen
        write_ledger(workspace, after)
    return lines + told


def _act(ledger: Ledger, workspace: Path, ask: Ask, now: float) -> tuple[list[str], Ledger]:
    """What is to be done now, done; the ledger's lock is held, so that of two watches one asks."""
    asked_for = settings()
    step = decide(ledger, now, run_alive(workspace), asked_for.quiet_seconds, asked_for.retry_seconds)
    if step.kind == "running":
        return [], held_up(ledger, now)
    if step.kind != "ask" or ledger.update is None:
        return [], ledger
    after = asked(ledger, now)
    attempt = after.outcomes[ledger.update.id].attempts
    ask(ledger.update, attempt)
    again = f", for the {attempt}. time" if attempt > 1 else ""
    return [f"{ledger.update.id}: asked for a run{again} ({step.why})"], after


def _news(before: Ledger, found: Sequence[Upstream]) -> list[str]:
    """What a person may have to look into: told when it comes and when it goes."""
    lines = []
    for one in found:
        former = before.looks.get(one.name)
        told = ("", "") if former is None else (former.state, former.note)
        if one.note and one.state != "moved" and (one.state, one.note) != told:
            lines.append(f"{before.name}: {one.name}: {one.state}: {one.note}")
        elif former is not None and former.state == "unreachable" != one.state:
            lines.append(f"{before.name}: {one.name}: answers again")
    return lines


def _update_seen(before: Ledger, after: Ledger) -> list[str]:
    known = None if before.update is None else before.update.id
    if after.update is None or after.update.id == known or after.outcome is not None:
        return []
    return [f"{after.update.id}: {'; '.join(after.update.moved)}"]


def _fault(workspace: Path, path: str, text: str, names: dict[str, str], now: float) -> list[str]:
    """Keep what is wrong with a recipe in the ledger that was its own; a new one goes by its file's name."""
    try:
        with ledger_lock(workspace):
            own = [one.name for one in read_ledgers(workspace) if one.path == path]
            name = own[0] if own else Path(path).stem
            if name not in names:
                ledger = replace(read_ledger(workspace, name), path=path, fault=text, checked_at=now)
                write_ledger(workspace, replace(ledger, next_check=now + settings().watch_seconds))
    except (EnvironmentFault, OSError) as error:
        return [text, f"{path}: {_spoken(error)}"]
    return [text]


def _spoken(error: Exception) -> str:
    return str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}"


def ask_by_event(workspace: Path) -> Ask:
    """Ask by an event, which the deployment's trigger turns into a run."""

    def ask(update: Update, _: int) -> None:
        send_event("widen.update", recipe_of(update.id), workspace, {"update": update.id})

    return ask


def ask_by_deployment(workspace: Path) -> Ask:
    """Ask by starting the deployment itself, which needs no event to arrive."""

    def ask(update: Update, attempt: int) -> None:
        # When it was seen is in the key, because an update may come back once another was promoted.
        start_remerge(update.id, workspace, f"{update.id}/{update.seen_at:.0f}/{attempt}")

    return ask


@flow(name="watch", validate_parameters=False)
def watch(workspace: str) -> "State":
    """One check, scheduled as the backstop of the daemon: it asks by starting the deployment, without an event."""
    from prefect.logging import get_run_logger
    from prefect.states import Completed

    folder = require_workspace(Path(workspace))
    prepare(folder)
    lines = check(folder, ask_by_deployment(folder), time())
    for line in lines:
        get_run_logger().info(line)
    return Completed(message="\n".join(lines) or "nothing happened")


def run_watch(workspace: Path, once: bool) -> None:
    """`widen watch`: check every WIDEN_WATCH_SECONDS until SIGTERM or Ctrl-C; a dated line for what happens.

    Nothing else ends it. Raises RecipeError for a folder that is no workspace and for a setting that is wrong.
    """
    folder = require_workspace(workspace)
    pause, ask = settings().watch_seconds, ask_by_event(folder)
    if once:
        _say(_checked(folder, ask))
        return
    # An interruption, so that it ends also while a hub keeps it waiting; files are written in one step.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _say([f"watching {folder} every {pause:g} s"])
    try:
        _watch(folder, ask, pause)
    except KeyboardInterrupt:
        _say(["ended"])


def _watch(folder: Path, ask: Ask, pause: float) -> NoReturn:
    said: tuple[str, ...] = ()
    outcomes, spoke = _outcomes(folder), time()
    while True:
        began = time()
        lines = _checked(folder, ask)
        former, outcomes = outcomes, _outcomes(folder)
        news = [line for line in lines if line not in said]
        news += [line for name, line in outcomes.items() if line and line != former.get(name)]
        if not news and time() - spoke >= _HOUR:
            news = [f"alive, {len(outcomes)} recipes"]
        if news:
            _say(news)
            spoke = time()
        said = lines
        sleep(max(0.0, pause - (time() - began)))


def _checked(folder: Path, ask: Ask) -> tuple[str, ...]:
    try:
        return check(folder, ask, time())
    except Exception as error:  # noqa: BLE001 - the watch outlives whatever happens
        return (f"not checked: {_spoken(error)}",)


def _outcomes(folder: Path) -> dict[str, str]:
    """What became of every recipe's update, by recipe, in a line each."""
    try:
        ledgers = read_ledgers(folder)
    except (EnvironmentFault, OSError):  # told by the check
        return {}
    return {ledger.name: _outcome(ledger) for ledger in ledgers}


def _outcome(ledger: Ledger) -> str:
    update, outcome = ledger.update, ledger.outcome
    if update is None or outcome is None or outcome.state == "asked":
        return ""
    return f"{update.id}: {outcome.state}" + (f": {outcome.reason}" if outcome.reason else "")


def _say(lines: Sequence[str]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for line in lines:
        print(f"{now} {line}", flush=True)
