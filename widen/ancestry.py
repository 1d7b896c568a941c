"""An input that is a merge itself: what its own manifest says of it, back to inputs that are no merges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from widen.digests import FileDigest

if TYPE_CHECKING:
    from widen.checkpoint import Checkpoint
    from widen.manifest import Manifest


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint that went into an input's merge. `digest` is that checkpoint's own; `merge` if it was merged too."""

    role: str
    name: str
    digest: str
    merge: "MergeRecord | None" = None


@dataclass(frozen=True)
class MergeRecord:
    """The merge that an input came out of. `digest` is the root digest of its files, as its own manifest has it."""

    digest: str
    recipe: str
    method: str
    inputs: tuple[Ancestor, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `from_json` reads back."""
        inputs = [
            {"role": one.role, "name": one.name, "digest": one.digest}
            | ({} if one.merge is None else {"merge": one.merge.to_json()})
            for one in self.inputs
        ]
        return {"digest": self.digest, "recipe": self.recipe, "method": self.method, "inputs": inputs}

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> "MergeRecord | None":
        """None for None. Raises KeyError or TypeError for what is no record."""
        if content is None:
            return None
        inputs = tuple(
            Ancestor(one["role"], one["name"], one["digest"], cls.from_json(one.get("merge")))
            for one in content["inputs"]
        )
        return cls(content["digest"], content["recipe"], content["method"], inputs)


def merge_of(manifest: "Manifest") -> MergeRecord:
    """What a merged folder's manifest says, as the record of an input."""
    inputs = tuple(Ancestor(one.role, one.name, one.digest, one.merge) for one in manifest.inputs)
    return MergeRecord(manifest.digest, manifest.recipe.name, manifest.method, inputs)


def speaks_of(manifest: "Manifest", checkpoint: "Checkpoint", weights: Mapping[str, FileDigest]) -> bool:
    """Whether a manifest that lies in a checkpoint's folder is about the weights that lie there.

    weights: every weight file of the checkpoint with its digest.
    """
    listed = {name: digest for name, digest in manifest.files.items() if name.endswith(".safetensors")}
    return listed == dict(weights) and all(checkpoint.holds(name) for name in manifest.files)
