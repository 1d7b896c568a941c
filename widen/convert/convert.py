"""Pickle weights become a safetensors checkpoint: the same tensors in the same types, published in one rename."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from widen.adapter import Adapter
from widen.architecture import Architecture
from widen.checkpoint import (
    ADAPTER_CONFIG_FILE,
    CHAT_TEMPLATE_FILE,
    CONFIG_FILE,
    GENERATION_FILE,
    TOKENIZER_FILES,
    Checkpoint,
    read_config,
)
from widen.convert.isolated import Reader, reader
from widen.convert.pickles import Pickles, find_pickles
from widen.digests import FileDigest, Fingerprint, hash_file
from widen.dtypes import BY_SAFETENSORS_NAME
from widen.errors import EnvironmentFault, InputsRefused, OutputExists
from widen.headers import TensorEntry
from widen.progress import Progress, silent
from widen.shards import Slot, header_of, index_of
from widen.staging import require_space, staged_folder, write_synced

RECORD_FILE = "widen-convert.json"
KEPT = (
    CONFIG_FILE, GENERATION_FILE, CHAT_TEMPLATE_FILE, ADAPTER_CONFIG_FILE, *TOKENIZER_FILES, "README.md", "LICENSE",
    "LICENSE.txt", "LICENSE.md",
)  # fmt: skip
SAFE_TORCH = (2, 10)
"""From here on the weights-only loader has no known hole (CVE-2025-32434, CVE-2026-24747)."""
GROWTH = 4
"""A file whose tensors share memory may grow when each gets its own, up to this many times."""


@dataclass(frozen=True)
class Conversion:
    """What was made of what: `sources` are the pickle files, `files` those written, `tied` names left out to kept.

    `copied` are tensors that shared another's memory and now have their own. `torch` is the version that read them.
    """

    name: str
    sources: Mapping[str, FileDigest]
    files: Mapping[str, FileDigest]
    tensors: int
    tied: Mapping[str, str]
    copied: Mapping[str, str]
    torch: str


Listing = Sequence[Mapping[str, Any]]


def convert(source: Path, out: Path, progress: Progress = silent) -> Conversion:
    """Write what the pickle weights of `source`, a folder or one file, hold as the safetensors folder `out`.

    Types stay as stored; a tensor that the model ties to another of the same memory is left out, any other sharing
    becomes a copy. The files are read by PyTorch's weights-only loader in a process of its own, one after the other,
    in bounded memory where they are in the layout of PyTorch 1.6 or later. Raises InputsRefused for what is no plain
    weights file and EnvironmentFault for a PyTorch that is too old or a full disk; then nothing is left.
    """
    _require_safe_torch()
    pickles = find_pickles(Path(source))
    out = Path(out)
    if out.exists() or out.is_symlink():
        raise OutputExists(f"{out} exists; choose another folder, or remove it first")
    config = {} if pickles.is_adapter else read_config(pickles.name, pickles.folder)
    paths = [pickles.folder / file for file in pickles.files]
    before = [Fingerprint.of(path) for path in paths]
    with progress.stage("hash pickle files", sum(one.size for one in before)) as advance:
        digests = {}
        for path in paths:
            digests[path.name] = hash_file(path)
            advance(digests[path.name].size)
    with staged_folder(out) as staging, reader(pickles.name, staging.folder) as child:
        listings = {path.name: child.tensors(path) for path in paths}
        require_placed(pickles, listings)
        dropped = _tied(pickles, config, listings)
        written = _write(pickles, listings, dropped, child, staging.folder, progress)
        if [Fingerprint.of(path) for path in paths] != before:
            raise InputsRefused(f"{pickles.name}: its files changed while they were read; run again")
        _keep(pickles, staging.folder)
        _prove(pickles, staging.folder)
        made = _conversion(pickles, listings, dropped, digests, written)
        write_synced(staging.folder / RECORD_FILE, (json.dumps(asdict(made), indent=1) + "\n").encode())
    return made


def _require_safe_torch() -> None:
    found = version("torch")
    if tuple(int(part) for part in found.split(".")[:2]) < SAFE_TORCH:
        wanted = ".".join(map(str, SAFE_TORCH))
        raise EnvironmentFault(
            f"PyTorch {found} is installed, whose weights-only loader can be made to run code (CVE-2026-24747); "
            f"`widen convert` needs {wanted} or later"
        )


def require_placed(pickles: Pickles, listings: Mapping[str, Listing]) -> None:
    """Raise InputsRefused unless every tensor is there once, and where the index says."""
    found: dict[str, str] = {}
    for file, listing in listings.items():
        for name in (one["name"] for one in listing):
            if name in found:
                raise InputsRefused(f"{pickles.name}: {found[name]} and {file} both hold tensor {name}")
            found[name] = file
    for name, file in pickles.placed.items():
        if found.get(name) != file:
            raise InputsRefused(f"{pickles.name}: the index places tensor {name} in {file}, which does not hold it")


def _tied(pickles: Pickles, config: dict[str, Any], listings: Mapping[str, Listing]) -> dict[str, str]:
    """Tensors that share all their memory with another and that the model takes from it: name to the one kept."""
    shared = [one for listing in listings.values() for one in listing if one["same"] is not None]
    if not shared or pickles.is_adapter:
        return {}
    entries = {
        one["name"]: TensorEntry(one["name"], file, 0, 0, BY_SAFETENSORS_NAME[one["dtype"]], one["shape"])
        for file, listing in listings.items()
        for one in listing
    }
    model = Architecture.of(Checkpoint(pickles.name, pickles.folder, config, entries, pickles.files))
    dropped: dict[str, str] = {}
    for one in shared:
        first, name = str(dropped.get(one["same"], one["same"])), str(one["name"])
        if model.is_tied(name):
            dropped[name] = first
        elif model.is_tied(first):
            dropped[first] = name
    return dropped


def _write(
    pickles: Pickles,
    listings: Mapping[str, Listing],
    dropped: Mapping[str, str],
    child: Reader,
    folder: Path,
    progress: Progress,
) -> dict[str, FileDigest]:
    slots = {
        out: [Slot(one["name"], one["dtype"], one["shape"]) for one in listings[file] if one["name"] not in dropped]
        for file, out in zip(pickles.files, pickles.written, strict=True)
    }
    for part in slots.values():  # wider types first, as the safetensors library lays them out, so that each is aligned
        part.sort(key=lambda slot: (slot.dtype != "F32", slot.name))
    sizes = {out: sum(slot.size for slot in part) for out, part in slots.items()}
    held = sum((pickles.folder / file).stat().st_size for file in pickles.files)
    if sum(sizes.values()) > GROWTH * held:
        raise InputsRefused(
            f"{pickles.name}: its tensors share memory and would take {sum(sizes.values()) / 1e9:.2f} GB, from files "
            f"of {held / 1e9:.2f} GB; expected at most {GROWTH} times as much. Nothing was written"
        )
    require_space(folder, sum(sizes.values()))
    digests: dict[str, FileDigest] = {}
    with progress.stage("convert", sum(sizes.values())) as advance:
        for file, out in zip(pickles.files, pickles.written, strict=True):
            names = [slot.name for slot in slots[out]]
            size = len(header_of(slots[out])) + sizes[out]
            child.write(pickles.folder / file, names, folder / out, size)
            digests[out] = hash_file(folder / out)
            advance(sizes[out])
    if pickles.index_file:
        digests[pickles.index_file] = write_synced(folder / pickles.index_file, index_of(slots))
    return digests


def _keep(pickles: Pickles, folder: Path) -> None:
    """Configuration, tokenizer, template, card and licence, as they are."""
    for name in KEPT:
        if (pickles.folder / name).is_file():
            shutil.copyfile(pickles.folder / name, folder / name)


def _prove(pickles: Pickles, folder: Path) -> None:
    """What was written opens as what it is meant to be."""
    opened = Checkpoint.open(folder, pickles.name)
    if pickles.is_adapter:
        Adapter.of(opened)


def _conversion(
    pickles: Pickles,
    listings: Mapping[str, Listing],
    dropped: Mapping[str, str],
    sources: Mapping[str, FileDigest],
    written: Mapping[str, FileDigest],
) -> Conversion:
    every = [one for listing in listings.values() for one in listing]
    copied = {one["name"]: one["same"] for one in every if one["same"] and one["name"] not in dropped}
    copied = {name: first for name, first in copied.items() if first not in dropped}
    return Conversion(
        pickles.name, dict(sources), dict(written), len(every) - len(dropped), dict(dropped), copied, version("torch")
    )
