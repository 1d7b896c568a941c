"""A version in Markdown, for a registry's page and a flow's: the verdict first, in words, then scores and inputs."""

import re
from collections.abc import Iterator

from registry.report.drawing import lanes_of
from registry.report.values import Report
from registry.report.words import MARKS, asked, banner, better, found, short

LIMIT = 4900
"""Characters; an MLflow registry keeps 5,000 of a description."""
# Within a line; an underscore inside a word is only an underscore.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~]|(?<![^\W_])_|_(?![^\W_]))")


def plain(text: str) -> str:
    """Text from a recipe or a model on one line, with nothing in it that Markdown or HTML would read."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\>", "&gt;")


def describe(report: Report, links: str = "") -> str:
    """The version, at most LIMIT characters. links: Markdown that leads to report and artifacts, put near the top."""
    parts = [_head(report), links, _scores(report), _clauses(report), _inputs(report), _check(report)]
    while len(text := "\n\n".join(part for part in parts if part)) > LIMIT:
        longest = max(range(2, len(parts)), key=lambda place: len(parts[place]))
        parts[longest] = f"{parts[longest].splitlines()[0]} Too long for this page: see the report."
    return text


def summarise(report: Report, told: str = "") -> str:
    """Verdict, clauses and scores alone. told: Markdown that goes after the verdict."""
    return "\n\n".join(part for part in (_head(report), told, _clauses(report), _scores(report)) if part)


def describe_model(report: Report) -> str:
    """What a registered model is, whatever its versions."""
    base = next((one.name for one in report.lineage.inputs if one.role == "base"), "none")
    parents = ", ".join(one.name for one in report.lineage.inputs if one.role != "base")
    return (
        f"Merges of {plain(parents)} into {plain(base)} by the recipe {plain(report.lineage.recipe)}.\n\n"
        "The alias `champion` is the version to serve, `candidate` the one registered last. The first line of every "
        "version's description says what the gate decided; each version's run holds its report (`report.html`), "
        "scores, decision and lineage, and a run for every model it was compared with."
    )


def _head(report: Report) -> str:
    held = banner(report)
    standing = f"\n\nStanding when this was written: {plain(report.standing)}." if report.standing else ""
    return f"{held.mark} {held.word}: {plain(held.text)}{standing}"


def _scores(report: Report) -> str:
    if not report.scores:
        return ""
    models = [(one.role, one.name) for one in report.models]
    names = [f"{plain(name)} ({role})" if role != name else name for role, name in models]
    lines = ["**Scores** with one-sided bounds", "", f"| | {' | '.join(names)} |", "|---" * (len(models) + 1) + "|"]
    for task in lanes_of(report.scores):
        held = {(one.role, one.label): f"{one.value} {one.bounds}" for one in task.whiskers}
        cells = (held.get(model, "not scored") for model in models)
        lines.append(f"| {plain(task.row.label)}, {better(task.row)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _clauses(report: Report) -> str:
    lines = [
        f"- {MARKS[one.verdict]} {one.verdict}: {plain(asked(one))}: {found(one)}" for one in report.decision.results
    ]
    against = report.decision.against
    beside = (
        ""
        if not against
        else (" (there was no champion yet)" if against == "none" else f" (champion {short(against)})")
    )
    return f"**The gate's questions**{beside}\n\n" + "\n".join([*lines, *_warnings(report)])


def _warnings(report: Report) -> Iterator[str]:
    for line in report.decision.warnings:
        yield f"- thin: {plain(line)}"


def _inputs(report: Report) -> str:
    lines = ["**Inputs**", "", "| role | name | from | commit | digest |", "|---|---|---|---|---|"]
    for entry in report.lineage.inputs:
        source, role = entry.source, "base" if entry.role == "base" else "parent"
        where = f"{source.path} of {source.repo} at {source.rev or 'HEAD'}" if source.repo else source.path
        commit = plain(short(source.commit)) if source.commit else "unknown"
        made = f" (a merge of {len(entry.made_from)})" if entry.made_from else ""
        lines.append(
            f"| {role} | {plain(entry.name)}{made} | {plain(where)} | {commit} | {plain(short(entry.digest))} |"
        )
    return "\n".join(lines)


def _check(report: Report) -> str:
    name = f"{report.name}/{report.version}".replace("`", "")
    return (
        f"**Check it**: `widen verify {name}` hashes, fetches and merges again; `widen lineage {name}` lists every "
        f"input file; `widen report {name} --out report.html` fetches the report. "
        f"Weights `{report.lineage.merged_digest}`."
    )
