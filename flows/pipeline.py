"""The whole road as a Prefect flow: the body of `walk` is its table of contents."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from flows import stations
from flows.environment import prepare
from flows.follow.outcome import Arrival, remembered, update_by_hand
from flows.quiet import tell_tasks
from flows.road import Road

if TYPE_CHECKING:
    from tasks.fetch import Fetched


@flow(name="merge", validate_parameters=False)
def merge_pipeline(recipe: str, workspace: str = ".", device: str = "auto") -> dict[str, Any]:
    """Take a recipe from its sources to the registry; returns the version, and whether the champion moved.

    recipe: a file, relative to the workspace or to the current folder. Waits for a run that holds the workspace. The
    outcome goes into the recipe's ledger, so that the watch does not ask for the same again. Raises PromotionRefused,
    after the version is registered and its report drawn, when the gate did not pass.
    """
    from tasks.run_lock import run_lock

    prepare(Path(workspace).resolve())
    tell_tasks()
    road = Road.open(Path(recipe), Path(workspace), device)
    road.require_all()
    with run_lock(road.workspace, f"a run of {road.recipe.name}"):
        sources = stations.fetch(road)
        update, run = update_by_hand(road, sources), partial(walk, road, sources)
        arrival = run() if update is None else remembered(road, update, run)
    registered = arrival.registered
    return {"name": registered.name, "version": registered.version, "promoted": arrival.promotion.moved}


def walk(road: Road, sources: tuple["Fetched", ...]) -> Arrival:
    """From the fetched sources to the registry. Raises PromotionRefused, after all is recorded and told."""
    measurements = stations.measure(road, sources)
    validation = stations.validate(road, measurements)
    merged = stations.merge(road, sources)
    scorecards = stations.evaluate(road, sources, measurements, merged)
    decision = stations.gate(road, merged, scorecards)
    registered = stations.register(road, sources, validation, merged, scorecards, decision)
    try:
        promotion = stations.promote(road, registered, decision)
    finally:  # a refusal is told too
        stations.report(road, sources, registered, measurements, decision)
    return Arrival(registered, promotion)
