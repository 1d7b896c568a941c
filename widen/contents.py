"""What a tensor's bytes are: their BLAKE3 digest, whatever file they lie in, remembered for as long as the file rests.

SHA-256 names files and merged tensors, because auditors have tools for it. Every input tensor is also named on its own,
so that an update is known tensor by tensor; BLAKE3 does that in half the time and is as hard to forge.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from threading import Lock

from widen.checkpoint import Checkpoint
from widen.digests import Fingerprint, Remembered
from widen.errors import InputsRefused


class Contents:
    """Digests of input tensors, read from `folder` and kept there; None keeps them for this process only."""

    def __init__(self, folder: Path | None = None) -> None:
        self._remembered = Remembered(folder)
        self._lock = Lock()
        self._files: dict[str, tuple[Fingerprint, dict[str, str]]] = {}

    def watch(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Note now what the files look like, for `require_unchanged`."""
        for checkpoint in checkpoints:
            for name in checkpoint.tensors:
                self._file(checkpoint, name)

    def known(self, checkpoint: Checkpoint, name: str) -> str | None:
        """What `of` would return, if that is known without reading."""
        return self._file(checkpoint, name)[1].get(checkpoint.tensors[name].name)

    def of(self, checkpoint: Checkpoint, name: str) -> str:
        """Storage type and digest of one tensor, as in BF16:1f3c..., from memory or by reading its bytes."""
        digests, stored = self._file(checkpoint, name)[1], checkpoint.tensors[name].name
        if stored not in digests:
            from blake3 import blake3

            kind = checkpoint.tensors[name].kind.name
            digests[stored] = f"{kind}:{blake3(checkpoint.span(name).data).hexdigest()}"
        return digests[stored]

    def all_of(self, checkpoint: Checkpoint) -> dict[str, str]:
        """Of every tensor of a checkpoint, by name."""
        return {name: self.of(checkpoint, name) for name in checkpoint.tensors}

    def require_unchanged(self) -> None:
        """Raise InputsRefused when a file is no longer the one that was read."""
        for path, (fingerprint, _) in sorted(self._files.items()):
            if not Path(path).exists() or Fingerprint.of(Path(path)) != fingerprint:
                raise InputsRefused(f"{path} changed while it was merged; nothing was published. Run again")

    def save(self) -> None:
        """Keep what is known of files that rest, beside what others found out meanwhile."""
        for path, (fingerprint, digests) in self._files.items():
            kept = self._remembered.get(Path(path), fingerprint)
            known = (json.loads(kept) if kept else {}) | digests
            self._remembered.put(Path(path), fingerprint, json.dumps(known, sort_keys=True))

    def _file(self, checkpoint: Checkpoint, name: str) -> tuple[Fingerprint, dict[str, str]]:
        path = str(checkpoint.path_of(name))
        known = self._files.get(path)
        if known is None:
            with self._lock:
                known = self._files.setdefault(path, self._open(Path(path)))
        return known

    def _open(self, path: Path) -> tuple[Fingerprint, dict[str, str]]:
        fingerprint = Fingerprint.of(path)
        kept = self._remembered.get(path, fingerprint)
        return fingerprint, json.loads(kept) if kept else {}
