"""Pass 2: the stream over a plan. Kernels compute the next blocks while the last ones are hashed and written."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.backend import Backend
from widen.checkpoint import INDEX_FILE, SINGLE_FILE
from widen.companions import write_companions
from widen.digests import DigestCache, FileDigest, canonical_json
from widen.errors import InputsRefused
from widen.manifest import MANIFEST_FILE, Input, Manifest, MergedTensor, Recipe
from widen.methods import METHODS
from widen.plan import MergePlan, TensorPlan
from widen.progress import Advance, Progress, silent
from widen.shards import TensorFile, require_space, staged_folder, write_synced
from widen.statistics import Statistics
from widen.version import ENGINE

HEADROOM_BYTES = 64_000_000
"""Room for tokenizer, index and manifest beside the tensors."""


def combine(
    plan: MergePlan,
    statistics: Sequence[Statistics],
    backend: Backend,
    out: Path,
    recipe: Recipe,
    digests: DigestCache,
    progress: Progress = silent,
) -> Manifest:
    """Merge a measured plan into `out`, published whole or not at all.

    Raises InputsRefused when an input changed since it was measured, EnvironmentFault when the disk is too small.
    """
    require_space(out.parent, plan.out_bytes + HEADROOM_BYTES)
    inputs = describe_inputs(plan, digests)
    with staged_folder(out) as folder:
        files, notes = write_companions(plan, folder)
        with progress.stage("merge", plan.out_bytes) as advance:
            tensors, shard_files = _write_shards(plan, statistics, backend, folder, advance)
        if describe_inputs(plan, digests, unread_only=True) != inputs:
            raise InputsRefused("an input changed while it was merged; nothing was published. Run again")
        notes += [f"tied: {name} repeats another tensor and was not merged" for name in sorted(plan.tied)]
        manifest = Manifest(
            ENGINE, recipe, plan.settings.method, asdict(plan.settings), inputs, tensors, files | shard_files, notes
        )
        write_synced(folder / MANIFEST_FILE, (canonical_json(manifest.to_json()) + "\n").encode())
    return manifest


def describe_inputs(plan: MergePlan, digests: DigestCache, unread_only: bool = False) -> list[Input]:
    """Digests of every file that goes in. With `unread_only`, a file that changed since it was hashed has none."""
    inputs = []
    for checkpoint in plan.checkpoints:
        paths = {name: checkpoint.folder / name for name in checkpoint.files}
        known = {name: digests.get(path) if unread_only else digests.compute(path) for name, path in paths.items()}
        role = "base" if checkpoint is plan.base else "model"
        inputs.append(Input.of(role, checkpoint.name, {name: d for name, d in known.items() if d is not None}))
    return inputs


def _write_shards(
    plan: MergePlan, statistics: Sequence[Statistics], backend: Backend, folder: Path, advance: Advance
) -> tuple[dict[str, MergedTensor], dict[str, FileDigest]]:
    tensors: dict[str, MergedTensor] = {}
    files: dict[str, FileDigest] = {}
    shards = plan.shards
    for number, shard in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = TensorFile(folder / name, [tensor.slot for tensor in shard], {"format": "pt"})
        try:
            for tensor in shard:
                digest = file.write(_merged_blocks(plan, tensor, statistics, backend))
                shape = list(tensor.shape)
                tensors[tensor.name] = MergedTensor(tensor.out_type.name, shape, tensor.kind, name, digest)
                advance(tensor.slot.size)
            files[name] = file.close()
        finally:
            file.abandon()
    if len(shards) > 1:
        files[INDEX_FILE] = write_synced(folder / INDEX_FILE, _index(plan, tensors))
    return tensors, files


def _merged_blocks(
    plan: MergePlan, tensor: TensorPlan, statistics: Sequence[Statistics], backend: Backend
) -> Iterator[NDArray[np.unsignedinteger]]:
    if tensor.geometry.elements == 0:
        return iter(())
    weights = METHODS[plan.settings.method](
        [measured.sums(tensor.name) for measured in statistics],
        tensor.kind == "vector",
        plan.settings.t,
        plan.settings.s,
    )
    models = [model.tensor(tensor.name) for model in plan.models]
    return backend.combine(plan.base.tensor(tensor.name), models, weights, tensor.geometry, tensor.out_type)


def _index(plan: MergePlan, tensors: dict[str, MergedTensor]) -> bytes:
    weight_map = {name: tensor.file for name, tensor in sorted(tensors.items())}
    content = {"metadata": {"total_size": plan.out_bytes}, "weight_map": weight_map}
    return (json.dumps(content, indent=2) + "\n").encode()
