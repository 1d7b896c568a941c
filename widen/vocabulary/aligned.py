"""Checkpoints as views with one vocabulary: aligned tensors in an overlay, everything else where it lies."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from widen.checkpoint import CHAT_TEMPLATE_FILE, GENERATION_FILE, Checkpoint, Rewritten
from widen.contents import Contents
from widen.digests import canonical_json, digest_of
from widen.headers import TensorEntry
from widen.overlay import Overlays
from widen.shards import Slot
from widen.vocabulary.alignment import Alignment, Fill, align
from widen.vocabulary.chat_templates import template_of
from widen.vocabulary.files import TOKEN_KEY, as_json, set_key, token_configs, tokenizer_files
from widen.vocabulary.request import TokenizerRequest
from widen.vocabulary.rows import aligned_rows, aligned_shape, aligned_type

ROWS = "token rows 1"
"""The arithmetic of aligned rows: it changes when the same inputs give other bits."""


def aligned(
    checkpoints: Sequence[Checkpoint], request: TokenizerRequest, overlays: Overlays, cache: Path | None = None
) -> list[Checkpoint]:
    """Views of `checkpoints`, the base first, whose rows and configurations are those of the asked tokenizer.

    The base's view brings the tokenizer's files. cache: where descriptions of architectures are kept. Raises as
    `align`.
    """
    alignment = align(checkpoints, request, cache)
    config, generation = token_configs(alignment, checkpoints)
    files = tokenizer_files(alignment, checkpoints) | ({GENERATION_FILE: as_json(generation)} if generation else {})
    notes = [*alignment.notes, *_add_template(alignment, checkpoints, files)]
    views = [
        one.view(
            {**one.tensors, **_overlaid(alignment, checkpoints, index, overlays)},
            config if index == 0 else _with_tokens_of(config, one.config, alignment, index),
        )
        for index, one in enumerate(checkpoints)
    ]
    return [replace(views[0], rewritten=Rewritten(files, tuple(notes))), *views[1:]]


def _add_template(alignment: Alignment, checkpoints: Sequence[Checkpoint], files: dict[str, bytes]) -> Iterator[str]:
    """The chat template of the tokenizer's model, else the first one that a model has."""
    source = checkpoints[alignment.source]
    if CHAT_TEMPLATE_FILE in source.companions:
        files[CHAT_TEMPLATE_FILE] = (source.folder / CHAT_TEMPLATE_FILE).read_bytes()
    elif template_of(source) is None:
        for checkpoint in checkpoints:
            if (text := template_of(checkpoint)) is not None:
                files[CHAT_TEMPLATE_FILE] = text.encode()
                yield f"chat template: taken from {checkpoint.name}"
                return


def _with_tokens_of(
    base: Mapping[str, Any], config: Mapping[str, Any], alignment: Alignment, index: int
) -> dict[str, Any]:
    """A model's configuration with the output's tokens, so that it differs from the base's in nothing but the model."""
    told = _retold(config, base)
    for key in alignment.tensors[index].keys:
        told = set_key(told, key, alignment.rows)
    return told


def _retold(config: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in config.items() if not TOKEN_KEY.search(key)}
    inner = {
        key: _retold(value, base[key])
        for key, value in own.items()
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
    }
    return {**own, **inner, **{key: value for key, value in base.items() if TOKEN_KEY.search(key)}}


def _overlaid(
    alignment: Alignment, checkpoints: Sequence[Checkpoint], index: int, overlays: Overlays
) -> dict[str, TensorEntry]:
    """Where the aligned tensors of one checkpoint lie; none where its rows are as they should be."""
    checkpoint, own = checkpoints[index], alignment.tensors[index]
    if alignment.fills[index].is_identity(index, own.rows):
        return {}
    slots = [
        Slot(
            name,
            aligned_type(alignment, checkpoints, index, name).name,
            aligned_shape(alignment, checkpoint, index, name),
        )
        for name in own.axes
    ]
    fill = partial(aligned_rows, alignment, checkpoints, index)
    entries = overlays.entries(_key(alignment, checkpoints, index, slots, overlays.contents), slots, fill)
    return {name: replace(one, written=checkpoint.tensors[name].written_kind) for name, one in entries.items()}


def _key(
    alignment: Alignment, checkpoints: Sequence[Checkpoint], index: int, slots: Sequence[Slot], contents: Contents
) -> str:
    """A digest of all that the bytes depend on: the rows of every model that takes part, and where each one goes."""
    fill = alignment.fills[index]
    others = {int(donor) for donor in fill.donors if donor >= 0}
    others |= {donor for mean in alignment.means for donor, _ in mean}
    sides = [
        contents.of(checkpoints[one], slot.name)
        for one in sorted({index, *others})
        for slot in slots
        if slot.name in checkpoints[one].tensors
    ]
    listed = [[slot.name, slot.dtype, list(slot.shape)] for slot in slots]
    parts = {"rows": ROWS, "slots": listed, "index": index, "sides": sides, "fill": _digest(fill),
             "means": canonical_json([list(map(list, mean)) for mean in alignment.means])}  # fmt: skip
    return digest_of(parts)


def _digest(fill: Fill) -> str:
    return hashlib.sha256(fill.donors.astype("<i4").tobytes() + fill.rows.astype("<i8").tobytes()).hexdigest()
