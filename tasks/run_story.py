"""What a run did, in Markdown for its page: what moved, what was reused, where to look. Pure."""

from collections.abc import Iterator

from registry.lineage import Input, Lineage
from registry.report import Report, summarise
from registry.report.markdown import plain
from registry.report.words import short

GONE = "that version's record cannot be read any more"


def tell(report: Report, before: tuple[int, Lineage | None] | None, places: list[tuple[str, str]]) -> str:
    """The whole story.

    before: the champion that this version followed or was held against, and its lineage (None: it cannot be read);
    None where there was no champion. places: what can be looked at, and where, as Markdown.
    """
    parts = [_moved(report, before), _reused(report), _times(report), _places(places)]
    return summarise(report, "\n\n".join(part for part in parts if part))


def _moved(report: Report, before: tuple[int, Lineage | None] | None) -> str:
    if before is None:
        return f"**What moved**: nothing to compare with, there was no champion.\n\n{_table(report.lineage, None)}"
    number, held = before
    if held is None:
        return f"**What moved** since version {number}: {GONE}.\n\n{_table(report.lineage, None)}"
    recipe = "" if held.recipe_digest == report.lineage.recipe_digest else "\n\nThe recipe itself was edited since."
    return f"**What moved** since version {number}\n\n{_table(report.lineage, held)}{recipe}"


def _table(now: Lineage, before: Lineage | None) -> str:
    held = {} if before is None else {one.name: one for one in before.inputs}
    lines = ["| source | before | now | content |", "|---|---|---|---|"]
    for one in now.inputs:
        old = held.pop(one.name, None)
        lines.append(f"| {plain(one.name)} | {_pin(old)} | {_pin(one)} | {_change(old, one)} |")
    lines += [f"| {plain(one.name)} | {_pin(one)} | no longer used | |" for one in held.values()]
    return "\n".join(lines)


def _pin(one: Input | None) -> str:
    if one is None:
        return "\u2013"
    source = one.source
    if source.repo is None and source.commit is None:
        return f"local folder {plain(source.path)}"
    name = plain(source.rev or "HEAD")
    return name if source.commit is None or source.rev == source.commit else f"{name} ({source.commit[:8]})"


def _change(old: Input | None, new: Input) -> str:
    if old is None:
        return short(new.digest)
    return "the same" if old.digest == new.digest else f"**{short(old.digest)} \u2192 {short(new.digest)}**"


def _reused(report: Report) -> str:
    reuse = report.reuse
    if reuse is None:
        return ""
    computed = [f"{count} because {plain(why)}" for why, count in reuse.computed]
    made = f"computed: {', '.join(computed)}" if computed else "computed: none"
    return f"**Reused**: {reuse.reused} tensors taken from the output before, verified by digest; {made}."


def _times(report: Report) -> str:
    told = ", ".join(f"{stage.name} {stage.seconds:.1f} s" for stage in report.stages)
    return f"**Time**: {told}." if told else ""


def _places(places: list[tuple[str, str]]) -> str:
    return "**Look closer**\n\n" + "\n".join(_lines(places)) if places else ""


def _lines(places: list[tuple[str, str]]) -> Iterator[str]:
    for what, where in places:
        yield f"- {what}: {where}"
