"""What went into a merge, as the manifest records it."""

import os
from concurrent.futures import ThreadPoolExecutor

from widen.ancestry import MergeRecord, merge_of, speaks_of
from widen.checkpoint import Checkpoint
from widen.contents import Contents
from widen.digests import DigestCache, FileDigest, digest_of, fingerprint_of, hash_file
from widen.manifest import MANIFEST_FILE, Input, Manifest
from widen.plan import MergePlan
from widen.progress import Progress, silent


def describe_inputs(
    plan: MergePlan, contents: Contents, files: DigestCache | None, progress: Progress = silent
) -> list[Input]:
    """Every checkpoint's tensors and files with their digests; weight files only where there is `files` to ask."""
    if files is not None:
        _hash_weight_files(plan, files, progress)
    merges = [_merge_of(checkpoint, files or DigestCache(), progress) for checkpoint in plan.inputs]
    return [_describe(plan, one, contents, files, made) for one, made in zip(plan.inputs, merges, strict=True)]


def _hash_weight_files(plan: MergePlan, files: DigestCache, progress: Progress) -> None:
    weights = [checkpoint.file(shard) for checkpoint in plan.inputs for shard in checkpoint.shards]
    unknown = [file for file in weights if files.get(file) is None]
    if not unknown:
        return
    with (
        progress.stage("hash input files", sum(fingerprint_of(file).size for file in unknown)) as advance,
        ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="widen-hash") as pool,
    ):
        for digest in pool.map(files.compute, unknown):
            advance(digest.size)


def _merge_of(checkpoint: Checkpoint, files: DigestCache, progress: Progress) -> MergeRecord | None:
    """What the checkpoint's own manifest says of it, if it is a merge and the manifest speaks of these very weights."""
    try:
        manifest = Manifest.load(checkpoint.folder)
    except (OSError, ValueError):
        return None
    if speaks_of(manifest, checkpoint, {name: files.compute(checkpoint.file(name)) for name in checkpoint.shards}):
        return merge_of(manifest)
    progress.note(f"{checkpoint.name}: its {MANIFEST_FILE} is about other weights; where it came from is not recorded")
    return None


def _describe(
    plan: MergePlan,
    checkpoint: Checkpoint,
    contents: Contents,
    files: DigestCache | None,
    merge: MergeRecord | None,
) -> Input:
    tensors = contents.all_of(checkpoint)
    shapes = {name: list(entry.shape) for name, entry in checkpoint.tensors.items()}
    companions = {name: hash_file(checkpoint.folder / name) for name in checkpoint.companions}
    parts = {name: digest.sha256 for name, digest in companions.items()}
    digest = digest_of({"tensors": tensors, "shapes": shapes, "companions": parts})
    weights: dict[str, FileDigest] = {}
    if files is not None:
        weights = {name: files.compute(checkpoint.file(name)) for name in checkpoint.files}
    role = "adapter" if checkpoint.is_adapter else "base" if checkpoint is plan.inputs[0] else "model"
    return Input(role, checkpoint.name, digest, dict(sorted((companions | weights).items())), tensors, merge)
