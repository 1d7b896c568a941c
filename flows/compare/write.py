"""The winner of a comparison as a recipe: the recipe's own text with another merge section."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.compare.result import Tried
from flows.recipe import Recipe, load_recipe
from flows.recipe.schema import Merge
from flows.recipe.yaml_source import read
from widen.errors import EnvironmentFault, OutputExists, RecipeError

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def require_free(path: Path) -> None:
    """Raise OutputExists where there is something at `path`."""
    if path.exists() or path.is_symlink():
        raise OutputExists(f"--write {path}: it exists, and is left as it is; choose another name")


def require_replaceable(recipe: Recipe, path: Path) -> None:
    """Raise RecipeError, as `write_recipe` would, where the recipe's text cannot take another merge section."""
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder, "recipe.yaml")
        staged.write_text(replaced(recipe, recipe.merge, "tried before any work"), encoding="utf-8")
        _require_same(recipe, recipe.merge, staged, path)


def write_recipe(recipe: Recipe, winner: Tried, path: Path) -> None:
    """Write the recipe with the winner's merge section to the new file `path`; comments elsewhere stay.

    Raises OutputExists where the file is there, EnvironmentFault where it cannot be written, and RecipeError where the
    recipe's layout leaves no lines of its own to the merge section; then nothing is written.
    """
    text = replaced(recipe, winner.candidate.merge, f"chosen by widen compare: {winner.method}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".widen-recipe-") as folder:
            staged = Path(folder, path.name)
            staged.write_text(text, encoding="utf-8")
            _require_same(recipe, winner.candidate.merge, staged, path)
            os.link(staged, path)  # unlike a rename it never replaces what came there meanwhile
    except FileExistsError as error:
        raise OutputExists(f"--write {path}: it exists, and is left as it is; choose another name") from error
    except OSError as error:
        raise EnvironmentFault(f"--write {path}: cannot be written: {error.strerror}") from error


def replaced(recipe: Recipe, merge: Merge, comment: str) -> str:
    """The recipe's text with `merge` in place of its own section."""
    document = read(recipe.path)
    lines = document.text.splitlines()
    starts = sorted(document.line_of((key,)) - 1 for key in document.data)
    first = document.line_of(("merge",)) - 1
    end = next((line for line in starts if line > first), len(lines))
    while end > first + 1 and re.fullmatch(r"\s*|#.*", lines[end - 1]):  # what stands above the next section is its own
        end -= 1
    return "\n".join([*lines[:first], *_section(merge, comment), *lines[end:]]) + "\n"


def _require_same(recipe: Recipe, merge: Merge, staged: Path, path: Path) -> None:
    try:
        same = load_recipe(staged).merge == merge
    except RecipeError as error:
        raise RecipeError(str(error).replace(str(staged), f"{recipe.path} with the winner's merge section")) from error
    if not same:
        raise RecipeError(
            f"--write {path}: the merge section of {recipe.path} has no lines of its own; write `merge:` on a line of "
            "its own at the left margin, its keys below it"
        )


def _section(merge: Merge, comment: str) -> list[str]:
    lines = ["merge:", f"  merge_method: {merge.merge_method}  # {comment}"]
    lines += [f"  base_model: {_scalar(merge.base_model)}"] if merge.base_model is not None else []
    lines.append("  models:")
    for one in merge.models:
        own = f", parameters: {_flow(one.parameters)}" if one.parameters else ""
        lines.append(f"    - {{model: {_scalar(one.model)}{own}}}")
    lines += [f"  parameters: {_flow(merge.parameters)}"] if merge.parameters else []
    for key in ("dtype", "out_dtype"):
        value = getattr(merge, key)
        lines += [f"  {key}: {value}"] if value is not None else []
    lines += [f"  tokenizer: {_flow(merge.tokenizer)}"] if merge.tokenizer is not None else []
    lines += [f"  chat_template: {_scalar(merge.chat_template)}"] if merge.chat_template is not None else []
    return lines


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """As YAML 1.1 reads it back: 1e-05 would be text, 1.0e-05 is a number."""
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    # YAML takes fewer characters as they are than JSON, some of them as ends of lines.
    return "".join(one if one.isprintable() else f"\\U{ord(one):08x}" for one in json.dumps(value, ensure_ascii=False))
