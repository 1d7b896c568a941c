"""The verdict in words, and numbers short enough to read: the same on the page, in the registry and in the flow."""

from collections import Counter
from dataclasses import dataclass

from registry.decision import ClauseResult, Verdict
from registry.report.values import Report, ScoreRow

OVERRIDDEN = "OVERRIDDEN"
MARKS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", OVERRIDDEN: "!"}


@dataclass(frozen=True)
class Banner:
    """The first thing on the page: one word, its mark, what it means here."""

    word: str
    mark: str
    text: str


def banner(report: Report) -> Banner:
    """The verdict told plainly; an override stands before the verdict it overrode."""
    text = _verdict_text(report)
    if report.override is None:
        return Banner(str(report.decision.verdict), MARKS[report.decision.verdict], text)
    held = report.override
    against = f"{held.by} promoted this version against the gate, which said {report.decision.verdict}, on {held.at}."
    return Banner(OVERRIDDEN, MARKS[OVERRIDDEN], f"{against} Reason: {held.reason.rstrip('.')}. {text}")


def _verdict_text(report: Report) -> str:
    count = Counter(result.verdict for result in report.decision.results)
    total = len(report.decision.results)
    if report.decision.verdict is Verdict.PASS:
        return f"Every question of the gate was answered with yes ({total} of {total})."
    failed, open_ = count[Verdict.FAIL], count[Verdict.INCONCLUSIVE]
    told = f"The gate failed {_of(failed, total)}" if failed else "The gate found no failure"
    told += f" and could not decide {open_ if failed else _of(open_, total)}" if open_ else ""
    also = " It may not be promoted." if failed else " The documents show neither yes nor no, and that never promotes."
    also = also if report.override is None else ""
    return f"{told}; {count[Verdict.PASS]} passed.{also}"


def _of(count: int, total: int) -> str:
    return f"{count} of {total} questions"


def number(value: float) -> str:
    """Four significant digits, with a true minus."""
    return f"{value:.4g}".replace("-", "\u2212")


def figure(value: float) -> str:
    """Four significant digits, zeros kept, so that figures in a column compare."""
    return f"{value:#.4g}".rstrip(".").replace("-", "\u2212")


def small(value: float | None) -> str:
    """Two significant digits; infinite where there is no figure."""
    return "∞" if value is None else f"{value:.2g}".replace("-", "\u2212")


def percent(value: float | None) -> str:
    """A share in two significant digits: 12%, 0.034%, 0%; infinite where there is no share."""
    if value is None:
        return "∞"
    shown = 100 * value
    return f"{shown:.0f}%" if shown >= 9.95 or shown == 0 else f"{shown:.2g}%".replace("-", "\u2212")


def interval(lower: float | None, upper: float | None) -> str:
    """Bounds in brackets, or that there are none."""
    return "no interval" if lower is None or upper is None else f"[{figure(lower)}, {figure(upper)}]"


def asked(result: ClauseResult) -> str:
    """What one question of the gate asks, without its numbers."""
    metric = f"{result.task} {result.metric}"
    others = ", ".join(reference.model for reference in result.references)
    if result.question == "absolute":
        limit = -result.threshold if not result.higher_is_better else result.threshold
        return f"{metric}: {'at least' if result.higher_is_better else 'at most'} {number(limit)}"
    if result.question == "superior":
        return f"{metric}: better than {others}"
    return f"{metric} beside {others}: {result.clause.partition(': ')[2] or result.clause}"


def found(result: ClauseResult) -> str:
    """What was found: estimate, bounds and threshold; an absolute value in its own sign, else more is better."""
    sign = -1.0 if result.question == "absolute" and not result.higher_is_better else 1.0
    lower, upper = sorted((sign * result.lower, sign * result.upper))
    needs = "at most" if sign < 0 else ("at least" if result.question == "absolute" else "above")
    value = figure(sign * result.estimate)
    return f"{value} {interval(lower, upper)}, needs {needs} {number(sign * result.threshold)}"


def better(row: ScoreRow) -> str:
    """Which way is better, in words."""
    return "higher is better" if row.higher_is_better else "lower is better"


def short(digest: str) -> str:
    """The first twelve digits of a digest."""
    return digest[:12]
