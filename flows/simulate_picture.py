"""A simulated merge as a picture: time and node-hours by the number of nodes, and what bounds each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from widen.simulation.forecast import Forecast

OURS, LEAST, COST, TEXT = "#2458a6", "#8b92a0", "#b5692b", "#20242c"


def draw(lines: Sequence[Forecast], best: Forecast, title: str, path: Path) -> None:
    """Write the picture in the format that the file's name says; the same lines give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {"font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT, "svg.hashsalt": "widen"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
        figure.suptitle(title, fontsize=11.5, x=0.02, ha="left")
        _times(above, lines, best)
        _price(below, lines, best)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e6e8ee", linewidth=0.8)
            axes.set_axisbelow(True)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _times(axes: Any, lines: Sequence[Forecast], best: Forecast) -> None:
    unit, name = _unit(lines)
    nodes = [line.nodes for line in lines]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.plot(nodes, [line.least / unit for line in lines], color=LEAST, linestyle="--", label="no order could beat")
    axes.plot(nodes, [line.seconds / unit for line in lines], color=OURS, marker="o", label="simulated")
    axes.plot([best.nodes], [best.seconds / unit], "o", markersize=13, markerfacecolor="none", color=COST)
    for number, line in enumerate(lines):
        if number == 0 or line.bound != lines[number - 1].bound:
            axes.annotate(
                line.bound,
                (line.nodes, line.seconds / unit),
                xytext=(8, 2 if line is best else 9),
                textcoords="offset points",
                fontsize=9,
            )
    told = f"useful: {best.nodes}"
    axes.annotate(
        told, (best.nodes, best.seconds / unit), xytext=(0, 15), textcoords="offset points", ha="center", color=COST
    )
    values = [line.seconds / unit for line in lines] + [line.least / unit for line in lines]
    axes.set_ylim(min(values) * 0.6, max(values) * 1.8)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}" if max(values) / min(values) < 10 else "")
    axes.set_ylabel(name)
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _price(axes: Any, lines: Sequence[Forecast], best: Forecast) -> None:
    priced = any(line.cost for line in lines)
    values = [line.cost if priced else line.nodes * line.seconds / 3600 for line in lines]
    colours = [COST if line is best else "#dcc3ad" for line in lines]
    axes.bar([line.nodes for line in lines], values, width=[0.35 * line.nodes for line in lines], color=colours)
    axes.set_ylabel("cost" if priced else "node-hours")
    axes.set_xticks([line.nodes for line in lines], [str(line.nodes) for line in lines])
    axes.minorticks_off()
    axes.set_xlabel("nodes")


def _unit(lines: Sequence[Forecast]) -> tuple[float, str]:
    most = max(line.seconds for line in lines)
    return (3600.0, "hours") if most > 7200 else (60.0, "minutes") if most > 300 else (1.0, "seconds")
