"""WIDEN merges of LLM checkpoints whose bytes depend on inputs and settings alone (arXiv 2408.03092).

    import widen
    manifest = widen.merge("base", ["chat", "sailor"], out="merged", settings=widen.Settings(t=1.0, s=1.0))
    print(manifest.digest)

Importing this package imports nothing heavy; what a call needs is imported by the call.
"""

from typing import TYPE_CHECKING, Any

from widen.errors import EnvironmentFault, InputsRefused, OutputExists, RecipeError, WidenError
from widen.version import __version__

if TYPE_CHECKING:
    from widen.api import Inspection, inspect, merge
    from widen.checkpoint import Checkpoint
    from widen.influences import Influence, TensorInfluence, influence
    from widen.manifest import Manifest
    from widen.settings import Settings
    from widen.workbench import Resources

__all__ = [
    "Checkpoint", "EnvironmentFault", "Influence", "InputsRefused", "Inspection", "Manifest", "OutputExists",
    "RecipeError", "Resources", "Settings", "TensorInfluence", "WidenError", "__version__", "influence", "inspect",
    "merge",
]  # fmt: skip

_HOMES = {
    "Inspection": "api",
    "Resources": "workbench",
    "inspect": "api",
    "merge": "api",
    "Checkpoint": "checkpoint",
    "Influence": "influences",
    "TensorInfluence": "influences",
    "influence": "influences",
    "Manifest": "manifest",
    "Settings": "plan",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'widen' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"widen.{_HOMES[name]}"), name)
