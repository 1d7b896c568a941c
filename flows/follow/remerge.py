"""A re-merge: an update that the watch asked for, taken down the road, and its outcome told wherever people look."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from prefect import flow

from flows import stations
from flows.environment import prepare
from flows.follow.outcome import failure, remember, told
from flows.follow.server import bury, flow_run_id, send_event
from flows.pipeline import walk
from flows.quiet import tell_tasks
from flows.road import Road
from tasks.ledger import ledger_lock, read_ledger, write_ledger
from tasks.run_lock import run_lock
from tasks.updates import Ledger, Outcome, Update, begun, dropped, identify, recipe_of
from tasks.workspace import commit_on_branch, note
from widen import Manifest
from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from tasks.fetch import Fetched

log = logging.getLogger("tasks.remerge")  # what is logged under "tasks" stands on the flow run's page


@flow(name="remerge", validate_parameters=False)
def remerge(update: str, workspace: str, device: str = "auto") -> "State":
    """Run an update of a recipe, by its id; the recipe's ledger in `workspace` holds the rest.

    Waits for a run that holds the workspace. Ends Completed, named Promoted, Unchanged, Held (the message says why) or
    Superseded (a newer update is current); or Failed, and then the watch asks again. What a killed run finished is not
    done twice.
    """
    from prefect.states import Completed, Failed

    folder = Path(workspace).resolve()
    prepare(folder)
    tell_tasks()
    with run_lock(folder, f"the run of {update}"):
        found = _begin(folder, update)
        outcome = found if isinstance(found, Outcome) else _run(folder, found, device)
    if outcome.state == "failed":
        return Failed(message=outcome.reason)
    # An outcome that is only asked for is one that this run left to another.
    name = "Superseded" if outcome.state == "asked" else outcome.state.capitalize()
    return Completed(name=name, message=outcome.reason)


def _begin(workspace: Path, update: str) -> Update | Outcome:
    """The update, marked as running, or why there is nothing to run. The workspace is ours: who ran here is dead."""
    with ledger_lock(workspace):
        ledger = read_ledger(workspace, recipe_of(update))
        after, found = begun(ledger, update, time(), flow_run_id())
        if after != ledger:
            write_ledger(workspace, after)
    cancelled = _bury_dead(ledger, update)
    if isinstance(found, str):
        state, _, why = found.partition(": ")
        return Outcome("unchanged" if state == "unchanged" else "asked", time(), why)
    if not cancelled:
        log.info("%s: %s", update, "; ".join(found.moved))
        return found
    outcome = Outcome("held", time(), "a person cancelled its run in Prefect", flow_run=flow_run_id())
    _conclude(workspace, None, found, outcome, None)
    return outcome


def _bury_dead(ledger: Ledger, update: str) -> bool:
    """Tell Prefect which of its runs died; True where a person had cancelled the one of this update."""
    cancelled = False
    for identity, one in ledger.outcomes.items():
        if one.state != "running" or one.flow_run is None or one.flow_run == flow_run_id():
            continue
        try:
            cancelled |= bury(one.flow_run, f"its process died; a run of {update} goes on") and identity == update
        except EnvironmentFault as fault:
            log.warning("the run before, %s, may still stand as running: %s", one.flow_run, fault)
    return cancelled


def _run(workspace: Path, update: Update, device: str) -> Outcome:
    """The road, and its outcome in the ledger, in git and as an event. A bug of ours is raised after that."""
    road = commit = bug = None
    try:
        road = Road.open(Path(update.recipe), workspace, device, pins=update.pins)
        if not _is_current(road, update):
            return _left(workspace, update, f"{update.recipe} was edited")
        road.require_all()
        sources = stations.fetch(road)
        if not _is_what_was_seen(sources, update):
            return _left(workspace, update, "the sources have moved on")
        commit = _commit_pins(road, update, sources)
        outcome = _walk(road, sources)
    except Exception as error:  # noqa: BLE001 - every end is written down
        outcome = failure(error, road)
        bug = error if outcome.state == "failed" and not outcome.transient else None
    _conclude(workspace, road, update, outcome, commit)
    if bug is not None:
        raise bug
    return outcome


def _is_current(road: Road, update: Update) -> bool:
    contents = {name: pin.content for name, pin in update.pins.items()}
    return identify(road.recipe.name, road.recipe.digest, contents) == update.id


def _is_what_was_seen(sources: Sequence["Fetched"], update: Update) -> bool:
    """Whether the fetched content is the update's: a folder, or a storage without commits, may hold another by now."""
    return all(one.upstream in (None, update.pins[one.name].content) for one in sources)


def _left(workspace: Path, update: Update, why: str) -> Outcome:
    """Something changed since the watch looked, which makes another update of it."""
    name = recipe_of(update.id)
    with ledger_lock(workspace):
        write_ledger(workspace, dropped(read_ledger(workspace, name), update.id))
    return Outcome("asked", time(), f"{why} since; the watch looks anew")


def _walk(road: Road, sources: tuple["Fetched", ...]) -> Outcome:
    before = _manifest(road)
    try:
        return walk(road, sources).outcome
    finally:
        _tell_reuse(road, before)


def _manifest(road: Road) -> bytes | None:
    try:
        return (road.merged_folder / "widen-manifest.json").read_bytes()
    except OSError:
        return None


def _tell_reuse(road: Road, before: bytes | None) -> None:
    """Which of the merged tensors were at hand, where the run came as far as the merge."""
    now = _manifest(road)
    if now is None or "evaluate" not in road.seconds:
        return
    if now == before:
        log.info("merge: all was at hand, nothing was computed")
        return
    reuse = Manifest.load(road.merged_folder).reuse
    why = "".join(f"; {len(names)} computed: {reason}" for reason, names in sorted(reuse.computed.items()))
    log.info("merge: %d tensors taken from the output before%s", reuse.reused, why)


def _commit_pins(road: Road, update: Update, sources: Sequence["Fetched"]) -> str | None:
    """Commit the sources' pins on the recipe's own branch; the commit, None where no source is versioned."""
    paths = [f"sources/{one.name}.dvc" for one in sources if one.content is not None]
    if not paths:
        return None
    several = len(update.moved) > 1
    subject = f"{len(update.moved)} changes upstream" if several else update.moved[0]
    body = "\n".join([*update.moved, ""] if several else [])
    message = f"{road.recipe.name}: {subject}\n\n{body}\nWiden-Update: {update.id}\n".replace("\n\n\n", "\n\n")
    return commit_on_branch(road.workspace, f"follow/{road.recipe.name}", [*paths, "sources/.gitignore"], message)


def _conclude(workspace: Path, road: Road | None, update: Update, outcome: Outcome, commit: str | None) -> None:
    """Write it down where it counts, then tell it; what cannot be told does not change what became of it."""
    remember(workspace, update, outcome)
    log.log(logging.WARNING if outcome.state == "failed" else logging.INFO, "%s: %s", outcome.state, outcome.reason)
    facts = told(road, update, outcome)
    try:
        if commit is not None:
            note(workspace, commit, json.dumps({"outcome": outcome.state, **facts}, indent=1) + "\n")
        if outcome.state != "unchanged":
            send_event(f"widen.{outcome.state}", recipe_of(update.id), workspace, facts)
    except EnvironmentFault as fault:
        log.warning("not told: %s", fault)
