"""A comparison for a terminal: methods by the share that they keep, each number with its interval."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from flows.compare.result import WINNER, Figure, Result, Row, notes

WIDTH = 150


def print_table(result: Result) -> None:
    """Print it to standard output, with what its figures mean."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Methods on the models of {result.name}", title_justify="left", show_lines=True)
    table.add_column("method")
    table.add_column("parameters", max_width=36)
    table.add_column("kept", justify="right")
    table.add_column("against\nthe winner")
    for label in result.shown:
        better = "higher" if result.better[label] else "lower"
        table.add_column("\n".join([*label.split("/", 1), f"{better} is better"]), justify="right")
    for row in result.rows:
        table.add_row(*_cells(row, result), style="bold" if row.standing == WINNER else None)
    for one in result.references:
        scores = [_figure(one.scores[label]) for label in result.shown]
        table.add_row(one.name, "not merged", f"{one.objective:.3f}", "", *scores, style="dim")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    print()
    console.print(table)
    for line in (
        *notes(result),
        *result.warnings,
        *(f"{name}: left out, {why}" for name, why in result.failed.items()),
    ):
        console.print(line, highlight=False, markup=False)


def _cells(row: Row, result: Result) -> list[str]:
    best = row.best
    tried = "" if best.candidate.trial is None else f" (best of {len(row.trials)})"
    scores = [_figure(best.scores[label]) for label in result.shown]
    return [best.method + tried, in_short(best.candidate.parameters), _figure(best.objective), row.standing, *scores]


def in_short(parameters: Mapping[str, Any]) -> str:
    """Parameters for people: `weight 0.5, density 0.3`."""
    return ", ".join(f"{key} {_value(value)}" for key, value in parameters.items()) or "none"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _figure(figure: Figure) -> str:
    return f"{figure.value:.3f}\n[{figure.lower:.3f}, {figure.upper:.3f}]"
