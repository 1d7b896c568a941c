"""The record in the merged folder: what went in, what came out, digests of both. It has no clock and no machine in it,
so that the same inputs and settings give the same manifest.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from widen.ancestry import MergeRecord
from widen.digests import FileDigest, digest_of, hash_file, root_digest

MANIFEST_FILE = "widen-manifest.json"
SCHEMA = "widen-manifest/2"
READABLE = ("widen-manifest/1", SCHEMA)


@dataclass(frozen=True)
class Input:
    """One checkpoint that went in: its role (base or model), name, one digest, tensors and files.

    tensors: storage type and BLAKE3 of each one's bytes, as in BF16:1f3c... files: SHA-256 of configuration, tokenizer
    and index, and of the weight files where that was asked for. `digest` is of tensors, shapes and companions: the same
    model in other weight files has the same. `merge` is there for a model that is a merge itself.
    """

    role: str
    name: str
    digest: str
    files: Mapping[str, FileDigest]
    tensors: Mapping[str, str]
    merge: MergeRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON value; without `merge` where there is none."""
        content = asdict(replace(self, merge=None))
        del content["merge"]
        return content if self.merge is None else content | {"merge": self.merge.to_json()}


@dataclass(frozen=True)
class MergedTensor:
    """One tensor that came out. `sha256` is of its bytes alone, wherever they lie.

    key: what its bytes are a function of, as one digest, where inputs' tensors of its own name do not say it.
    """

    dtype: str
    shape: Sequence[int]
    kind: str
    file: str
    sha256: str
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON value; without a `key` where there is none."""
        return {name: value for name, value in asdict(self).items() if name != "key" or value}


@dataclass(frozen=True)
class Recipe:
    """Which recipe made a folder: `digest` identifies its merge, inputs by name and place, not by revision."""

    name: str
    digest: str


@dataclass(frozen=True)
class ReuseRecord:
    """How the bytes came about, not what they are: tensors taken from an earlier run, and why each other one was not.

    computed: a reason, and the tensors it holds for.
    """

    reused: int = 0
    computed: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Everything an audit of a merged folder starts from. `digest` is the root digest of `files`."""

    engine: Mapping[str, str]
    recipe: Recipe
    method: str
    settings: Mapping[str, Any]
    inputs: Sequence[Input]
    tensors: Mapping[str, MergedTensor]
    files: Mapping[str, FileDigest]
    notes: Sequence[str]
    reuse: ReuseRecord = field(default_factory=ReuseRecord)

    @property
    def digest(self) -> str:
        """The root digest of the merged folder, without this manifest."""
        return root_digest(self.files)

    @property
    def key(self) -> str:
        """What the merged tensors are a function of."""
        return merge_key(self.engine, self.settings, self.inputs)

    def to_json(self) -> dict[str, Any]:
        """The content of widen-manifest.json."""
        inputs = [entry.to_json() for entry in self.inputs]
        tensors = {name: one.to_json() for name, one in self.tensors.items()}
        parts = {"inputs": inputs, "tensors": tensors, "digest": self.digest, "key": self.key}
        return {"schema": SCHEMA, **asdict(self), **parts}

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a merged folder's manifest. Raises OSError, or ValueError when it is not one."""
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
        if not isinstance(content, dict) or content.get("schema") not in READABLE:
            raise ValueError(f"{folder / MANIFEST_FILE} is not a {SCHEMA}")
        try:
            return cls._from_json(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / MANIFEST_FILE} is damaged: {error!r}") from error

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> "Manifest":
        inputs = [_input(entry) for entry in content["inputs"]]
        tensors = {name: MergedTensor(**fields) for name, fields in content["tensors"].items()}
        recipe = Recipe(**content["recipe"])
        return cls(content["engine"], recipe, content["method"], content["settings"], inputs, tensors,
                   _files(content["files"]), content["notes"], ReuseRecord(**content.get("reuse", {})))  # fmt: skip

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(digest.size for digest in self.files.values())

    def damage(self, folder: Path, advance: Callable[[int], None] = lambda _: None) -> list[str]:
        """What in `folder` is not as recorded: one line a missing or changed file; reads every byte.

        advance: is told the bytes of every file that was read.
        """
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="widen-verify") as pool:
            looked_at = {name: pool.submit(_digest_of, folder / name) for name in sorted(self.files)}
            lines = []
            for name, future in looked_at.items():
                expected, found = self.files[name], future.result()
                advance(expected.size)
                if found != expected:
                    said = found.sha256 if found else "no file"
                    lines.append(f"{name}: expected SHA-256 {expected.sha256}, found {said}")
        return lines


def _digest_of(path: Path) -> FileDigest | None:
    return hash_file(path) if path.is_file() else None


def merge_key(engine: Mapping[str, str], settings: Mapping[str, Any], inputs: Sequence[Input]) -> str:
    """One digest of engine, settings and the inputs' digests, in order of the merge."""
    sides = [[entry.name, entry.digest] for entry in inputs]
    return digest_of({"engine": dict(engine), "settings": dict(settings), "inputs": sides})


def _input(content: Mapping[str, Any]) -> Input:
    tensors, merge = dict(content.get("tensors", {})), MergeRecord.from_json(content.get("merge"))
    return Input(content["role"], content["name"], content["digest"], _files(content["files"]), tensors, merge)


def _files(content: Mapping[str, Any]) -> dict[str, FileDigest]:
    return {name: FileDigest(**fields) for name, fields in content.items()}
