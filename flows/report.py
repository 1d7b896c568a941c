"""What a run came to, for a terminal: scores of every model, the gate's clauses, the version, where to look next."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.road import MERGED, Road

if TYPE_CHECKING:
    from registry.scorecard import Scorecard

WIDTH = 118


def print_run(road: Road) -> None:
    """Print the last run of a recipe from what its stations recorded."""
    from registry.decision import Decision

    _print_scores(road)
    decision = Decision.from_json((road.run_folder / "gate.json").read_text(encoding="utf-8"))
    print("\nThe gate, each clause with its figures:")
    for line in decision.lines():
        print(f"  {line}")
    _print_version(road)


def _print_scores(road: Road) -> None:
    from rich.console import Console
    from rich.table import Table

    cards = {name: _card(road.run_folder / "scorecards" / f"{name}.json") for name in (*road.recipe.inputs, MERGED)}
    table = Table(title=f"Scores of {road.recipe.name}")
    table.add_column("task")
    table.add_column("better")
    for name in cards:
        table.add_column(f"{name} (base)" if name == road.recipe.base else name, justify="right")
    for scores in cards[MERGED].tasks:
        values = [f"{card.get(scores.task, scores.metric).value:.4f}" for card in cards.values()]
        table.add_row(f"{scores.task} {scores.metric}", "higher" if scores.higher_is_better else "lower", *values)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    print()
    console.print(table)


def _print_version(road: Road) -> None:
    from registry.versions import resolve

    registered = json.loads((road.run_folder / "registered.json").read_bytes())
    version = resolve(road.registry, f"{registered['name']}/{registered['version']}").version
    again = ", registered before" if registered["reused"] else ""
    print(f"\n{version.name} version {version.version}, alias {', '.join(version.aliases) or 'none'}{again}")
    print("\nWhere to look next:")
    for what, where in _places(road, f"{version.name}/{version.version}"):
        print(f"  {what:<18} {where}")


def _places(road: Road, version: str) -> list[tuple[str, str]]:
    registry = road.registry
    page = (
        registry.uri if registry.database is None else f"mlflow server --backend-store-uri {registry.uri} --port 5000"
    )
    return [
        ("merged checkpoint", str(road.merged_folder)),
        ("validation report", str(road.run_folder / "validation" / "index.html")),
        ("registry's page", page),
        ("lineage", f"widen lineage {version} --workspace {road.workspace}"),
    ]


def _card(path: Path) -> "Scorecard":
    from registry.scorecard import Scorecard

    return Scorecard.from_json(path.read_text(encoding="utf-8"))
