"""The one door to pickle: PyTorch's weights-only loader, in a process of its own (`widen.convert.isolated`).

A request is a line of JSON on standard input, its answer one on standard output. `list` says which tensors a file
holds; until then the process may write no file of more than its last words. `write` writes some as a safetensors file.
What a file must not be is answered with `refused`. Nothing that a file names is imported or called: the loader knows
tensors, numbers, text and containers, and fails on anything else.
"""

import json
import os
import re
import resource
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from widen.shards import ShardFile, Slot

ROOM = 2 << 30
"""Memory beside twice the largest file, in bytes."""
LOG = 1 << 16
"""What a process that lists may write, in bytes: its last words."""
LONGEST_NAME, MOST_TENSORS = 500, 1_000_000
BLOCK = 16 << 20
WRAPPERS = ("state_dict",)
"""Keys under which training frameworks put the weights of a checkpoint."""


class Refused(Exception):
    """A file that is not what weights look like; says what was found."""


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LOG, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    import torch

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        if request["do"] == "list":
            _limit_memory(request["file"])
            return {"tensors": list(_listed(_load(request["file"])))}
        return {"size": _write(request)}
    except Refused as refusal:
        return {"refused": str(refusal)}
    except OSError as error:
        return {"fault": str(error)}


def _limit_memory(file: str) -> None:
    """A file that claims more than it holds meets this limit, and not the machine's."""
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = held + 2 * Path(file).stat().st_size + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _load(file: str) -> dict[str, Any]:
    import torch

    mapped = _is_sound_zip(Path(file))
    try:
        content = torch.load(file, weights_only=True, mmap=mapped, map_location="cpu")
    except Exception as error:  # noqa: BLE001 - a hostile file makes the loader raise whatever it likes
        raise Refused(_told(error)) from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise Refused(f"holds a {type(content).__name__}; expected a mapping of names to tensors")
    if len(content) > MOST_TENSORS:
        raise Refused(f"holds {len(content)} entries; expected at most {MOST_TENSORS}")
    return content


def _is_sound_zip(path: Path) -> bool:
    """Whether PyTorch's zip layout, which can be mapped; False for the stream of before version 1.6.

    Such a zip stores its members as they are: one that is compressed, or larger than the file, would only be a bomb.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar":
        raise Refused("is in the tar layout of PyTorch before 0.2; load and save it once with PyTorch 1.0 to 1.13")
    if not head.startswith(b"PK"):
        return False
    try:
        members = zipfile.ZipFile(path).infolist()
    except Exception as error:  # noqa: BLE001 - as above
        raise Refused(f"is truncated or damaged: {error}") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Refused("has compressed members; PyTorch stores weights as they are, so it was not unpacked")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise Refused("claims to hold more bytes than the file has")
    return True


def _told(error: Exception) -> str:
    """What the loader says, in one line and without its advice to turn the protection off."""
    text = " ".join(str(error).split())
    if asked := re.search(r"GLOBAL (\S+)", text):
        return f"asks to run {asked[1]} when it is loaded, which weights do not need; nothing was executed"
    text = re.sub(r"^Weights only load failed.*?WeightsUnpickler error: ", "", text).split(" Please ")[0]
    return f"is truncated or no weights file ({type(error).__name__}: {text[:200]})"


def _listed(content: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """Name, type and shape of each tensor, and the first one that is the same view of the same memory."""
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in content.items():
        kind = _kind(name, tensor)
        shape = tuple(tensor.shape)
        same = None
        if tensor.numel():
            place = (tensor.data_ptr(), kind, shape, tensor.stride())
            same = seen.setdefault(place, name)
        yield {"name": name, "dtype": kind, "shape": shape, "same": same if same != name else None}


def _kind(name: Any, tensor: Any) -> str:
    """The safetensors name of its type, once it is known to be a plain tensor under a plain name."""
    import torch

    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise Refused(f"names a tensor {str(name)[:60]!r}; expected printable text")
    if "/" in name or "\\" in name or ".." in name:
        raise Refused(f"names a tensor {name!r}; expected a name without '/', '\\' and '..'")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise Refused(f"holds a {type(tensor).__name__} as {name}; expected tensors only")
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
        raise Refused(f"holds {name} as a {tensor.layout} tensor on {tensor.device}; expected a plain dense one")
    kinds = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    if tensor.dtype not in kinds:
        raise Refused(f"stores tensor {name} as {tensor.dtype}; expected bfloat16, float16 or float32")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise Refused(f"repeats memory in tensor {name} ({list(tensor.shape)}); expected every element to be stored")
    return kinds[tensor.dtype]


def _write(request: Mapping[str, Any]) -> int:
    """Write the asked tensors of one file as safetensors, contiguous, in pieces; returns the bytes written."""
    _limit_memory(request["file"])
    content = _load(request["file"])
    held = {one["name"]: Slot(one["name"], one["dtype"], one["shape"]) for one in _listed(content)}
    slots = [held[name] for name in request["names"]]
    resource.setrlimit(resource.RLIMIT_FSIZE, (request["size"], resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    shard = ShardFile(Path(request["out"]), slots)
    try:
        for slot in slots:
            place = 0
            for piece in _pieces(content[slot.name]):
                shard.write(slot.name, place, piece)
                place += piece.nbytes
        shard.sync()
    finally:
        shard.close()
    return shard.size


def _pieces(tensor: Any) -> Iterator[Any]:
    """Its bytes in order, without a copy of more than a block where it lies otherwise in memory."""
    import torch

    tensor = tensor.detach()
    if tensor.is_contiguous():
        yield tensor.reshape(-1).view(torch.uint8).numpy()
        return
    rows = max(1, BLOCK // max(1, tensor[0].numel() * tensor.itemsize))
    for start in range(0, tensor.shape[0], rows):
        yield tensor[start : start + rows].contiguous().reshape(-1).view(torch.uint8).numpy()
