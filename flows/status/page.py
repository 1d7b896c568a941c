"""`widen status` for people: a block a recipe, a line a fact, at any width without a word broken into letters."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.status.found import Service
from flows.status.values import RecipeStatus, SourceStatus
from tasks.upstream import Pin

_STYLES = {
    "promoted": "green", "unchanged": "green", "well": "green", "running": "cyan", "asked": "cyan", "waiting": "cyan",
    "held": "bold yellow", "failed": "bold red", "silent": "bold red", "stopped": "dim",
}  # fmt: skip
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_LABEL, _INDENT, _WORDS = 11, 2, 22
"""Columns: of a label, before it, and the least that words of a table need."""


def show(
    console: Console,
    workspace: str,
    run: str | None,
    recipes: Sequence[RecipeStatus],
    services: Sequence[Service],
    now: float,
) -> None:
    """Print it all. `run` says who holds the workspace, `now` is in seconds since 1970."""
    console.print(Text(f"workspace {workspace}"), soft_wrap=True)
    if run is not None:
        console.print(Text(f"a run holds it: {run}"), soft_wrap=True)
    for one in recipes:
        console.print()
        console.print(_recipe(one, now, console.width))
        for command in one.next:  # never broken: to be copied
            console.print(Text.assemble(" " * _INDENT, ("next".ljust(_LABEL), "dim"), command), soft_wrap=True)
    if not recipes:
        console.print("\nno recipe is followed: recipes/*.yaml that are complete are, once they name your models")
    console.print()
    console.print(_facts([(one.name, Text(one.words, _STYLES[one.state])) for one in services], 0))


def _recipe(one: RecipeStatus, now: float, width: int) -> RenderableType:
    title = Text.assemble((one.name, "bold"), f"  {one.path}")
    sources = [Padding(_sources(one.sources, width - _INDENT), (0, 0, 0, _INDENT))] if one.sources else []
    return Group(title, _facts(list(_lines(one, now)), _INDENT), *sources)


def _facts(facts: Sequence[tuple[str, Text]], indent: int) -> RenderableType:
    grid = Table.grid(padding=0)
    grid.add_column(min_width=_LABEL, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in facts:
        grid.add_row(label, text)
    return Padding(grid, (0, 0, 0, indent))


def _lines(one: RecipeStatus, now: float) -> Iterator[tuple[str, Text]]:
    if one.fault:
        yield "wrong", Text(one.fault, "bold red")
    if one.model is not None:
        yield "champion", _champion(one)
    if one.fault and one.state == "never":
        return
    yield "state", Text.assemble((one.words, _STYLES.get(one.state, "")), _when(one.at, now))
    if one.reason:
        yield "why", Text(one.reason)
    for line in one.moved:
        yield "moved", Text(line)
    if one.due is not None:
        yield "again", Text(ago(one.due, now))
    if one.before is not None:
        version = "" if one.before.version is None else f": version {one.before.version}"
        yield "before", Text(f"{one.before.state}{version}{_when(one.before.at, now)}")
    yield "watch", Text(_watch(one, now))
    if one.report is not None:
        yield "report", Text(one.report)
    if one.flow_run is not None:
        yield "flow run", Text(one.flow_run)


def _champion(one: RecipeStatus) -> Text:
    if one.champion_fault:
        return Text(f"not known: {one.champion_fault}", "bold red")
    held = one.champion
    if held is None:
        return Text("none yet")
    if held.since is None:
        return Text(f"version {held.version}; its history does not say since when")
    return Text(f"version {held.version} since {held.since} by {held.by} ({held.kind}: {held.reason})")


def _watch(one: RecipeStatus, now: float) -> str:
    if not one.followed:
        return "not followed: the recipe says `follow: false`"
    if one.checked_at is None:
        return "never looked: `widen watch`, or `widen up`"
    last = f"looked {ago(one.checked_at, now)}"
    if one.next_check is None or one.next_check < one.checked_at:  # a run by hand looks too, and plans nothing
        return last
    return f"{last}, next look {'' if one.next_check > now else 'was due '}{ago(one.next_check, now)}"


def _sources(sources: Sequence[SourceStatus], width: int) -> RenderableType:
    """A table where its first columns leave room for words; else a few lines a source."""
    rows = [(one.name, one.follows or "-", pin(one.used), _upstream(one)) for one in sources]
    heads = ("source", "follows", "used last", "upstream")
    widths = [max(len(head), *(len(str(row[place])) for row in rows)) for place, head in enumerate(heads[:3])]
    if sum(widths) + 2 * len(widths) + _WORDS > width:
        return Group(*(_stacked(row) for row in rows))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head, one in zip(heads, widths, strict=False):
        table.add_column(head, no_wrap=True, min_width=one)
    table.add_column(heads[3], overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _stacked(row: tuple[str, str, str, Text]) -> RenderableType:
    name, follows, used, upstream = row
    lines = [("follows", Text(follows)), ("used last", Text(used)), ("upstream", upstream)]
    return Group(Text(name, overflow="fold"), _facts(lines, _INDENT))


def _upstream(one: SourceStatus) -> Text:
    style = "bold red" if one.trouble else ("cyan" if one.words.startswith("newer") else "")
    held = f": {pin(one.upstream)}" if one.words.startswith("newer") else ""
    since = f", since {moment(one.since)}" if one.trouble and one.since else ""
    return Text(f"{one.words}{held}{since}", style)


def pin(held: Pin | None) -> str:
    """A revision in short: its name, eight digits of its commit and of its content."""
    if held is None:
        return "-"
    commit = None if held.commit is None else held.commit[:8]
    name = None if held.ref == held.commit else held.ref
    return " ".join(part for part in (name, commit, held.content[:8]) if part)


def _when(at: float | None, now: float) -> str:
    return "" if at is None else f", {ago(at, now)}"


def ago(at: float, now: float) -> str:
    """A time in words and exactly: `3 min ago (2026-01-31T12:00:00Z)`."""
    seconds = abs(now - at)
    size, unit = next((one for one in _UNITS if seconds >= one[0]), (1, "s"))
    told = f"{seconds / size:.0f} {unit}"
    return f"{told} ago ({moment(at)})" if at <= now else f"in {told} ({moment(at)})"


def moment(at: float) -> str:
    """A time exactly, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
