"""Generate checkpoints of a chosen size: seeded weights in the shape of a Qwen2 model, written without holding a model.

python -m bench.models FOLDER [--size 0.43b]

Drawing a normal number a weight takes longer than a merge. Two blocks of normals are drawn once; a tensor's numbers are
their sum under an angle, each block entered at its own place. The blocks' lengths are primes, so the sum repeats only
after more numbers than all models have together; and a sum of independent normals is normal.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from math import cos, prod, sin
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.sizes import SIZES, Size

WEIGHTS_FILE = "model.safetensors"
CHANGES = {"base": 0.0, "tuned": 0.02, "pretrained": 0.4}
"""Each model's relative change of the base: one fine-tuned, one trained on."""
UPDATED_SHARE = 0.05
SPREAD = np.float32(0.02)
PERIODS = (262_139, 262_147)
PIECE = 1 << 16
SPAN = 1 << 23
"""Elements that one process writes at a time; a piece of them stays in the nearest caches."""
ALONE = 1 << 24
"""Elements up to which starting processes takes longer than the work."""
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie in a file."""

    name: str
    start: int
    elements: int


@dataclass(frozen=True)
class Span:
    """A part of a tensor to be written: numbers `first` to `first + count` of `place`, changed as `model` is."""

    path: Path
    place: Place
    model: str
    first: int
    count: int


@dataclass(frozen=True)
class Models:
    """What a bench merges: folders by name, and a later version of one in which the tensors `changed` differ."""

    size: Size
    folders: Mapping[str, Path]
    updated: Path
    changed: Sequence[str]

    def facts(self) -> dict[str, float]:
        """Sizes, for the report. Bytes are those of tensors; `updated_share` is of one model's."""
        shapes = self.size.shapes()
        changed = sum(prod(shapes[name]) for name in self.changed)
        return {
            "count": len(self.folders),
            "parameters": self.size.parameters,
            "tensors": len(shapes),
            "input_bytes": 2 * self.size.parameters * len(self.folders),
            "output_bytes": 2 * self.size.parameters,
            "updated_tensors": len(self.changed),
            "updated_share": changed / self.size.parameters,
        }


def generate(folder: Path, size: Size) -> dict[str, Path]:
    """Write what is missing of base, tuned and pretrained under `folder`; returns their folders by name."""
    folders = {name: folder / name for name in CHANGES}
    missing = {name: path for name, path in folders.items() if not (path / "config.json").exists()}
    for path in missing.values():
        path.mkdir(parents=True, exist_ok=True)
        _lay_out(path / WEIGHTS_FILE, size)
    _fill([span for name, path in missing.items() for span in _spans(path / WEIGHTS_FILE, name)])
    for path in missing.values():
        (path / "config.json").write_text(json.dumps(size.config()))
    return folders


def models_for(folder: Path, size: Size) -> Models:
    """Base, tuned and pretrained under `folder`, and a later version of tuned; what is there is not made again."""
    folders = generate(folder, size)
    updated, record = folder / "tuned-updated", folder / "updated.json"
    if not record.exists():
        record.write_text(json.dumps(update(folders["tuned"], updated, UPDATED_SHARE, seed=1)))
    return Models(size, folders, updated, tuple(json.loads(record.read_bytes())))


def update(source: Path, target: Path, fraction: float, seed: int) -> list[str]:
    """Write a new version of the model in `source` to `target`, in which a share of the tensors changed.

    Of the names in order, the last of every 1 / fraction (of every twentieth, for 0.05) is the one. Returns them.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    path, step = target / WEIGHTS_FILE, round(1 / fraction)
    chosen = places(path)[step - 1 :: step]
    with path.open("r+b", buffering=0) as file:
        for place in chosen:
            _change(file.fileno(), place, f"update {seed}")
    return [place.name for place in chosen]


def places(path: Path) -> list[Place]:
    """Every tensor of a bfloat16 safetensors file, by name."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return [
        Place(name, 8 + length + entry["data_offsets"][0], prod(entry["shape"]))
        for name, entry in sorted(header.items())
    ]


def _lay_out(path: Path, size: Size) -> None:
    """A file with its header and no tensor yet (format: https://github.com/huggingface/safetensors#format)."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, shape in sorted(size.shapes().items()):
        start, stop = stop, stop + 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, 8 + len(text) + stop)


def _spans(path: Path, model: str) -> Iterator[Span]:
    for place in places(path):
        for first in range(0, place.elements, SPAN):
            yield Span(path, place, model, first, min(SPAN, place.elements - first))


def _fill(spans: list[Span]) -> None:
    if sum(span.count for span in spans) <= ALONE:
        for span in spans:
            _write(span)
        return
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_write, spans):
            pass


def _write(span: Span) -> None:
    base, delta = Normals(span.place.name, "base"), Normals(span.place.name, span.model)
    change = np.float32(CHANGES[span.model])
    with span.path.open("r+b", buffering=0) as file:
        for first in range(span.first, span.first + span.count, PIECE):
            count = min(PIECE, span.first + span.count - first)
            values = base.numbers(first, count) * SPREAD
            if change:
                values *= delta.numbers(first, count) * change + np.float32(1)
            os.pwrite(file.fileno(), _bfloat16(values), span.place.start + 2 * first)


def _change(file: int, place: Place, key: str) -> None:
    delta = Normals(place.name, key)
    for first in range(0, place.elements, PIECE):
        count, start = min(PIECE, place.elements - first), place.start + 2 * first
        bits = np.frombuffer(os.pread(file, 2 * count, start), np.uint16).astype(np.uint32) << 16
        changed = bits.view(np.float32) * (delta.numbers(first, count) * SPREAD + np.float32(1))
        os.pwrite(file, _bfloat16(changed), start)


def _bfloat16(values: Floats) -> bytes:
    """The upper half of each float32."""
    return values.view(np.uint16)[1::2].tobytes()


class Normals:
    """An endless row of normal numbers that is a function of its key."""

    def __init__(self, *key: str) -> None:
        draw = np.random.default_rng(int.from_bytes(sha256("/".join(key).encode()).digest()[:8], "little"))
        self._offsets = [int(draw.integers(period)) for period in PERIODS]
        angle = draw.uniform(0.3, 1.2)
        self._shares = np.float32(cos(angle)), np.float32(sin(angle))

    def numbers(self, first: int, count: int) -> Floats:
        """Float32 numbers `first` to `first + count`, at most PIECE of them."""
        entered = [(first + offset) % period for offset, period in zip(self._offsets, PERIODS, strict=True)]
        left, right = (block[start : start + count] for block, start in zip(_blocks(), entered, strict=True))
        return left * self._shares[0] + right * self._shares[1]


@cache
def _blocks() -> list[Floats]:
    """Normals, each block with its beginning repeated at its end, so that a piece never wraps."""
    draws = [np.random.default_rng(period).standard_normal(period, dtype=np.float32) for period in PERIODS]
    return [np.concatenate([draw, draw[:PIECE]]) for draw in draws]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="0.43b")
    asked = parser.parse_args()
    for name, folder in generate(asked.folder, SIZES[asked.size]).items():
        print(f"{name}: {folder}")


if __name__ == "__main__":
    main()
