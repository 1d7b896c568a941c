"""The record in the merged folder: what went in, what came out, digests of both. It has no clock and no machine in it,
so that the same inputs and settings give the same manifest.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from widen.digests import FileDigest, digest_of, hash_file, root_digest

MANIFEST_FILE = "widen-manifest.json"
SCHEMA = "widen-manifest/1"


@dataclass(frozen=True)
class Input:
    """One checkpoint that went in: its role (base or model), name, root digest, and every file that was read."""

    role: str
    name: str
    digest: str
    files: Mapping[str, FileDigest]

    @classmethod
    def of(cls, role: str, name: str, files: Mapping[str, FileDigest]) -> "Input":
        """The root digest follows from the files."""
        return cls(role, name, root_digest(files), files)


@dataclass(frozen=True)
class MergedTensor:
    """One tensor that came out. `sha256` is of its bytes alone, wherever they lie."""

    dtype: str
    shape: Sequence[int]
    kind: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """Which recipe made a folder: `digest` identifies its merge, inputs by name and place, not by revision."""

    name: str
    digest: str


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

    @property
    def digest(self) -> str:
        """The root digest of the merged folder, without this manifest."""
        return root_digest(self.files)

    @property
    def key(self) -> str:
        """What the merged tensors are a function of."""
        return merge_key(self.engine, self.settings, {entry.name: entry.digest for entry in self.inputs})

    def to_json(self) -> dict[str, Any]:
        """The content of widen-manifest.json."""
        return {"schema": SCHEMA, **asdict(self), "digest": self.digest, "key": self.key}

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a merged folder's manifest. Raises OSError, or ValueError when it is not one."""
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ValueError(f"{folder / MANIFEST_FILE} is not a {SCHEMA}")
        try:
            return cls._from_json(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder / MANIFEST_FILE} is damaged: {error!r}") from error

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> "Manifest":
        inputs = [Input(i["role"], i["name"], i["digest"], _files(i["files"])) for i in content["inputs"]]
        tensors = {name: MergedTensor(**fields) for name, fields in content["tensors"].items()}
        recipe = Recipe(**content["recipe"])
        return cls(content["engine"], recipe, content["method"], content["settings"], inputs, tensors,
                   _files(content["files"]), content["notes"])  # fmt: skip

    def damage(self, folder: Path) -> list[str]:
        """What in `folder` is not as recorded: one line a missing or changed file; reads every byte."""
        lines = []
        for name, expected in sorted(self.files.items()):
            path = folder / name
            found = hash_file(path) if path.is_file() else None
            if found != expected:
                lines.append(
                    f"{name}: expected SHA-256 {expected.sha256}, found {found.sha256 if found else 'no file'}"
                )
        return lines


def merge_key(engine: Mapping[str, str], settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """One digest of engine, settings and the inputs' root digests, in order of the merge."""
    return digest_of({"engine": dict(engine), "settings": dict(settings), "inputs": list(inputs.items())})


def _files(content: Mapping[str, Any]) -> dict[str, FileDigest]:
    return {name: FileDigest(**fields) for name, fields in content.items()}
