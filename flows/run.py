"""What the commands around the whole road do: run it, part of it, or read back where a model came from."""

import logging
from pathlib import Path

from flows.environment import prefect_server, prepare
from flows.quiet import told_once
from flows.registries import registry_at
from flows.report import print_run
from flows.road import Road, plainly


def run_recipe(recipe: Path, workspace: Path, device: str) -> None:
    """Run the flow and print what came of it, whether or not the gate passed."""
    from registry.errors import HistoryAltered, PromotionRefused

    workspace = workspace.resolve()
    prepare(workspace)
    # Before the workflow engine starts, so that a mistake in the recipe is answered at once.
    road = Road.open(recipe, workspace, device)
    road.require_all()
    from flows.pipeline import merge_pipeline

    with prefect_server(), told_once():
        try:
            merge_pipeline(str(road.recipe.path.resolve()), str(workspace), device)
        except (PromotionRefused, HistoryAltered):
            print_run(road)
            raise
    print_run(road)


def validate_recipe(recipe: Path, workspace: Path, device: str) -> None:
    """Fetch, measure and validate, and say where the result is."""
    from flows import stations
    from tasks.run_lock import run_lock

    road = _plain_road(recipe, workspace, device)
    with run_lock(road.workspace, f"the validation of {road.recipe.name}"):
        result = stations.validate(road, stations.measure(road, stations.fetch(road)))
    print(f"valid: {road.recipe.name}; the figures are in {result} and {result.with_suffix('')}/index.html")


def run_one_station(name: str, recipe: Path, workspace: Path, device: str) -> None:
    """Run a single station without the workflow engine."""
    from flows.stations import run_station
    from tasks.run_lock import run_lock

    road = _plain_road(recipe, workspace, device)
    with run_lock(road.workspace, f"the station {name} of {road.recipe.name}"):
        run_station(name, road)


def _plain_road(recipe: Path, workspace: Path, device: str) -> Road:
    prepare(workspace.resolve())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("great_expectations", "httpx", "mlflow", "dvc", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return Road.open(recipe, workspace, device, plainly)


def show_lineage(model: str, workspace: Path, registry: str | None, as_json: bool) -> None:
    """Print a registered model's lineage."""
    workspace = workspace.resolve()
    prepare(workspace)
    from registry.lineage import ancestors
    from registry.lineage_text import render
    from registry.versions import read_lineage, registered_as

    place = registry_at(registry, workspace)
    found = read_lineage(place, model)
    if as_json:
        print(found.lineage.to_json())
    else:
        print(f"{found.chosen}\n{render(found.lineage, registered_as(place, ancestors(found.lineage)))}")
