"""The lineage as a picture: every input in a generation to the left of what was made from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from registry.lineage import Ancestor, Input
from registry.report.values import Report
from registry.report.words import short

BOX, GAP, STEP = (216, 76), 64, 92
LETTERS = 30
"""Characters that fit a line of a box."""


@dataclass(frozen=True)
class Node:
    """One box: its upper left corner, its lines of text (cut to fit) and all of it as a title."""

    x: int
    y: float
    kind: str
    lines: tuple[str, ...]
    title: str


@dataclass(frozen=True)
class Picture:
    """Boxes, and the curves between them as SVG path data, in a frame of `width` by `height` pixels."""

    nodes: tuple[Node, ...]
    curves: tuple[str, ...]
    width: int
    height: int
    text: str


@dataclass(frozen=True)
class _Tree:
    kind: str
    lines: tuple[str, ...]
    title: str
    inputs: "tuple[_Tree, ...]" = ()

    @property
    def depth(self) -> int:
        return 1 + max((one.depth for one in self.inputs), default=0)


def picture(report: Report) -> Picture:
    """First inputs at the left, the registered version at the right."""
    tree = _version(report)
    nodes: list[tuple[Node, float]] = []
    curves: list[str] = []
    leaves = _place(tree, tree.depth - 1, 0, nodes, curves)[1]
    width, height = tree.depth * (BOX[0] + GAP) - GAP + 4, int(leaves * STEP - (STEP - BOX[1])) + 4
    told = f"{report.name} version {report.version}, made from {', '.join(one.name for one in report.lineage.inputs)}"
    return Picture(tuple(node for node, _ in nodes), tuple(curves), width, height, told)


def _place(
    tree: _Tree, column: int, first: int, nodes: list[tuple[Node, float]], curves: list[str]
) -> tuple[float, int]:
    """Lay out a tree whose first leaf is number `first`; returns the middle of its box and the next leaf's number."""
    middles, after = [], first
    for one in tree.inputs:
        middle, after = _place(one, column - 1, after, nodes, curves)
        middles.append(middle)
    if middles:
        middle = (middles[0] + middles[-1]) / 2
    else:
        middle, after = first * STEP + BOX[1] / 2 + 2, first + 1
    x = column * (BOX[0] + GAP) + 2
    nodes.append((Node(x, middle - BOX[1] / 2, tree.kind, tree.lines, tree.title), middle))
    curves += [f"M{x - GAP} {start} C{x - GAP / 2} {start} {x - GAP / 2} {middle} {x} {middle}" for start in middles]
    return middle, after


def _version(report: Report) -> _Tree:
    made = report.lineage
    merged = _Tree(
        "merge",
        _cut("merge", made.recipe, f"{made.method} {_settings(report)}", f"weights {short(made.merged_digest)}"),
        f"merge by recipe {made.recipe}, {made.method}; weights {made.merged_digest}; recipe {made.recipe_digest}",
        tuple(_input(one) for one in made.inputs),
    )
    lines = _cut("registered version", f"{report.name} version {report.version}", f"gate: {report.decision.verdict}",
                 f"decision {short(report.decision.digest())}")  # fmt: skip
    return _Tree("version", lines, f"{report.name} version {report.version}", (merged,))


def _settings(report: Report) -> str:
    held = report.lineage.parameters
    told = [f"{name} {held[name]:g}" for name in ("t", "s") if isinstance(held.get(name), int | float)]
    ranks = held.get("parameters", {}).get("ranks")
    return ", ".join([*told, f"ranks {ranks}"] if isinstance(ranks, str) else told)


def _input(entry: Input) -> _Tree:
    source = entry.source
    role = "base" if entry.role == "base" else "parent"
    where = f"{source.path} of {source.repo}" if source.repo else source.path
    at = f"{source.rev or 'HEAD'}, commit {short(source.commit)}" if source.commit else "no commit known"
    title = (
        f"{role} {entry.name}: {where} at {source.rev or 'HEAD'}, commit {source.commit or 'unknown'}; {entry.digest}"
    )
    lines = _cut(f"{role}: {entry.name}", where, at, f"weights {short(entry.digest)}")
    return _Tree(role, lines, title, tuple(_ancestor(one) for one in entry.made_from))


def _ancestor(one: Ancestor) -> _Tree:
    made = f"{one.method} of {one.recipe}" if one.recipe else "first input"
    lines = _cut(f"{one.role}: {one.name}", made, f"weights {short(one.digest)}")
    return _Tree("ancestor", lines, f"{one.role} {one.name}: {made}; {one.digest}", tuple(map(_ancestor, one.inputs)))


def _cut(*lines: str) -> tuple[str, ...]:
    return tuple(line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…" for line in lines)


@dataclass(frozen=True)
class Origin:
    """One line of the lineage as a list: how deep it lies, and what is known of it."""

    depth: int
    role: str
    name: str
    where: str
    commit: str
    license: str
    digest: str


def origins(inputs: Sequence[Input]) -> Iterator[Origin]:
    """Every input and what it was made from, in recipe order, depth first."""
    for entry in inputs:
        source = entry.source
        where = f"{source.path} of {source.repo}" if source.repo else source.path
        where += f" at {source.rev or 'HEAD'}" if source.repo or source.rev else ""
        role = "base" if entry.role == "base" else "parent"
        yield Origin(0, role, entry.name, where, source.commit or "unknown", source.license or "unknown", entry.digest)
        yield from _ancestors(entry.made_from, 1)


def _ancestors(held: Sequence[Ancestor], depth: int) -> Iterator[Origin]:
    for one in held:
        made = f"{one.method} merge by recipe {one.recipe}" if one.recipe else "first input"
        yield Origin(depth, one.role, one.name, made, "", "", one.digest)
        yield from _ancestors(one.inputs, depth + 1)
