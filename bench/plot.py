"""The result as a picture: a bar an entrant, its start apart from its merging, the floor as a line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

START, OURS, PEERS, FLOOR = "#c4c9d4", "#2458a6", "#b5692b", "#b3261e"
TEXT = "#20242c"
Lines = Mapping[str, Mapping[str, Any]]
ROW_INCHES, AROUND_INCHES = 0.42, 2.0


def plot(result: Mapping[str, Any], stem: Path) -> None:
    """Write `stem`.svg and `stem`.png."""
    lines = result["entrants"]
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    style: Any = {"font.size": 10, "text.color": TEXT, "axes.labelcolor": TEXT, "svg.hashsalt": "widen"}
    with mpl.rc_context(style):
        size = (10, AROUND_INCHES + ROW_INCHES * len(lines))
        figure, axes = pyplot.subplots(figsize=size, layout="constrained")
        _bars(axes, lines)
        _floor(axes, result["floor"]["seconds"], len(lines))
        _frame(axes, lines, result)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        pyplot.close(figure)


def _bars(axes: Any, lines: Lines) -> None:
    """Bars from the top down, each with its figures at its end."""
    for row, (name, line) in enumerate(lines.items()):
        start = min(line["start"], line["seconds"])
        axes.barh(row, start, color=START, height=0.62)
        axes.barh(row, line["seconds"] - start, left=start, color=_color(name), height=0.62)
        axes.plot([line["least"], line["most"]], [row, row], color=TEXT, linewidth=1, solid_capstyle="butt")
        told = f"{line['seconds']:.3g} s = {line['over_floor']:.1f} floors, {line['peak'] / 1e9:.2f} GB"
        # The box keeps the floor's line out of the letters.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        place: Any = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(told, (line["most"], row), **place, fontsize=9, bbox=box, zorder=4)


def _floor(axes: Any, seconds: float, rows: int) -> None:
    axes.axvline(seconds, color=FLOOR, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3)
    axes.set_ylim(rows - 0.5, -0.5)


def _frame(axes: Any, lines: Lines, result: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    axes.set_yticks(range(len(lines)), [line["caption"] for line in lines.values()])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.42 * max(line["most"] for line in lines.values()))
    axes.set_xlabel("seconds, median; thin line: least to most. Right of it: beside the floor, peak anonymous memory")
    axes.spines[["top", "right", "left"]].set_visible(False)
    keys: list[Any] = [Patch(color=START, label="interpreter start and imports")]
    keys += [Patch(color=OURS, label="widen")] if any(map(_is_ours, lines)) else []
    keys += [Patch(color=PEERS, label="mergekit")] if not all(map(_is_ours, lines)) else []
    floor = result["floor"]["seconds"]
    keys.append(Line2D([], [], color=FLOOR, linestyle=(0, (4, 2)), label=f"byte floor, {floor:.3g} s"))
    axes.figure.legend(handles=keys, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    axes.set_title(_title(result), loc="left", fontsize=11)


def _title(result: Mapping[str, Any]) -> str:
    size, machine = result["models"], result["machine"]
    what = f"Merging {size['count']} models of {size['parameters'] / 1e9:.3g} billion parameters, bfloat16"
    moved = f"reads {size['input_bytes'] / 1e9:.3g} GB, writes {size['output_bytes'] / 1e9:.3g} GB"
    where = f"{machine['processors']} x {machine['processor']}, {machine['memory_bytes'] / 2**30:.0f} GiB"
    rounds = len(result["rounds"])
    told = f"{where}, {machine['file_system']}, {result['device']}; {rounds} round{'s' * (rounds > 1)}"
    return f"{what}\n{moved}; {told}"


def _color(name: str) -> str:
    return OURS if _is_ours(name) else PEERS


def _is_ours(name: str) -> bool:
    return name.startswith("widen")
