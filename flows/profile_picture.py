"""A merge's profile as a picture: what every thread did when, and what each stage took in all."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from widen.errors import EnvironmentFault, RecipeError
from widen.profile import Profile, Span

SUFFIXES = (".svg", ".png", ".pdf")
GAP = 0.002
"""Seconds: spans of one stage closer than this are drawn as one, so that a large merge still makes a small picture."""


def require_picture(path: Path) -> None:
    """Raise before any work: RecipeError for a file name that says no format, EnvironmentFault without matplotlib."""
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"profile {path}: expected a file name that ends in one of {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise EnvironmentFault(f"profile {path}: drawing needs matplotlib, found none; pip install 'widen[pipeline]'")


def draw(profile: Profile, path: Path) -> None:
    """Write the picture in the format that the file's name says."""
    from matplotlib.figure import Figure

    totals = profile.totals()
    palette = {row.stage: f"C{number}" for number, row in enumerate(totals)}
    figure = Figure(figsize=(11, 7), layout="constrained")
    timeline, bars = figure.subplots(2, 1, height_ratios=[3, 2])
    figure.suptitle(f"{profile.wall:.2f} s; {profile.verdict()}", fontsize=11)
    _draw_timeline(timeline, profile.spans, palette)
    stages = [row.stage for row in totals]
    colours = [palette[stage] for stage in stages]
    computing, waiting = [row.computing for row in totals], [row.waiting for row in totals]
    bars.barh(stages, computing, color=colours, label="on a processor")
    bars.barh(stages, waiting, left=computing, color=colours, alpha=0.35, label="waiting")
    bars.invert_yaxis()
    bars.set_xlabel("seconds, summed over threads (pale: waiting)")
    for axes in (timeline, bars):
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_timeline(axes: Any, spans: list[Span], palette: dict[str, str]) -> None:
    threads = sorted({span.thread for span in spans})
    for row, thread in enumerate(threads):
        for stage, colour in palette.items():
            mine = [span for span in spans if span.thread == thread and span.stage == stage]
            axes.broken_barh(_joined(mine), (row - 0.4, 0.8), color=colour, linewidth=0)
    axes.set_yticks(range(len(threads)), threads)
    axes.invert_yaxis()
    axes.set_xlabel("seconds")


def _joined(spans: list[Span]) -> list[tuple[float, float]]:
    """(start, length) of spans in order, neighbours joined."""
    joined: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda span: span.start):
        if joined and span.start - sum(joined[-1]) < GAP:
            joined[-1] = joined[-1][0], span.stop - joined[-1][0]
        else:
            joined.append((span.start, span.stop - span.start))
    return joined
