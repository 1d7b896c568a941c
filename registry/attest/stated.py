"""What licence a checkpoint's own files state: its model card, its configuration, or a licence text that is known."""

import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry.attest.licences import SAYS_NOTHING, normal

log = logging.getLogger(__name__)

CARD, CONFIG = "README.md", "config.json"
TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "COPYING")
_LARGEST = 1 << 18  # characters read of any file

# Words that stand, in this order, in a licence's text and in no other's on this list.
_WORDS = {
    "apache-2.0": ("apache license", "version 2.0"),
    "mit": ("permission is hereby granted, free of charge", "the software is provided as is"),
    "bsd-3-clause": ("redistribution and use in source and binary forms", "neither the name of"),
    "gpl-3.0": ("gnu general public license", "version 3, 29 june 2007", "preamble"),
    "agpl-3.0": ("gnu affero general public license", "version 3, 19 november 2007"),
    "llama2": ("llama 2 community license agreement",),
    "llama3": ("meta llama 3 community license agreement",),
    "llama3.1": ("llama 3.1 community license agreement",),
    "llama3.2": ("llama 3.2 community license agreement",),
    "llama3.3": ("llama 3.3 community license agreement",),
    "gemma": ("gemma terms of use",),
}


def stated_licence(folder: Path) -> str | None:
    """The licence that the checkpoint in `folder` states, by the table's name for it, or None.

    The model card comes first, then `license` in the configuration, then a licence's text, of which only whole,
    unmistakable ones count. A file that cannot be read states nothing and is told in the log.
    """
    return _of_card(folder / CARD) or _of_config(folder / CONFIG) or _of_text(folder)


def _of_card(path: Path) -> str | None:
    import yaml

    found = re.match(r"\ufeff?---[^\S\n]*\n(.*?)\n---[^\S\n]*(?:\n|$)", _text(path), re.DOTALL)
    if found is None:
        return None
    try:
        held = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        log.warning("%s: its metadata is no YAML, so it states no licence", path)
        return None
    if not isinstance(held, dict):
        return None
    licence = _name(held.get("license"))
    return licence if licence not in (None, *SAYS_NOTHING) else _name(held.get("license_name")) or licence


def _of_config(path: Path) -> str | None:
    try:
        held = json.loads(_text(path) or "{}")
    except (ValueError, RecursionError):
        return None
    return _name(held.get("license")) if isinstance(held, dict) else None


def _of_text(folder: Path) -> str | None:
    for path in (folder / name for name in TEXTS):
        plain = re.sub(r"[\s*\"“”]+", " ", _text(path)).lower()
        found = [name for name, words in _WORDS.items() if _in_order(words, plain)]
        if len(found) == 1:
            return found[0]
    return None


def _in_order(words: Iterable[str], text: str) -> bool:
    place = 0
    for word in words:
        place = text.find(word, place)
        if place < 0:
            return False
        place += len(word)
    return True


def _name(value: Any) -> str | None:
    """One name on one line; a list of several names is no single licence."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not re.fullmatch(r"[\w.+ ()/-]{1,100}", value.strip()):
        return None
    return normal(value)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_LARGEST)
    except OSError:
        return ""
