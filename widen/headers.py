"""The header of a safetensors file, and the proof that the file is sound."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from widen.dtypes import BY_SAFETENSORS_NAME, StorageType
from widen.errors import InputsRefused

if TYPE_CHECKING:
    from widen.remote.file import RemoteFile

LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: its file, the byte range inside it, its storage type and shape.

    written: the type in which it stands for what a checkpoint holds, where it was computed in a wider one. remote: the
    object in a storage that holds it; `file` has its header only then.
    """

    name: str
    file: str
    start: int
    stop: int
    kind: StorageType
    shape: tuple[int, ...]
    written: StorageType | None = None
    remote: "RemoteFile | None" = None

    @property
    def written_kind(self) -> StorageType:
        """The type that a merge from this tensor is written in, unless another is asked for."""
        return self.written or self.kind

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.stop - self.start


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


def entry_of(
    name: str, shard: str, tensor: str, fields: Any, data_start: int, remote: "RemoteFile | None" = None
) -> TensorEntry:
    """A header's entry of one tensor, of model `name`. Raises InputsRefused for one that says what cannot be."""
    try:
        dtype, shape, (start, stop) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputsRefused(f"{name}: {shard}: tensor {tensor} has a damaged header entry ({error!r})") from error
    if not isinstance(dtype, str) or dtype not in BY_SAFETENSORS_NAME:
        raise InputsRefused(
            f"{name}: tensor {tensor} in {shard} is stored as {dtype}; expected one of "
            f"{', '.join(BY_SAFETENSORS_NAME)}. Merge the unquantised checkpoint"
        )
    kind = BY_SAFETENSORS_NAME[dtype]
    numbers = (*shape, start, stop)
    if (
        not all(type(number) is int and number >= 0 for number in numbers)
        or stop - start != prod(shape) * kind.itemsize
    ):
        raise InputsRefused(
            f"{name}: {shard}: tensor {tensor}, shape {list(shape)}, type {dtype}, cannot fill bytes {start} to {stop}"
        )
    return TensorEntry(tensor, shard, data_start + start, data_start + stop, kind, shape, None, remote)
