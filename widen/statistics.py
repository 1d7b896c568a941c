"""Pass 1 of one tensor of one (base, model) pair, kept under the digests of the bytes it was measured on."""

import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isfinite, nan, sqrt
from pathlib import Path
from threading import Lock

import numpy as np

from widen.checkpoint import Side
from widen.checks import Problem
from widen.contents import Contents
from widen.digests import canonical_json, digest_of
from widen.dtypes import F16, StorageType
from widen.geometry import ColumnSums, StoredTensor
from widen.methods.operands import total
from widen.plan import TensorPlan
from widen.summary import TensorSummary

ARITHMETIC = "widen-columns/1"
"""Names the order of the sums and the meaning of the counts; a change of either gets a new name."""
COUNT_PIECE = 1 << 20
DATABASE = "measured.sqlite"
DAY = 86_400
PENDING_BYTES = 16 << 20
"""Measurements that a kill may cost; a transaction for each would cost more than measuring."""
Row = tuple[str, str, str, bytes, int]
"""A key, the summary, a digest of the sums' bytes, those bytes, and the day of the last use."""


@dataclass(frozen=True)
class Measured:
    """What a model changed in one tensor: `sums` for pass 2, `summary` for readers, `digest` of the sums' bytes."""

    sums: ColumnSums
    summary: TensorSummary
    digest: str

    @property
    def is_finite(self) -> bool:
        """Whether both tensors hold finite numbers only."""
        return isfinite(self.summary.base_norm) and isfinite(self.summary.delta_norm)


class StatisticsStore:
    """What is measured, under what it is a function of; one SQLite file in `folder`, nothing kept when that is None.

    Every entry carries a digest of itself: a damaged one counts as absent, and so does a file that is no database.
    Processes share the file: what is new waits in memory, since a transaction that is open keeps all others waiting.
    """

    def __init__(self, folder: Path | None) -> None:
        self._kept = _open_database(folder) if folder is not None else None
        self._lock = Lock()
        self._origins: Counter[tuple[str, bool]] = Counter()
        self._pending: dict[str, Row] = {}
        self._pending_bytes = 0
        self._today = int(time.time()) // DAY
        self._used: set[str] = set()

    def key(self, tensor: TensorPlan, contents: Contents, model: Side) -> str:
        """One digest of both sides' bytes and types, the tensor's shape and orientation, and the arithmetic."""
        sides = [contents.of(*side) for side in (tensor.base, model)]
        return digest_of({"arithmetic": ARITHMETIC, "sides": sides, "geometry": list(vars(tensor.geometry).values())})

    def has(self, key: str) -> bool:
        """Whether a measurement is there; it may still turn out damaged."""
        return key in self._pending or self._read("SELECT 1 FROM measured WHERE key = ?", key) is not None

    def known(self, tensor: TensorPlan, key: str) -> Measured | None:
        """The measurement under `key`, or None when there is none or it is damaged."""
        return self._get(key, tensor)

    def take(self, tensor: TensorPlan, key: str, model: Side, measure: Callable[[], ColumnSums]) -> Measured:
        """What is known under `key`, else what `measure` finds, which is kept."""
        known = self._get(key, tensor)
        with self._lock:
            self._origins[model.checkpoint.name, known is not None] += 1
        if known is None:
            sums = measure()
            body = _bytes_of(sums)
            known = Measured(sums, _summarise(model, tensor, sums), hashlib.sha256(body).hexdigest())
            self._put(key, known, body)
        return known

    def origins(self) -> list[str]:
        """A line a model, for those of which anything was known: how many tensors were measured, and how many not."""
        models = sorted({name for name, known in self._origins if known})
        return [
            f"statistics of {name}: {self._origins[name, False]} tensors measured, {self._origins[name, True]} known"
            for name in models
        ]

    def close(self) -> None:
        """Let go of the file."""
        if self._kept is not None:
            self._write_pending()
            used = [(self._today, key, self._today) for key in sorted(self._used)]
            self._write("UPDATE measured SET used = ? WHERE key = ? AND used < ?", used)
            self._kept.close()

    def _get(self, key: str, tensor: TensorPlan) -> Measured | None:
        row = self._pending.get(key)
        found = row[1:4] if row else self._read("SELECT summary, digest, sums FROM measured WHERE key = ?", key)
        if found is None or hashlib.sha256(found[2]).hexdigest() != found[1]:
            return None
        try:
            summary = replace(TensorSummary(**json.loads(found[0])), tensor=tensor.name, kind=tensor.kind)
            sums = np.frombuffer(found[2], "<f8").reshape(3, tensor.geometry.batch, tensor.geometry.columns)
        except (ValueError, TypeError):
            return None
        self._used.add(key)
        counts = summary.changed, summary.zeros, summary.largest_change
        return Measured(ColumnSums(sums[0], sums[1], sums[2], *counts), summary, found[1])

    def _read(self, query: str, key: str) -> tuple[str, str, bytes] | None:
        if self._kept is None:
            return None
        with self._lock, suppress(sqlite3.DatabaseError):
            found: tuple[str, str, bytes] | None = self._kept.execute(query, (key,)).fetchone()
            return found
        return None

    def _put(self, key: str, measured: Measured, body: bytes) -> None:
        if self._kept is None:
            return
        row = (key, canonical_json(vars(measured.summary)), measured.digest, body, self._today)
        with self._lock:
            self._pending[key] = row
            self._pending_bytes += len(body)
            if self._pending_bytes >= PENDING_BYTES:
                self._write_pending()

    def _write_pending(self) -> None:
        self._write("INSERT OR REPLACE INTO measured VALUES (?, ?, ?, ?, ?)", self._pending.values())
        self._pending, self._pending_bytes = {}, 0

    def _write(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """In a transaction. A cache that cannot be written costs a measurement next time, not this merge."""
        assert self._kept is not None
        with suppress(sqlite3.DatabaseError), self._kept:
            self._kept.executemany(statement, rows)


def _open_database(folder: Path) -> sqlite3.Connection:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DATABASE
    try:
        return _connect(path)
    except sqlite3.DatabaseError:
        for damaged in folder.glob(f"{DATABASE}*"):
            damaged.unlink()
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    """Write-ahead logging outlives a kill; a lost power supply may damage the file, which is then made anew."""
    database = sqlite3.connect(path, timeout=60, check_same_thread=False)
    for statement in (
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = OFF",
        "CREATE TABLE IF NOT EXISTS measured (key TEXT PRIMARY KEY, summary TEXT, digest TEXT, sums BLOB)",
        "PRAGMA cache_size = -4000",
    ):
        database.execute(statement)
    if "used" not in {column[1] for column in database.execute("PRAGMA table_info(measured)")}:
        # The day of the last use, in days since 1970; entries of before it was kept count as used today.
        with suppress(sqlite3.OperationalError):  # another process added it meanwhile
            database.execute(f"ALTER TABLE measured ADD COLUMN used INTEGER DEFAULT {int(time.time()) // DAY}")
    return database


def finiteness_problems(tensor: TensorPlan, measured: Sequence[Measured]) -> list[Problem]:
    """What in one tensor is not finite: a problem for the base and for every model that holds a NaN or an infinity."""
    problems = {}
    suspects = [(tensor.base, model) for model, one in zip(tensor.models, measured, strict=True) if not one.is_finite]
    # Without a model nothing was measured, so nothing is known of the base.
    for sides in suspects if tensor.models else [(tensor.base,)]:
        for side in sides:
            not_numbers, infinite = count_not_finite(side.tensor())
            if not_numbers or infinite:
                found = f"{not_numbers} NaN, {infinite} Inf"
                owner, remedy = side.checkpoint.name, "repair or replace the checkpoint"
                problems[owner, side.name] = Problem(owner, side.name, "not finite", "finite numbers", found, remedy)
    return list(problems.values())


def _bytes_of(sums: ColumnSums) -> bytes:
    return b"".join(part.astype("<f8").tobytes() for part in (sums.base, sums.product, sums.delta))


def _summarise(model: Side, tensor: TensorPlan, sums: ColumnSums) -> TensorSummary:
    finite = bool(np.isfinite(sums.base).all() and np.isfinite(sums.delta).all())
    not_numbers, infinite = (0, 0) if finite else count_not_finite(model.tensor())
    base, after, delta = _norms(sums) if finite else (nan, nan, nan)
    return TensorSummary(
        tensor.name, tensor.kind, tensor.geometry.elements, not_numbers, infinite, sums.zeros, sums.changed,
        sums.largest_change if finite else nan, base, after, delta,
    )  # fmt: skip


def _norms(sums: ColumnSums) -> tuple[float, float, float]:
    """Frobenius norms of the base's tensor, the model's, and the delta."""
    base, product, delta = (float(total(part)) for part in (sums.base, sums.product, sums.delta))
    return sqrt(base), sqrt(max(0.0, base + 2.0 * product + delta)), sqrt(delta)


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
