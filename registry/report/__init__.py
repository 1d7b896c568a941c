"""A version's report: one self-contained page that tells what was merged, what the gate said and where it came from.

`build` collects the values, `Report` holds them and can be stored, `render` draws the page. Nothing here asks a
registry.
"""

from registry.report.build import build, reuse_of
from registry.report.markdown import describe, describe_model, summarise
from registry.report.page import render, scores_picture
from registry.report.values import (
    Event,
    ModelChange,
    Override,
    Report,
    Reuse,
    Score,
    Scored,
    ScoreRow,
    Stage,
    Standing,
    TensorChange,
)

__all__ = [
    "Event",
    "ModelChange",
    "Override",
    "Report",
    "Reuse",
    "Score",
    "ScoreRow",
    "Scored",
    "Stage",
    "Standing",
    "TensorChange",
    "build",
    "describe",
    "describe_model",
    "render",
    "reuse_of",
    "scores_picture",
    "summarise",
]
