"""Pass 1: what a model changed, column by column, streamed, cached under the digests of what it was measured on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.backend import Backend
from widen.checkpoint import Checkpoint, TensorEntry
from widen.checks import Problem
from widen.digests import DigestCache, FileDigest, Fingerprint, canonical_json, digest_of
from widen.dtypes import F16, StorageType
from widen.geometry import ColumnSums, StoredTensor
from widen.plan import MergePlan, TensorPlan
from widen.progress import Progress, silent
from widen.shards import Slot, TensorFile, publish, scratch_folder, write_synced
from widen.summary import ModelSummary, TensorSummary

ARITHMETIC = "widen-columns/1"
"""Names the order of the sums and the meaning of the counts; a change of either gets a new name."""
COLUMNS_FILE = "columns.safetensors"
SUMMARY_FILE = "summary.json"
COUNT_PIECE = 1 << 20


@dataclass(frozen=True)
class Statistics:
    """Pass 1 of one (base, model) pair, on disk: `summary` for readers, `sums` for pass 2."""

    folder: Path
    summary: ModelSummary
    columns: dict[str, tuple[int, int, tuple[int, ...]]]

    @classmethod
    def load(cls, folder: Path, model: str) -> "Statistics":
        """Open a cached measurement under the name that the model has now."""
        summary = ModelSummary.from_json(json.loads((folder / SUMMARY_FILE).read_bytes()), model)
        with (folder / COLUMNS_FILE).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        places = {
            name: (8 + length + entry["data_offsets"][0], 8 + length + entry["data_offsets"][1], tuple(entry["shape"]))
            for name, entry in header.items()
        }
        return cls(folder, summary, places)

    def sums(self, name: str) -> ColumnSums:
        """The column sums of one tensor; counts are in the summary."""
        start, stop, shape = self.columns[name]
        raw = np.memmap(self.folder / COLUMNS_FILE, np.uint8, "r")[start:stop]
        base, product, delta = np.frombuffer(raw.tobytes(), "<f8").reshape(shape)
        return ColumnSums(base, product, delta, 0, 0, 0.0)


def finiteness_problems(plan: MergePlan, statistics: Sequence[Statistics]) -> list[Problem]:
    """The tensors, of the base and of every model, that hold a NaN or an infinity."""
    problems = {}
    for model, measured in zip(plan.models, statistics, strict=True):
        for row in measured.summary.tensors:
            if isfinite(row.base_norm) and isfinite(row.delta_norm):
                continue
            for side in (plan.base, model):
                not_numbers, infinite = count_not_finite(side.tensor(row.tensor))
                if not_numbers or infinite:
                    found = f"{not_numbers} NaN, {infinite} Inf"
                    problems[side.name, row.tensor] = Problem(
                        side.name, row.tensor, "not finite", "finite numbers", found, "repair or replace the checkpoint"
                    )
    return list(problems.values())


def measure(
    plan: MergePlan, backend: Backend, digests: DigestCache, cache: Path, progress: Progress = silent
) -> list[Statistics]:
    """Measure every model of a plan against its base, or take what `cache` has under the same digests.

    Digests of the files come from the same reading and go to `digests`. Raises InputsRefused when a file changes
    meanwhile. A damaged cache entry is measured again.
    """
    return [_measure_model(plan, model, backend, digests, cache, progress) for model in plan.models]


def weight_digests(checkpoint: Checkpoint, digests: DigestCache) -> dict[str, FileDigest] | None:
    """The shards' digests if all are known without reading, else None."""
    known = {shard: digests.get(checkpoint.folder / shard) for shard in checkpoint.shards}
    found = {shard: digest for shard, digest in known.items() if digest is not None}
    return found if len(found) == len(known) else None


def _measure_model(
    plan: MergePlan, model: Checkpoint, backend: Backend, digests: DigestCache, cache: Path, progress: Progress
) -> Statistics:
    key = _key(plan, model, digests)
    if key and (cached := _load_cached(cache / key, model.name)):
        progress.note(f"measure {model.name}: unchanged, statistics taken from the cache")
        return cached
    with scratch_folder(cache, ".measuring-") as folder:
        _measure_into(folder, plan, model, backend, digests, progress)
        final = cache / str(_key(plan, model, digests))
        publish(folder, final)
    return Statistics.load(final, model.name)


def _key(plan: MergePlan, model: Checkpoint, digests: DigestCache) -> str | None:
    """What the statistics are a function of, as one digest; None while a file's digest is unknown."""
    sides = [weight_digests(side, digests) for side in (plan.base, model)]
    if None in sides:
        return None
    files = [sorted(digest.sha256 for digest in side.values()) for side in sides if side is not None]
    kinds = {tensor.name: tensor.kind for tensor in plan.tensors}
    return digest_of({"arithmetic": ARITHMETIC, "files": files, "kinds": kinds})


def _load_cached(folder: Path, model: str) -> Statistics | None:
    try:
        return Statistics.load(folder, model) if folder.is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measure_into(
    folder: Path, plan: MergePlan, model: Checkpoint, backend: Backend, digests: DigestCache, progress: Progress
) -> None:
    """Stream the model's files front to back, hashing and measuring each tensor while its bytes are at hand."""
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    order = [entry for shard in model.shards for entry in _in_file_order(model, shard) if entry.name in by_name]
    slots = [Slot(entry.name, "F64", _sums_shape(by_name[entry.name])) for entry in order]
    columns = TensorFile(folder / COLUMNS_FILE, slots, {})
    rows: list[TensorSummary] = []
    column_digests: dict[str, str] = {}
    with ThreadPoolExecutor(2, thread_name_prefix="widen-hash") as hashers:
        base_hashes = [hashers.submit(digests.compute, plan.base.folder / shard) for shard in plan.base.shards]
        try:
            with progress.stage(f"measure {model.name}", model.weight_bytes) as advance:
                for entry in _hashed_reading(model, digests, hashers):
                    if entry.name in by_name:
                        tensor = by_name[entry.name]
                        sums = backend.measure(plan.base.tensor(entry.name), model.tensor(entry.name), tensor.geometry)
                        column_digests[entry.name] = columns.write(iter([sums.base, sums.product, sums.delta]))
                        rows.append(_summarise(model, tensor, sums))
                    advance(entry.stop - entry.start)
            columns.close()
        finally:
            columns.abandon()
        for future in base_hashes:
            future.result()
    rows.sort(key=lambda row: row.tensor)
    summary = ModelSummary(model.name, tuple(rows), digest_of(column_digests))
    write_synced(folder / SUMMARY_FILE, canonical_json(summary.to_json()).encode())


def _in_file_order(model: Checkpoint, shard: str) -> list[TensorEntry]:
    return sorted((entry for entry in model.tensors.values() if entry.file == shard), key=lambda entry: entry.start)


def _hashed_reading(model: Checkpoint, digests: DigestCache, hashers: ThreadPoolExecutor) -> Iterator[TensorEntry]:
    """Yield the tensors in file order; while the caller works on one, another thread hashes the same bytes."""
    for shard in model.shards:
        path = model.folder / shard
        if digests.get(path) is not None:
            yield from _in_file_order(model, shard)
            continue
        fingerprint, digest, data, done = Fingerprint.of(path), hashlib.sha256(), model.bytes_of(shard), 0
        for entry in _in_file_order(model, shard):
            pending: Future[None] = hashers.submit(digest.update, data[done : entry.stop].data)
            yield entry
            pending.result()
            done = entry.stop
        digest.update(data[done:].data)
        digests.put(path, fingerprint, FileDigest(digest.hexdigest(), data.size))


def _sums_shape(tensor: TensorPlan) -> tuple[int, ...]:
    return 3, tensor.geometry.batch, tensor.geometry.columns


def _summarise(model: Checkpoint, tensor: TensorPlan, sums: ColumnSums) -> TensorSummary:
    finite = bool(np.isfinite(sums.base).all() and np.isfinite(sums.delta).all())
    not_numbers, infinite = (0, 0) if finite else count_not_finite(model.tensor(tensor.name))
    base, after, delta = _norms(sums) if finite else (nan, nan, nan)
    return TensorSummary(
        tensor.name, tensor.kind, tensor.geometry.elements, not_numbers, infinite, sums.zeros, sums.changed,
        sums.largest_change if finite else nan, base, after, delta,
    )  # fmt: skip


def _norms(sums: ColumnSums) -> tuple[float, float, float]:
    """Frobenius norms of the base's tensor, the model's, and the delta."""
    base, product, delta = (_total(part) for part in (sums.base, sums.product, sums.delta))
    return sqrt(base), sqrt(max(0.0, base + 2.0 * product + delta)), sqrt(delta)


def _total(values: NDArray[np.float64]) -> float:
    """A sum in one order; NumPy's `sum` promises none."""
    return float(np.cumsum(values.reshape(-1))[-1]) if values.size else 0.0


def count_not_finite(tensor: StoredTensor) -> tuple[int, int]:
    """How many NaN and how many infinities a tensor holds, from its bits: all exponent bits set."""
    exponent, mantissa = _masks(tensor.kind)
    not_numbers = infinite = 0
    for start in range(0, tensor.data.size, COUNT_PIECE):
        piece = tensor.data[start : start + COUNT_PIECE]
        extreme = (piece & exponent) == exponent
        is_nan = extreme & ((piece & mantissa) != 0)
        not_numbers += int(np.count_nonzero(is_nan))
        infinite += int(np.count_nonzero(extreme)) - int(np.count_nonzero(is_nan))
    return not_numbers, infinite


def _masks(kind: StorageType) -> tuple[np.unsignedinteger, np.unsignedinteger]:
    if kind.itemsize == 4:
        return np.uint32(0x7F800000), np.uint32(0x007FFFFF)
    return (np.uint16(0x7C00), np.uint16(0x03FF)) if kind is F16 else (np.uint16(0x7F80), np.uint16(0x007F))
