"""What the tests of outputs in a storage share: recipes, what is published, what a checkpoint holds."""

import hashlib
import json
from typing import Any

import widen
from tests.remote.conftest import BUCKET
from widen.checkpoint import Checkpoint
from widen.manifest import Manifest, Recipe
from widen.progress import Silent

ONE, OTHER = Recipe("one", "1" * 64), Recipe("other", "2" * 64)
OUT = f"s3://{BUCKET}/out"
SMALL = widen.Settings(shard_bytes=12_000)


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def current(bucket: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bucket.Object("out/widen-current.json").get()["Body"].read())
    return found


def contents(checkpoint: Checkpoint) -> dict[str, str]:
    return {name: hashlib.sha256(checkpoint.span(name).tobytes()).hexdigest() for name in checkpoint.tensors}


def tensors_of(manifest: Manifest) -> dict[str, str]:
    return {name: one.sha256 for name, one in manifest.tensors.items()}
