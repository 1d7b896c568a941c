"""The header of a safetensors file, and the proof that the file is sound."""

import json
from pathlib import Path
from typing import Any

from widen.errors import InputsRefused

LONGEST_HEADER = 100_000_000


def header_json(name: str, path: Path) -> tuple[dict[str, Any], int]:
    """A file's header, and where its data starts. Raises InputsRefused naming model and file."""
    damaged = f"{name}: {path} is truncated or not safetensors"
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LONGEST_HEADER:
                raise InputsRefused(f"{damaged}: its header would be {length} bytes long; fetch the file again")
            header = json.loads(file.read(length), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise InputsRefused(f"{damaged}: {error}; fetch the file again") from error
    except OSError as error:
        raise InputsRefused(f"{name}: cannot read {path}: {error.strerror}") from error
    if not isinstance(header, dict):
        raise InputsRefused(f"{damaged}: its header is not a JSON object; fetch the file again")
    return header, 8 + length


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return content


def prove_structure(name: str, path: Path) -> None:
    """Let the safetensors library prove what it proves: no overlap, no gap, no byte missing at the end."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise InputsRefused(f"{name}: {path} is truncated or corrupt ({error}); fetch the file again") from error
