"""The whole road as a Prefect flow: its body is the table of contents."""

from pathlib import Path
from typing import Any

from prefect import flow

from flows import stations
from flows.environment import prepare
from flows.road import Road


@flow(name="merge", validate_parameters=False)
def merge_pipeline(recipe: str, workspace: str = ".", device: str = "auto") -> dict[str, Any]:
    """Take a recipe from its sources to the registry; returns the version, and whether the champion moved.

    recipe: a file, relative to the workspace or to the current folder. Raises PromotionRefused, after the version is
    registered and its report drawn, when the gate did not pass.
    """
    prepare(Path(workspace).resolve())
    road = Road.open(Path(recipe), Path(workspace), device)
    road.require_all()
    sources = stations.fetch(road)
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
    return {"name": registered.name, "version": registered.version, "promoted": promotion.moved}
