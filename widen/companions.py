"""The files beside the weights: configuration, generation settings, tokenizer and chat template of the merged model."""

import json
from pathlib import Path
from typing import Any

from widen.checkpoint import CHAT_TEMPLATE_FILE, CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILES, Checkpoint, read_json
from widen.digests import FileDigest
from widen.plan import MergePlan
from widen.staging import write_synced
from widen.vocabulary.chat_templates import chosen_template
from widen.vocabulary.files import as_json

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"


def write_companions(plan: MergePlan, folder: Path) -> tuple[dict[str, FileDigest], list[str]]:
    """Write them into `folder`; returns their digests and notes about where they came from.

    Configuration and generation settings are the base's, with the merge's type; the tokenizer is the base's, or that of
    the first model that has one; so is the chat template.
    """
    contents: dict[str, bytes] = {CONFIG_FILE: _config(plan)}
    if plan.base.rewritten is not None:
        contents |= plan.base.rewritten.files
        notes = list(plan.base.rewritten.notes)
    else:
        if GENERATION_FILE in plan.base.companions:
            contents[GENERATION_FILE] = (plan.base.folder / GENERATION_FILE).read_bytes()
        notes = _add_tokenizer(plan, contents) + _add_chat_template(plan, contents)
    if plan.settings.chat_template is not None:
        notes += _set_chat_template(plan.settings.chat_template, plan, contents)
    return {name: write_synced(folder / name, data) for name, data in sorted(contents.items())}, notes


def _config(plan: MergePlan) -> bytes:
    config: dict[str, Any] = dict(plan.config)
    if plan.settings.out_dtype:
        config["dtype" if "torch_dtype" not in config else "torch_dtype"] = plan.settings.out_dtype
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _add_tokenizer(plan: MergePlan, contents: dict[str, bytes]) -> list[str]:
    for source in plan.checkpoints:
        files = [name for name in TOKENIZER_FILES if name in source.companions]
        if files:
            contents.update({name: (source.folder / name).read_bytes() for name in files})
            return [] if source is plan.base else [f"tokenizer: {plan.base.name} has none, taken from {source.name}"]
    return ["tokenizer: no input has one, so the merged checkpoint has none"]


def _add_chat_template(plan: MergePlan, contents: dict[str, bytes]) -> list[str]:
    for source in plan.checkpoints:
        template = _chat_template(source)
        if template is not None:
            if source is plan.base and CHAT_TEMPLATE_FILE not in source.companions:
                return []
            contents[CHAT_TEMPLATE_FILE] = template
            return [] if source is plan.base else [f"chat template: taken from {source.name}"]
    return []


def _set_chat_template(asked: str, plan: MergePlan, contents: dict[str, bytes]) -> list[str]:
    """The one template of the output, in a file of its own, whatever was there before."""
    text = chosen_template(asked, plan.checkpoints)
    if text is None:
        return [f"chat template: `{asked}`, and no model has one"]
    if TOKENIZER_CONFIG_FILE in contents:
        config = json.loads(contents[TOKENIZER_CONFIG_FILE])
        if config.pop("chat_template", None) is not None:
            contents[TOKENIZER_CONFIG_FILE] = as_json(config)
    contents[CHAT_TEMPLATE_FILE] = text.encode()
    return []


def _chat_template(source: Checkpoint) -> bytes | None:
    """A checkpoint's template: a file of its own, or a key of the tokenizer's configuration."""
    if CHAT_TEMPLATE_FILE in source.companions:
        return (source.folder / CHAT_TEMPLATE_FILE).read_bytes()
    if TOKENIZER_CONFIG_FILE in source.companions:
        template = read_json(source.name, source.folder / TOKENIZER_CONFIG_FILE).get("chat_template")
        return template.encode() if isinstance(template, str) else None
    return None
