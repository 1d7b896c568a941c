"""The output's tokenizer files and what its configuration says of tokens: every id is that of the token's own row."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from widen.checkpoint import GENERATION_FILE, TOKENIZER_FILES, Checkpoint, read_json
from widen.tokenizer import FAST_FILE
from widen.vocabulary.alignment import Alignment
from widen.vocabulary.vocabulary import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from widen.vocabulary.vocabulary import FLAGS

KEPT_FILES = (TOKENIZER_CONFIG_FILE, "special_tokens_map.json")
"""Kept beside a tokenizer.json with further tokens; older files would lack these and are left out."""
TOKEN_KEY = re.compile(r"(_token_ids?|_token_index|suppress_tokens)$")
"""The keys of a configuration that hold ids of tokens: a number or a list."""


def tokenizer_files(alignment: Alignment, checkpoints: Sequence[Checkpoint]) -> dict[str, bytes]:
    """By name: the source's own as they are, or, where tokens were appended, tokenizer.json with them."""
    source = _source_with_files(alignment, checkpoints)
    own = [name for name in TOKENIZER_FILES if name in source.companions]
    if alignment.content is None:
        return {name: (source.folder / name).read_bytes() for name in own}
    files = {name: (source.folder / name).read_bytes() for name in KEPT_FILES if name in own}
    files[FAST_FILE] = as_json(alignment.content)
    if TOKENIZER_CONFIG_FILE in files:
        told = read_json(source.name, source.folder / TOKENIZER_CONFIG_FILE)
        files[TOKENIZER_CONFIG_FILE] = as_json(_with_added(told, alignment.content))
    return dict(sorted(files.items()))


def _source_with_files(alignment: Alignment, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """The source, or, where it has no tokenizer, the model whose it was taken to share."""
    name = alignment.vocabularies[alignment.source].name
    return next(checkpoint for checkpoint in checkpoints if checkpoint.name == name)


def _with_added(config: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json whose list of added tokens, where it keeps one, is that of tokenizer.json."""
    if "added_tokens_decoder" not in config:
        return dict(config)
    listed = {
        str(token["id"]): {"content": token["content"], **{flag: token[flag] for flag in FLAGS}}
        for token in content["added_tokens"]
    }
    return {**config, "added_tokens_decoder": listed}


def token_configs(alignment: Alignment, checkpoints: Sequence[Checkpoint]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The base's config.json and generation_config.json (empty where it has none) with the output's ids and rows.

    Where the tokenizer is another model's, that model's own ids count, for they are ids of the same tokenizer; a key
    that it lacks keeps the base's token, by text, and goes where the output has no such token.
    """
    base, source = checkpoints[0], checkpoints[alignment.source]
    generation, other = (
        read_json(one.name, one.folder / GENERATION_FILE) if GENERATION_FILE in one.companions else {}
        for one in (base, source)
    )
    config = dict(base.config)
    if alignment.source != 0:
        texts = {number: text for text, number in alignment.vocabularies[0].ids.items()}
        config = _retold(config, source.config, alignment.ids, texts)
        # Generation settings that only the base has keep its tokens, those of both take the source's.
        generation = _retold(generation, {**source.config, **other}, alignment.ids, texts)
    for key in alignment.tensors[0].keys:
        config = set_key(config, key, alignment.rows)
    return config, generation


def _retold(
    config: Mapping[str, Any], other: Mapping[str, Any], ids: Mapping[str, int], texts: Mapping[int, str]
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for key, value in config.items():
        theirs = other.get(key)
        if isinstance(value, dict):
            told[key] = _retold(value, theirs if isinstance(theirs, Mapping) else {}, ids, texts)
        elif not TOKEN_KEY.search(key) or value is None:
            told[key] = theirs if TOKEN_KEY.search(key) and theirs is not None else value
        elif theirs is not None:
            told[key] = theirs
        elif (found := _translated(value, ids, texts)) is not None:
            told[key] = found
    return told


def _translated(value: Any, ids: Mapping[str, int], texts: Mapping[int, str]) -> Any:
    if isinstance(value, list):
        found = [number for one in value if (number := _translated(one, ids, texts)) is not None]
        return found or None
    return ids.get(texts.get(value, "")) if type(value) is int else value


def set_key(config: Mapping[str, Any], key: Sequence[str], value: int) -> dict[str, Any]:
    """The configuration with a nested key set, where it or the section that holds it is written."""
    first, *rest = key
    if not rest:
        return {**config, first: value}
    inner = config.get(first)
    return {**config, first: set_key(inner if isinstance(inner, Mapping) else {}, rest, value)}


def as_json(content: Mapping[str, Any]) -> bytes:
    """As companion files are written."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
