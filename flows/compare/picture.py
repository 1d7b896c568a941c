"""A comparison as a picture: each method's interval for the share kept and for every skill, other trials faint."""

import io
from pathlib import Path
from typing import Any

from flows.compare.result import LOWER, WINNER, Figure, Result, Row
from widen.staging import write_atomically

OURS, OTHERS, TEXT, FAINT = "#2458a6", "#8a5a33", "#20242c", "#c4c9d4"
BASE, PARENTS = "#7a7f8a", "#2f7d4f"
ROW_INCHES, AROUND_INCHES, PANEL_INCHES, NAMES_INCHES = 0.34, 2.15, 2.7, 1.9
HIGHLIGHTED = "widen"


def draw(result: Result, stem: Path) -> None:
    """Write `stem`.svg and `stem`.png: the same result gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    style: Any = {"font.size": 9.5, "text.color": TEXT, "axes.labelcolor": TEXT, "svg.hashsalt": "widen"}
    with mpl.rc_context(style):
        panels = 1 + len(result.shown)
        size = (NAMES_INCHES + PANEL_INCHES * panels, AROUND_INCHES + ROW_INCHES * len(result.rows))
        figure = Canvas(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels, sharey=True, squeeze=False, width_ratios=[1.25] + [1.0] * (panels - 1))[0]
        _objective(axes[0], result)
        for one, label in zip(axes[1:], result.shown, strict=True):
            _skill(one, label, result)
        _names(axes[0], result)
        _legend(figure, result)
        for suffix, more in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 130})):
            held = io.BytesIO()
            figure.savefig(held, format=suffix[1:], **more)
            write_atomically(stem.with_suffix(suffix), held.getvalue())


def _objective(axes: Any, result: Result) -> None:
    for place, row in enumerate(result.rows):
        _interval(axes, place, row.best.objective, row)
        _points(axes, place, [one.objective.value for one in row.trials if one is not row.best])
    for one in result.references:
        _line(axes, one.objective, one.name, result)
    axes.set_title("share of the gains kept\n(mean of the clauses)", fontsize=9.5)


def _skill(axes: Any, label: str, result: Result) -> None:
    for place, row in enumerate(result.rows):
        _interval(axes, place, row.best.scores[label], row)
        _points(axes, place, [one.scores[label].value for one in row.trials if one is not row.best])
    for one in result.references:
        _line(axes, one.scores[label].value, one.name, result)
    better = "higher" if result.better[label] else "lower"
    axes.set_title(f"{label}\n({better} is better)", fontsize=9.5)


def _interval(axes: Any, place: int, figure: Figure, row: Row) -> None:
    """A bar from bound to bound; hollow where the method is below the winner."""
    colour = _colour(row)
    axes.plot(
        [figure.lower, figure.upper], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3
    )
    face = "white" if row.standing == LOWER else colour
    marker = "D" if row.standing == WINNER else "o"
    axes.plot([figure.value], [place], marker=marker, color=colour, markerfacecolor=face, markersize=5.5, zorder=4)


def _points(axes: Any, place: int, values: list[float]) -> None:
    axes.plot(
        values, [place] * len(values), linestyle="none", marker="o", markersize=3.2, color=TEXT, alpha=0.22, zorder=2
    )


def _line(axes: Any, value: float, name: str, result: Result) -> None:
    base = name == result.references[0].name
    style: Any = (0, (1, 2)) if base else (0, (5, 2) if name == result.references[1].name else (3, 2, 1, 2))
    axes.axvline(value, color=BASE if base else PARENTS, linewidth=1.1, linestyle=style, zorder=1)


def _names(axes: Any, result: Result) -> None:
    names = [row.best.method for row in result.rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for text, name in zip(axes.get_yticklabels(), names, strict=True):
        if name == HIGHLIGHTED:
            text.set(color=OURS, fontweight="bold")
    for one in axes.figure.axes:
        one.tick_params(axis="y", length=0)
        one.tick_params(axis="x", labelsize=8.5)
        one.grid(axis="x", color="#eceef2", linewidth=0.8)
        one.set_axisbelow(True)
        one.locator_params(axis="x", nbins=5)
        one.spines[["top", "right", "left"]].set_visible(False)


def _legend(figure: Any, result: Result) -> None:
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Any:
        return Line2D([], [], color=TEXT, linewidth=2.2, markersize=5.5, label=label, **style)

    keys = [mark("the best by these documents", marker="D"), mark("not told apart from it", marker="o")]
    keys.append(mark("below it", marker="o", markerfacecolor="white"))
    if any(len(row.trials) > 1 for row in result.rows):
        keys.append(
            Line2D([], [], color=TEXT, alpha=0.3, marker="o", linestyle="none", markersize=3.2, label="other trials")
        )
    for one in result.references:
        base = one is result.references[0]
        style: Any = (0, (1, 2)) if base else (0, (5, 2) if one is result.references[1] else (3, 2, 1, 2))
        label = f"{one.name} (base)" if base and one.name != "base" else one.name
        keys.append(Line2D([], [], color=BASE if base else PARENTS, linewidth=1.1, linestyle=style, label=label))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, fontsize=9)
    figure.suptitle(
        f"{result.name}: {len(result.rows)} methods, {result.candidates} candidates; bars: "
        f"{100 * (1 - 2 * result.alpha):g}% intervals on the selection documents",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip


def _colour(row: Row) -> str:
    return OURS if row.best.method == HIGHLIGHTED else OTHERS
