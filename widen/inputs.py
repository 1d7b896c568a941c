"""What went into a merge, as the manifest records it."""

import os
from concurrent.futures import ThreadPoolExecutor

from widen.checkpoint import Checkpoint
from widen.contents import Contents
from widen.digests import DigestCache, FileDigest, digest_of, hash_file
from widen.manifest import Input
from widen.plan import MergePlan


def describe_inputs(plan: MergePlan, contents: Contents, files: DigestCache | None) -> list[Input]:
    """Every checkpoint's tensors and files with their digests; weight files only where there is `files` to ask."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="widen-hash") as pool:
        if files is not None:
            paths = [checkpoint.folder / shard for checkpoint in plan.checkpoints for shard in checkpoint.shards]
            list(pool.map(files.compute, paths))
    return [_describe(plan, checkpoint, contents, files) for checkpoint in plan.checkpoints]


def _describe(plan: MergePlan, checkpoint: Checkpoint, contents: Contents, files: DigestCache | None) -> Input:
    tensors = contents.all_of(checkpoint)
    shapes = {name: list(entry.shape) for name, entry in checkpoint.tensors.items()}
    companions = {name: hash_file(checkpoint.folder / name) for name in checkpoint.companions}
    parts = {name: digest.sha256 for name, digest in companions.items()}
    digest = digest_of({"tensors": tensors, "shapes": shapes, "companions": parts})
    weights: dict[str, FileDigest] = {}
    if files is not None:
        weights = {name: files.compute(checkpoint.folder / name) for name in checkpoint.files}
    role = "base" if checkpoint is plan.base else "model"
    return Input(role, checkpoint.name, digest, dict(sorted((companions | weights).items())), tensors)
