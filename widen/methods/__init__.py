"""The merge methods, one file each; `widen.py` is the reason this project exists."""

from widen.methods import (
    breadcrumbs,
    dare,
    della,
    karcher,
    linear,
    model_stock,
    multislerp,
    nuslerp,
    passthrough,
    sce,
    slerp,
    task_arithmetic,
    ties,
    widen,
)
from widen.methods.definition import METHODS, Method

__all__ = [
    "METHODS", "Method", "breadcrumbs", "dare", "della", "karcher", "linear", "model_stock", "multislerp",
    "nuslerp", "passthrough", "sce", "slerp", "task_arithmetic", "ties", "widen",
]  # fmt: skip
