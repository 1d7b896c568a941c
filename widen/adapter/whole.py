"""A model with an adapter on it as a checkpoint of its own, for those who read whole checkpoints."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from widen.adapter.compose import ARITHMETIC, composed
from widen.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from widen.digests import digest_of
from widen.errors import RecipeError
from widen.overlay import open_overlays
from widen.settings import Settings
from widen.shards import ShardFile, Slot, index_of
from widen.staging import require_space, staged_folder, write_synced

LARGEST_FILE = 5_000_000_000


def write_whole(inputs: Sequence[Checkpoint], settings: Settings, name: str, out: Path, cache: Path | None) -> None:
    """Write the participant `name` of a merge of `inputs` as the checkpoint folder `out`, in place of what is there.

    It is the model as it is, with its own tokenizer: what the settings ask of the merge's vocabulary is not done to it.
    cache: a merge's, where the adapted tensors may be at hand. Raises what `widen.merge` does for inputs that do not
    fit, RecipeError for a name that is no participant's.
    """
    kept = {part: cache / part if cache else None for part in ("overlays", "architectures")}
    with open_overlays(kept["overlays"]) as overlays:
        models = composed(inputs, settings.composed, overlays, kept["architectures"])
        view = next((one for one in models if one.name == name), None)
        if view is None:
            known = ", ".join(one.name for one in models)
            raise RecipeError(f"{name} is no participant of the merge; expected one of {known}")
        with staged_folder(out) as staging:
            require_space(out.parent, sum(entry.size for entry in view.tensors.values()))
            files = _files(view)
            for file, slots in files.items():
                _write(view, staging.folder / file, slots)
            if len(files) > 1:
                write_synced(staging.folder / INDEX_FILE, index_of(files))
            for companion in view.companions:
                shutil.copyfile(view.folder / companion, staging.folder / companion)


def whole_digest(digests: Sequence[str]) -> str:
    """What names the checkpoint that a model and the adapters on it make, given the digest of each, in order."""
    return digest_of({"arithmetic": ARITHMETIC, "of": list(digests)})


def _files(view: Checkpoint) -> dict[str, list[Slot]]:
    """Its tensors in files of at most LARGEST_FILE bytes; wider types first in each, so that all are aligned."""
    parts: list[list[Slot]] = [[]]
    for name, entry in view.tensors.items():
        if parts[-1] and sum(slot.size for slot in parts[-1]) + entry.size > LARGEST_FILE:
            parts.append([])
        parts[-1].append(Slot(name, entry.kind.name, entry.shape))
    ordered = [sorted(part, key=lambda slot: slot.dtype != "F32") for part in parts]
    if len(ordered) == 1:
        return {SINGLE_FILE: ordered[0]}
    return {f"model-{k:05d}-of-{len(ordered):05d}.safetensors": part for k, part in enumerate(ordered, start=1)}


def _write(view: Checkpoint, target: Path, slots: Sequence[Slot]) -> None:
    file = ShardFile(target, slots)
    try:
        for slot in slots:
            entry = view.tensors[slot.name]
            path = view.path_of(slot.name)
            if isinstance(path, Path):
                file.copy(slot.name, path, entry.start, entry.size)
            else:
                file.write(slot.name, 0, view.span(slot.name))
        file.sync()
    finally:
        file.close()
