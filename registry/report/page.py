"""The page: a report drawn by its template, everything inline, nothing fetched and no script."""

from pathlib import Path
from typing import TYPE_CHECKING

from registry.report import heat, words
from registry.report.drawing import forest, lanes_of
from registry.report.family import origins, picture
from registry.report.values import Report

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def render(report: Report) -> str:
    """The report as one HTML document. All that comes from recipes and models is escaped."""
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            banner=words.banner(report),
            clauses=[forest(result) for result in report.decision.results],
            tasks=lanes_of(report.scores),
            changes=[(one, heat.change_grids(one, report.changes)) for one in report.changes],
            winners=heat.winner_grids(report.standings, _merged(report)) if report.standings else (),
            shares=heat.shares_by_layer(report.standings),
            merged=_merged(report),
            family=picture(report),
            origins=list(origins(report.lineage.inputs)),
        )
    )


def scores_picture(report: Report) -> str:
    """The scores of every model with their intervals, as an SVG that stands alone."""
    return _environment().get_template("scores.svg").render(report=report, tasks=lanes_of(report.scores))


def _merged(report: Report) -> list[str]:
    """The names of the merged models, in recipe order."""
    return list(dict.fromkeys(one.model for one in report.standings))


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    held = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    held.filters |= {
        "figure": words.figure,
        "number": words.number,
        "small": words.small,
        "percent": words.percent,
        "short": words.short,
        "better": words.better,
    }
    held.globals |= {"interval": words.interval, "letter": heat.letter, "marks": words.MARKS}
    return held
