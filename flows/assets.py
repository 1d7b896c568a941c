"""The files that travel with the project: pipeline, deployment, recipes and the quickstart's data."""

import re
from pathlib import Path

from widen.errors import EnvironmentFault

TEMPLATE = "template"
_HERE = Path(__file__).resolve().parent


def asset(relative: str) -> Path:
    """The shipped file or folder `relative`: inside an installed wheel, or at the root of a source checkout.

    Raises `EnvironmentFault` where this installation does not hold it.
    """
    packed = _HERE / "_assets"
    path = (packed if packed.is_dir() else _HERE.parent) / relative
    if not path.exists():
        raise EnvironmentFault(f"this installation lacks {relative}: expected {path}; install widen again")
    return path


def workspace_files(recipe: str = TEMPLATE) -> dict[str, str]:
    """The files of a new workspace that runs the shipped recipe `recipe`, relative path -> text."""
    return {
        "dvc.yaml": _text("dvc.yaml", recipe),
        "prefect.yaml": _text("prefect.yaml", recipe),
        f"recipes/{recipe}.yaml": asset(f"recipes/{recipe}.yaml").read_text(encoding="utf-8"),
        "evaluation/.gitkeep": "",
    }


def _text(relative: str, recipe: str) -> str:
    """A shipped YAML file with the recipe's name in the place of the template's."""
    text = asset(relative).read_text(encoding="utf-8")
    text = text.replace(f"recipes/{TEMPLATE}.yaml", f"recipes/{recipe}.yaml")
    return re.sub(rf"\bname: {TEMPLATE}\b", f"name: {recipe}", text)
