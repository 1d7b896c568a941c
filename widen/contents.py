"""What a tensor's bytes are: their BLAKE3 digest, whatever file they lie in, remembered for as long as the file rests.

SHA-256 names files and merged tensors, because auditors have tools for it. Every input tensor is also named on its own,
so that an update is known tensor by tensor; BLAKE3 does that in half the time and is as hard to forge.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from widen.checkpoint import Checkpoint
from widen.digests import File, Fingerprint, Remembered, fingerprint_of
from widen.errors import InputsRefused

ASKERS = 8
"""Files asked after at once: a storage takes a while for each."""


class Contents:
    """Digests of input tensors, read from `folder` and kept there; None keeps them for this process only."""

    def __init__(self, folder: Path | None = None) -> None:
        self._remembered = Remembered(folder)
        self._lock = Lock()
        self._files: dict[str, tuple[File, Fingerprint, dict[str, str]]] = {}

    def watch(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Note now what the files look like, for `require_unchanged`."""
        for checkpoint in checkpoints:
            for name in checkpoint.tensors:
                self._file(checkpoint, name)

    def known(self, checkpoint: Checkpoint, name: str) -> str | None:
        """What `of` would return, if that is known without reading."""
        return self._file(checkpoint, name).get(checkpoint.tensors[name].name)

    def of(self, checkpoint: Checkpoint, name: str) -> str:
        """Storage type and digest of one tensor, as in BF16:1f3c..., from memory or by reading its bytes."""
        digests, stored = self._file(checkpoint, name), checkpoint.tensors[name].name
        if stored not in digests:
            from blake3 import blake3

            kind = checkpoint.tensors[name].kind.name
            digests[stored] = f"{kind}:{blake3(checkpoint.span(name).data).hexdigest()}"
        return digests[stored]

    def learn(self, checkpoint: Checkpoint, name: str, digest: str) -> None:
        """Take what `of` would return from another process that read the tensor.

        Raises InputsRefused where this one knows otherwise: the two do not read the same bytes.
        """
        digests, stored = self._file(checkpoint, name), checkpoint.tensors[name].name
        if digests.setdefault(stored, digest) != digest:
            raise InputsRefused(
                f"{checkpoint.name}: tensor {stored} of {checkpoint.path_of(name)} has other bytes on another node "
                f"({digests[stored]} here, {digest} there); let every node read the same files"
            )

    def all_of(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Of every tensor of a checkpoint, by name."""
        return {name: self.of(checkpoint, name) for name in checkpoint.tensors}

    def require_unchanged(self) -> None:
        """Raise InputsRefused when a file is no longer the one that was read."""
        found = sorted(self._files.items())
        with ThreadPoolExecutor(ASKERS, thread_name_prefix="widen-ask") as pool:
            unchanged = pool.map(lambda one: _is_unchanged(*one[1][:2]), found)
            for (place, _), same in zip(found, unchanged, strict=True):
                if not same:
                    raise InputsRefused(f"{place} changed while it was merged; nothing was published. Run again")

    def save(self) -> None:
        """Keep what is known of files that rest, beside what others found out meanwhile."""
        for file, fingerprint, digests in self._files.values():
            kept = self._remembered.get(file, fingerprint)
            known = (json.loads(kept) if kept else {}) | digests
            self._remembered.put(file, fingerprint, json.dumps(known, sort_keys=True))

    def _file(self, checkpoint: Checkpoint, name: str) -> dict[str, str]:
        """What is known of the file that a tensor lies in."""
        file = checkpoint.path_of(name)
        place = str(file)
        known = self._files.get(place)
        if known is None:
            with self._lock:
                known = self._files.setdefault(place, self._open(file))
        return known[2]

    def _open(self, file: File) -> tuple[File, Fingerprint, dict[str, str]]:
        fingerprint = fingerprint_of(file)
        kept = self._remembered.get(file, fingerprint)
        return file, fingerprint, json.loads(kept) if kept else {}


def _is_unchanged(file: File, fingerprint: Fingerprint) -> bool:
    if isinstance(file, Path):
        return file.exists() and Fingerprint.of(file) == fingerprint
    return file.is_unchanged()
