"""What of an earlier output, or of an interrupted run, still is what this merge would make; decided before any work."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from widen.contents import Contents
from widen.digests import FileDigest, canonical_json, digest_of
from widen.manifest import Manifest
from widen.parameters import places
from widen.plan import MergePlan, TensorPlan
from widen.settings import Arguments, Settings
from widen.shards import ITEM_SIZES, header_of
from widen.staging import FINISHED_FOLDER
from widen.version import ENGINE

FIRST_RUN = "no earlier output"
INTERRUPTED = "not finished by the interrupted run"
DAMAGED = "damaged in the earlier output"


@dataclass(frozen=True)
class Finished:
    """A whole output file of an earlier run: for each tensor what it is a function of, and its SHA-256."""

    path: Path
    digest: FileDigest
    keys: Mapping[str, str]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Copy:
    """A tensor's bytes in an earlier file."""

    path: Path
    start: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Reuse:
    """links: whole files, by name in the plan. copies: tensors in other files. reasons: why others are computed."""

    links: Mapping[str, Finished] = field(default_factory=dict)
    copies: Mapping[str, Copy] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def linked_bytes(self) -> int:
        """Bytes that are on the disk already and need no room."""
        return sum(one.digest.size for one in self.links.values())


def find(
    plan: MergePlan, contents: Contents, previous: Manifest | None, out: Path, interrupted: Sequence[Path]
) -> Reuse:
    """Compare this plan's tensors with what there is. Needs every input tensor's digest, unless there is nothing."""
    finished = [one for folder in interrupted for one in _of_staging(folder)]
    if previous is not None:
        finished += _of_manifest(out, previous)
    if not finished:
        return Reuse(reasons={tensor.name: FIRST_RUN for tensor in plan.tensors})
    keys = {tensor.name: key_of(plan, tensor, contents) for tensor in plan.tensors}
    links = {name: one for name, part in plan.files.items() if (one := _same_file(part, keys, finished))}
    linked = {tensor.name for name in links for tensor in plan.files[name]}
    rest = [tensor for tensor in plan.tensors if tensor.name not in linked]
    copies = {tensor.name: copy for tensor in rest if (copy := _same_tensor(tensor, keys, finished))}
    then = asked_of_manifest(previous) if previous is not None else {}
    reasons = {one.name: _reason(plan, one, contents, previous, then) for one in rest if one.name not in copies}
    return Reuse(links, copies, reasons)


def key_of(plan: MergePlan, tensor: TensorPlan, contents: Contents) -> str:
    """What a merged tensor's bytes are a function of, as one digest."""
    sides = [contents.of(*side) for side in tensor.sides]
    return _key(
        ENGINE["arithmetic"],
        _asked(plan.settings, tensor.arguments),
        tensor.kind,
        tensor.out_type.name,
        tensor.shape,
        sides,
    )


def record_finished(
    folder: Path, name: str, digest: FileDigest, keys: Mapping[str, str], sha256: Mapping[str, str]
) -> None:
    """Say in a staging folder that the file `name` is whole, for a later run to take it over."""
    (folder / FINISHED_FOLDER).mkdir(exist_ok=True)
    path = folder / FINISHED_FOLDER / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(canonical_json({"digest": asdict(digest), "keys": dict(keys), "sha256": dict(sha256)}))
    partial.replace(path)


def _key(arithmetic: str, settings: Mapping[str, Any], kind: str, dtype: str, shape: Sequence[int], sides: Any) -> str:
    return digest_of({
        "arithmetic": arithmetic, "settings": dict(settings), "kind": kind, "dtype": dtype, "shape": list(shape),
        "sides": sides,
    })  # fmt: skip


def keys_of_manifest(manifest: Manifest) -> dict[str, str]:
    """What the tensors of an earlier output are a function of."""
    kept = {name: one.key for name, one in manifest.tensors.items() if one.key}
    if kept:
        return kept
    asked = asked_of_manifest(manifest)
    arithmetic = manifest.engine["arithmetic"]
    return {
        name: _key(
            arithmetic, asked[name], one.kind, one.dtype, one.shape,
            [entry.tensors.get(name) for entry in manifest.inputs],
        )
        for name, one in manifest.tensors.items()
    }  # fmt: skip


def asked_of_manifest(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """What was asked of each tensor of an earlier output: the method and its arguments, by name, where it says so."""
    if any(one.key for one in manifest.tensors.values()):
        return {}
    settings = Settings(**manifest.settings)
    participants = len(manifest.inputs) - (1 if settings.origin else 0)
    return {
        name: _asked(settings, settings.arguments(participants, name, place))
        for name, place in places(list(manifest.tensors)).items()
    }


def _asked(settings: Settings, arguments: Arguments) -> dict[str, Any]:
    own = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments}
    return {"method": settings.method, **own} | ({} if settings.origin else {"origin": False})


def _of_manifest(folder: Path, manifest: Manifest) -> Iterator[Finished]:
    files: dict[str, dict[str, str]] = {}
    for name, key in keys_of_manifest(manifest).items():
        files.setdefault(manifest.tensors[name].file, {})[name] = key
    for file, keys in files.items():
        yield Finished(
            folder / file, manifest.files[file], keys, {name: manifest.tensors[name].sha256 for name in keys}
        )


def _of_staging(folder: Path) -> Iterator[Finished]:
    for path in sorted((folder / FINISHED_FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text())
            yield Finished(folder / path.stem, FileDigest(**content["digest"]), content["keys"], content["sha256"])


def _same_file(tensors: Sequence[TensorPlan], keys: Mapping[str, str], finished: Sequence[Finished]) -> Finished | None:
    """The earlier file that holds exactly these tensors, in this order."""
    wanted = {tensor.name: keys[tensor.name] for tensor in tensors}
    header = header_of([tensor.slot for tensor in tensors])
    return next((one for one in finished if one.keys == wanted and _starts_with(one.path, header)), None)


def _starts_with(path: Path, header: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(header)) == header
    except OSError:
        return False


def _same_tensor(tensor: TensorPlan, keys: Mapping[str, str], finished: Sequence[Finished]) -> Copy | None:
    name = tensor.name
    for one in finished:
        if one.keys.get(name) == keys[name] and (place := _place(one.path, name)) is not None:
            size = prod(tensor.shape) * ITEM_SIZES[tensor.out_type.name]
            return Copy(one.path, place, size, one.sha256[name])
    return None


def _place(path: Path, name: str) -> int | None:
    """Where a tensor starts in a file of ours; None for a file that was damaged."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            return 8 + length + int(header[name]["data_offsets"][0])
    except (OSError, ValueError, KeyError, TypeError, MemoryError):
        return None


def _reason(
    plan: MergePlan,
    tensor: TensorPlan,
    contents: Contents,
    previous: Manifest | None,
    then: Mapping[str, Mapping[str, Any]],
) -> str:
    if previous is None:
        return INTERRUPTED
    before = previous.tensors.get(tensor.name)
    if before is None:
        return "not in the earlier output"
    if previous.engine["arithmetic"] != ENGINE["arithmetic"]:
        return f"engine arithmetic changed from {previous.engine['arithmetic']}"
    if before.key or not plan.is_direct:
        return "merged from other tensors, or by other settings"
    now, former, known = _asked(plan.settings, tensor.arguments), then[tensor.name], plan.settings.definition.parameters
    for key in ("method", *sorted(now.keys() | former.keys())):
        if now.get(key) != former.get(key):
            return f"{key} changed from {former.get(key, known[key].default if key in known else 'none')}"
    if (before.dtype, before.kind, tuple(before.shape)) != (tensor.out_type.name, tensor.kind, tensor.shape):
        return "stored in another type or shape"
    return _changed_input(plan, tensor, contents, previous)


def _changed_input(plan: MergePlan, tensor: TensorPlan, contents: Contents, previous: Manifest) -> str:
    if len(previous.inputs) != len(plan.checkpoints):
        return f"{len(previous.inputs) - 1} models became {len(plan.models)}"
    changed = [
        checkpoint.name
        for checkpoint, before in zip(plan.checkpoints, previous.inputs, strict=True)
        if before.tensors.get(tensor.name) != contents.of(checkpoint, tensor.name)
    ]
    return f"changed in {', '.join(changed)}" if changed else DAMAGED
