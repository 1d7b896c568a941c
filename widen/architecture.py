"""What each tensor is, as the model's own module types say: from a table, or asked once and then remembered."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from widen.checkpoint import Checkpoint
from widen.digests import canonical_json, digest_of
from widen.known_architectures import known_architecture, spellings
from widen.staging import write_atomically

Kind = Literal["matrix", "embedding", "conv1d", "vector"]
"""matrix: columns are inputs (second axis). embedding, conv1d: columns are rows (tokens, inputs). vector: one row."""


@dataclass(frozen=True)
class Architecture:
    """Parameter kinds by their name in the model, and the names that only repeat another parameter."""

    kinds: Mapping[str, Kind]
    tied: frozenset[str]
    prefix: str

    @classmethod
    def of(cls, checkpoint: Checkpoint, cache: Path | None = None) -> "Architecture":
        """Of a checkpoint: from the table of well-known architectures, else as transformers says, once for `cache`.

        Raises InputsRefused when transformers does not ship the architecture, or cannot build it.
        """
        found = known_architecture(checkpoint) or asked_once(checkpoint, cache, "kinds", _instantiated)
        return cls(found["kinds"], frozenset(found["tied"]), found["prefix"])

    def kind_of(self, name: str, shape: tuple[int, ...]) -> Kind:
        """The kind of a checkpoint's tensor.

        A checkpoint of the bare model lacks the head model's prefix. A name the model does not have (a buffer that
        older versions stored, an expert that is fused on loading) is judged by its shape.
        """
        if len(shape) < 2:
            return "vector"
        for candidate in spellings(name, self.prefix):
            if candidate in self.kinds:
                return self.kinds[candidate]
        return "matrix"

    def is_tied(self, name: str) -> bool:
        """Whether the model takes this tensor from another one, so that storing it says nothing."""
        return any(candidate in self.tied for candidate in spellings(name, self.prefix))


def full_config(checkpoint: Checkpoint, cache: Path | None = None) -> dict[str, Any]:
    """The configuration with the architecture's defaults filled in. Raises InputsRefused for an unknown one."""
    return asked_once(checkpoint, cache, "config", _completed)


def _instantiated(checkpoint: Checkpoint) -> dict[str, Any]:
    from widen.instantiate import instantiate

    kinds, tied, prefix = instantiate(checkpoint)
    return {"kinds": kinds, "tied": tied, "prefix": prefix}


def _completed(checkpoint: Checkpoint) -> dict[str, Any]:
    from widen.instantiate import complete_config

    content: dict[str, Any] = json.loads(json.dumps(complete_config(checkpoint), default=str))
    return content


def asked_once(
    checkpoint: Checkpoint, cache: Path | None, what: str, make: Callable[[Checkpoint], dict[str, Any]]
) -> dict[str, Any]:
    """What `make` says of a configuration, kept under its digest and the version of transformers that said it."""
    if cache is None:
        return make(checkpoint)
    key = digest_of({"config": dict(checkpoint.config), "transformers": version("transformers")})
    path = cache / f"{key}.{what}.json"
    with suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_bytes())
        return content
    content = make(checkpoint)
    write_atomically(path, canonical_json(content).encode())
    return content
