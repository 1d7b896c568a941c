"""What every merge refuses, policy or not: checkpoints that do not have the base's structure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widen.architecture import full_config
from widen.checkpoint import CONFIG_FILE, Checkpoint
from widen.errors import InputsRefused
from widen.slices import Placed
from widen.stacked_config import without_layers
from widen.tokenizer import tokenizer_identity

# Keys that neither change what a tensor means nor what the network computes from it at inference.
FREE_CONFIG_KEYS = frozenset({
    "_attn_implementation", "_name_or_path", "attention_dropout", "attn_pdrop", "bos_token_id", "dtype", "embd_pdrop",
    "eos_token_id", "hidden_dropout", "initializer_range", "pad_token_id", "pretraining_tp", "resid_pdrop",
    "torch_dtype", "transformers_version", "use_cache",
})  # fmt: skip
SHOWN = 10
ALIGN = "align them by token: `tokenizer_source: union` or `base`"


@dataclass(frozen=True)
class Problem:
    """Why a model cannot be merged: which model and tensor, what was expected and found, and what to do."""

    model: str
    tensor: str | None
    what: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.model}: {self.tensor}" if self.tensor else self.model
        return f"{place}: {self.what}: expected {self.expected}, found {self.found}; {self.remedy}"


def refuse(problems: Sequence[Problem]) -> None:
    """Raise InputsRefused with the first problems, one a line; return when there is none."""
    if problems:
        rest = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise InputsRefused("\n".join([*(str(problem) for problem in problems[:SHOWN]), *rest]))


def structure_problems(
    base: Checkpoint,
    models: Sequence[Checkpoint],
    tied: frozenset[str],
    allow_config: Sequence[str] = (),
    cache: Path | None = None,
    stacked: Sequence[Placed] = (),
    is_aligned: bool = False,
) -> list[Problem]:
    """Everything in which a model differs from the base and must not: tensors, shapes, configuration, tokenizer.

    tied: names that only repeat another tensor and are not merged. allow_config: keys that may differ. cache: where
    complete configurations are kept. stacked: where layers are stacked anew, what they are taken from; models may have
    other numbers of layers then. is_aligned: whether rows follow one vocabulary, so that tokenizers may differ.
    """
    problems: list[Problem] = []
    for model in models:
        problems += [] if stacked else _tensor_problems(base, model, tied)
        problems += _config_problems(base, model, allow_config, cache, bool(stacked))
        problems += [] if is_aligned else _tokenizer_problems(base, model)
    return [*problems, *(problem for one in stacked for problem in _stacked_problems(one))]


def _stacked_problems(placed: Placed) -> Iterator[Problem]:
    """What the sides of one tensor lack, against the first of them that has it."""
    held = [side for side in placed.sides if side.name in side.checkpoint.tensors]
    if not held:
        base, remedy = placed.sides[0], "take the last slice from a model that has it"
        yield Problem(
            base.checkpoint.name, placed.name, "missing tensor", "one, as the first model has", "none", remedy
        )
        return
    for side in placed.sides:
        if side not in held:
            expected, remedy = f"a tensor as {held[0].name} of {held[0].checkpoint.name}", "take layers of one kind"
            yield Problem(side.checkpoint.name, side.name, "missing tensor", expected, "none", remedy)
        elif side.shape != held[0].shape:
            expected, remedy = f"{list(held[0].shape)} as {held[0].checkpoint.name}", "take layers of one shape"
            yield Problem(side.checkpoint.name, side.name, "other shape", expected, str(list(side.shape)), remedy)


def _tensor_problems(base: Checkpoint, model: Checkpoint, tied: frozenset[str]) -> Iterator[Problem]:
    for name in sorted((base.tensors.keys() | model.tensors.keys()) - tied):
        ours, theirs = base.tensors.get(name), model.tensors.get(name)
        if theirs is None:
            expected, remedy = f"a tensor as in {base.name}", "use a full checkpoint"
            yield Problem(model.name, name, "missing tensor", expected, "none", remedy)
        elif ours is None:
            remedy = f"use a model trained from {base.name}"
            yield Problem(model.name, name, "extra tensor", f"none, as in {base.name}", str(list(theirs.shape)), remedy)
        elif ours.shape != theirs.shape:
            remedy = f"use a model with {base.name}'s architecture and vocabulary"
            if ours.shape[1:] == theirs.shape[1:] and base.config.get("vocab_size") == ours.shape[0]:
                remedy += f", or {ALIGN}"
            yield Problem(model.name, name, "other shape", str(list(ours.shape)), str(list(theirs.shape)), remedy)


def _config_problems(
    base: Checkpoint, model: Checkpoint, allowed: Collection[str], cache: Path | None, is_stacked: bool
) -> Iterator[Problem]:
    free = FREE_CONFIG_KEYS | set(allowed)
    if _without(base.config, free) == _without(model.config, free):
        return
    ours, theirs = full_config(base, cache), full_config(model, cache)
    if is_stacked:
        ours, theirs = without_layers(ours), without_layers(theirs)
    for key in sorted((ours.keys() | theirs.keys()) - free):
        if ours.get(key) != theirs.get(key):
            remedy = f"merge models of one architecture, or list {key} under validate.allow_config if it is harmless"
            place = f"{CONFIG_FILE} {key}"
            yield Problem(model.name, place, "other configuration", repr(ours.get(key)), repr(theirs.get(key)), remedy)


def _without(config: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def _tokenizer_problems(base: Checkpoint, model: Checkpoint) -> Iterator[Problem]:
    ours, theirs = tokenizer_identity(base), tokenizer_identity(model)
    # A checkpoint without a tokenizer makes no claim about ids, so there is nothing to contradict.
    if not ours.parts or not theirs.parts:
        return
    remedy = f"its token ids may mean other text; use a model that kept the base's tokenizer, or {ALIGN}"
    shared = ours.comparable(theirs)
    if not shared:
        found = ", ".join(theirs.parts)
        yield Problem(
            model.name, None, "tokenizers cannot be compared", f"one of {', '.join(ours.parts)}", found, remedy
        )
    for part in shared:
        if ours.parts[part] != theirs.parts[part]:
            yield Problem(model.name, part, "other tokenizer", ours.parts[part][:12], theirs.parts[part][:12], remedy)
