"""What a merge would do, from headers and from what is known: bytes, memory, disk, reuse, time. Reads no weights."""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from widen.checkpoint import Side
from widen.contents import Contents
from widen.engine import memory_of
from widen.manifest import Manifest
from widen.plan import MergePlan, TensorPlan
from widen.profile import Profile
from widen.remote.cache import DEFAULT_LIMIT, FILES
from widen.reuse import key_of, keys_of_manifest
from widen.staging import free_space, write_atomically
from widen.statistics import StatisticsStore

PROCESS_BYTES = 200 << 20
"""What the interpreter and the compiled loops take beside the lanes."""
REFERENCE_RATES = {
    "read": 3.5e9, "hash inputs": 2.5e9, "measure": 3.0e9, "combine": 2.0e9, "hash outputs": 1.5e9, "write": 1.5e9,
    "hash files": 1.5e9,
}  # fmt: skip
"""Bytes a second of one core of a 2-core AMD EPYC, until a merge on this machine has said otherwise."""
RATES_FILE = "rates.json"
CALIBRATING_BYTES = 100_000_000


@dataclass(frozen=True)
class Outlook:
    """The figures of a merge to be. Bytes throughout; `seconds` is an estimate, from `rates_of`.

    reused: tensors that an earlier output holds. unread: tensors of which this cannot be known before they are read.
    measured: (tensor, model) pairs to be measured, of `pairs`. disk: needed at most on this machine.
    """

    kinds: Mapping[str, int]
    elements: int
    read: int
    write: int
    files: int
    memory: int
    reused: int
    unread: int
    measured: int
    pairs: int
    seconds: float
    rates_of: str
    disk: int
    disk_free: int


def foresee(
    plan: MergePlan,
    contents: Contents,
    store: StatisticsStore,
    previous: Manifest | None,
    lanes: int,
    out: Path,
    cache: Path | None,
    *,
    is_sent: bool = False,
    remote_cache: int | None = None,
) -> Outlook:
    """Work out the figures. `previous`: the manifest of what the output holds now. out: on the disk that is used.

    is_sent: the output's files go to a storage. remote_cache: bytes of what is read from one that are kept.
    """
    known = [one for one in plan.tensors if all(contents.known(*side) for side in one.sides)]
    before = keys_of_manifest(previous) if previous else {}
    reused = {one.name for one in known if before.get(one.name) == key_of(plan, one, contents)}
    fresh = [one for one in plan.tensors if one.name not in reused]
    measured = _unmeasured(contents, store, fresh, {one.name for one in known})
    rates, rates_of = rates_at(cache)
    work = _work(plan, contents, fresh, measured)
    return Outlook(
        kinds=dict(sorted(Counter(one.kind for one in plan.tensors).items())),
        elements=sum(one.geometry.elements for one in plan.tensors),
        read=sum(one.read_bytes for one in fresh),
        write=plan.out_bytes,
        files=len(plan.files),
        memory=PROCESS_BYTES + lanes * max((memory_of(one) for one in plan.tensors), default=0),
        reused=len(reused),
        unread=len(plan.tensors) - len(known),
        measured=len(measured),
        pairs=sum(len(one.models) for one in plan.tensors),
        seconds=sum(size / rates[stage] for stage, size in work.items()) / lanes,
        rates_of=rates_of,
        disk=_disk(plan, fresh, remote_cache or DEFAULT_LIMIT, is_sent=is_sent),
        disk_free=free_space(out),
    )


def _unmeasured(
    contents: Contents, store: StatisticsStore, fresh: Sequence[TensorPlan], known: Collection[str]
) -> list[tuple[TensorPlan, Side]]:
    """The pairs of a tensor and a model whose measurement is not kept, as far as their bytes are known."""
    pairs = [(one, model) for one in fresh for model in one.models]
    return [
        (one, model) for one, model in pairs if one.name not in known or not store.has(store.key(one, contents, model))
    ]


def _disk(plan: MergePlan, fresh: Sequence[TensorPlan], remote_cache: int, *, is_sent: bool) -> int:
    """What the output takes here, whole or on its way, and what is fetched."""
    files = sorted(sum(one.slot.size for one in part) for part in plan.files.values())
    sides = [side.checkpoint.tensors[side.name] for one in fresh for side in one.sides]
    fetched = sum(entry.size for entry in sides if entry.remote is not None)
    return sum(files[-FILES:] if is_sent else files) + min(fetched, remote_cache)


def remember_rates(profile: Profile, cache: Path | None) -> None:
    """Keep what this machine managed in a merge that was large enough to tell."""
    rows = {row.stage: row for row in profile.totals() if row.stage in REFERENCE_RATES and row.computing > 0}
    if cache is None or rows.keys() != REFERENCE_RATES.keys() or rows["measure"].size < CALIBRATING_BYTES:
        return
    rates = {stage: row.size / row.computing for stage, row in rows.items()}
    write_atomically(cache / RATES_FILE, (json.dumps(rates, indent=1, sort_keys=True) + "\n").encode())


def rates_at(cache: Path | None) -> tuple[Mapping[str, float], str]:
    """Bytes a second of one processor by stage, as the last merge left them in `cache`, and whose they are."""
    if cache is not None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads((cache / RATES_FILE).read_bytes())
            rates = {stage: float(kept[stage]) for stage in REFERENCE_RATES}
            if min(rates.values()) > 0.0:
                return rates, "the last merge here"
    return REFERENCE_RATES, "a reference machine"


def _work(
    plan: MergePlan,
    contents: Contents,
    fresh: Sequence[TensorPlan],
    measured: Sequence[tuple[TensorPlan, Side]],
) -> dict[str, int]:
    """Bytes that each stage moves."""
    read = sum(one.read_bytes for one in fresh)
    unnamed = sum(side.size for one in plan.tensors for side in one.sides if contents.known(*side) is None)
    pairs = sum(one.base.size + model.size for one, model in measured)
    out = sum(one.slot.size for one in fresh)
    return {
        "read": max(read, unnamed), "hash inputs": unnamed, "measure": pairs, "combine": out, "hash outputs": out,
        "write": out, "hash files": plan.out_bytes,
    }  # fmt: skip
