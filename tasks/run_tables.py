"""The tables of a flow run's page as rows: scores, the gate's clauses, the validation's figures. Pure."""

from collections.abc import Mapping
from typing import Any

from registry.decision import Decision
from registry.report import Report
from registry.report.words import MARKS, asked, better, figure, found, interval, percent

Rows = list[dict[str, Any]]


def score_rows(report: Report) -> Rows:
    """One row a task and model, with the value's one-sided bounds where there are any; the rows of a task together."""
    return [
        {
            "task": row.label,
            "model": one.model if one.role in (one.model, "parent") else f"{one.model} ({one.role})",
            "value": figure(one.value),
            "bounds": interval(one.lower, one.upper),
            "which way": better(row),
            "documents": row.documents,
        }
        for row in report.scores
        for one in row.scores
    ]


def clause_rows(decision: Decision) -> Rows:
    """One row a question of the gate; what is longest comes last, for a page cuts it off."""
    return [
        {"verdict": f"{MARKS[one.verdict]} {one.verdict}", "found": found(one), "question": asked(one)}
        for one in decision.results
    ]


def validation_rows(content: Mapping[str, Any]) -> Rows:
    """One row a model of validation.json: how far it is from the base, and what the recipe allows."""
    limit = content["direction_change_max"]
    return [
        {
            "model": one["model"],
            "relative change": percent(one["relative_change"]),
            "allowed": f"{percent(one['lo'])} to {percent(one['hi'])}",
            "direction change": figure(one["direction_change"]) if one["direction_change"] is not None else "undefined",
            "at most": figure(limit),
            "elements changed": f"{one['changed']:,} of {one['elements']:,}",
        }
        for one in content["models"]
    ]


def validation_words(content: Mapping[str, Any]) -> str:
    """The outcome, with every refusal and warning a line."""
    verdict = "The models may be merged." if content["success"] else "Refused."
    lines = [f"- refused: {line}" for line in content["refusals"]] + [
        f"- warning: {line}" for line in content["warnings"]
    ]
    return "\n".join([verdict, *lines])
