"""What a run came to, for a terminal: scores of every model, the gate's clauses, the version, where to look next."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from flows.environment import prepare
from flows.registries import registry_at
from flows.road import CHAMPION, MERGED, REPORT, Road
from flows.settings import settings

if TYPE_CHECKING:
    from registry.decision import Decision
    from registry.history import History
    from registry.scorecard import Scorecard
    from registry.versions import Version

WIDTH = 118


def print_run(road: Road) -> None:
    """Print the last run of a recipe from what its stations recorded."""
    from registry.decision import Decision

    _print_scores(road)
    decision = Decision.from_json((road.run_folder / "gate.json").read_text(encoding="utf-8"))
    print("\nThe gate, each clause with its figures:")
    for line in decision.lines():
        print(f"  {line}")
    _print_version(road, decision)


def _print_scores(road: Road) -> None:
    from rich.console import Console
    from rich.table import Table

    folder = road.run_folder / "scorecards"
    champion = (CHAMPION,) if road.asks_champion and (folder / f"{CHAMPION}.json").is_file() else ()
    cards = {name: _card(folder / f"{name}.json") for name in (*road.recipe.participants, *champion, MERGED)}
    table = Table(title=f"Scores of {road.recipe.name}")
    table.add_column("task")
    table.add_column("better")
    for name in cards:
        table.add_column(f"{name} (base)" if name == road.recipe.base else name, justify="right")
    for scores in cards[MERGED].tasks:
        asked = (scores.task, scores.metric, scores.filter)
        values = [f"{card.get(*asked).value:.4f}" for card in cards.values()]
        table.add_row(f"{scores.task} {scores.metric}", "higher" if scores.higher_is_better else "lower", *values)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    print()
    console.print(table)


def _print_version(road: Road, decision: "Decision") -> None:
    from registry.history import read_history
    from registry.versions import SIGNATURE, resolve

    registered = json.loads((road.run_folder / "registered.json").read_bytes())
    version = resolve(road.registry, f"{registered['name']}/{registered['version']}").version
    again = ", registered before" if registered["reused"] else ""
    print(f"\n{version.name} version {version.version}, alias {', '.join(version.aliases) or 'none'}{again}")
    for line in _promotion_lines(road, version, decision, read_history(road.registry, version.name)):
        print(line)
    print(_signature(version.tag(SIGNATURE)))
    print("\nWhere to look next:")
    for what, where in _places(road, f"{version.name}/{version.version}"):
        print(f"  {what:<18} {where}")


def _promotion_lines(road: Road, version: "Version", decision: "Decision", history: "History") -> list[str]:
    """What the history ends in, and what a person can do about a version that was not promoted."""
    last = history.champion
    lines = [] if last is None else [f"history: entry {last.number} ({last.digest()[:12]}): {last.line()}"]
    if history.alias == version.version:
        return lines
    stays = "there is no champion" if history.alias is None else f"version {history.alias} stays the champion"
    reason = "" if decision.passed else f", the gate says {decision.verdict}"
    asked = f"widen promote {version.name}/{version.version} {_registry_of(road)}"
    return [
        *lines,
        f"\nNot promoted{reason}; {stays}. Change the recipe or the models and run again, or, on your own word:",
        f"  {asked} --override 'WHY IT MAY BE PROMOTED ALL THE SAME'",
    ]


def _registry_of(road: Road) -> str:
    """The options by which another command finds this run's registry."""
    uri = road.recipe.require("registry").uri or settings().registry_address
    return f"--workspace {road.workspace}" + ("" if uri is None else f" --registry {uri}")


def _signature(key: str | None) -> str:
    from registry.attest.signature import UNSIGNED

    signed = key not in (None, UNSIGNED)
    return f"signed by the key {key}" if signed else "not signed (docs/provenance.md says how)"


def _places(road: Road, version: str) -> list[tuple[str, str]]:
    registry, place = road.registry, _registry_of(road)
    page = (
        registry.uri if registry.database is None else f"mlflow server --backend-store-uri {registry.uri} --port 5000"
    )
    return [
        ("merged checkpoint", str(road.merged_folder)),
        ("report", f"{road.run_folder / REPORT}, logged with the version"),
        ("validation report", str(road.run_folder / "validation" / "index.html")),
        ("registry's page", page),
        ("lineage", f"widen lineage {version} {place}"),
        ("make it again", f"widen verify {version} {place}"),
        ("history", f"widen history {version.partition('/')[0]} {place}"),
    ]


def _card(path: Path) -> "Scorecard":
    from registry.scorecard import Scorecard

    return Scorecard.from_json(path.read_text(encoding="utf-8"))


def save_report(model: str, workspace: Path, address: str | None, out: Path | None) -> None:
    """Fetch a version's page from the registry, from whichever machine, into the file `out`."""
    workspace = workspace.resolve()
    prepare(workspace)
    from registry.pages import read_page
    from widen.staging import write_atomically

    chosen, page = read_page(registry_at(address, workspace), model)
    target = out or Path(re.sub(r"[^\w.-]+", "-", model) + ".html")
    write_atomically(target, page.encode())
    print(f"{chosen}: {target}")
