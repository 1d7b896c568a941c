"""Where two checkpoints that should be equal first differ: tensor, element and both values."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused
from widen.headers import TensorEntry
from widen.manifest import Manifest, MergedTensor
from widen.progress import Progress, silent

BLOCK = 1 << 24
"""Bytes compared at a time."""


def first_difference(expected: Path, found: Path, progress: Progress = silent) -> str | None:
    """What differs first, in the order of tensor names, or None. Raises InputsRefused for an unreadable `expected`."""
    wanted = Checkpoint.open(expected, "expected")
    try:
        held = Checkpoint.open(found, "found")
    except InputsRefused as error:
        return f"it cannot be read: {error}"
    total = sum(entry.size for entry in wanted.tensors.values())
    with progress.stage("compare tensors", total) as advance:
        for name in sorted({*wanted.tensors, *held.tensors}):
            if told := _of_tensor(wanted, held, name):
                return told
            advance(wanted.tensors[name].size)
    return None


def changed_tensors(manifest: Manifest, other: Mapping[str, MergedTensor]) -> list[str]:
    """Names of the tensors whose digest, type or shape is not as in `manifest`, wherever they lie."""
    mine = {name: (one.sha256, one.dtype, tuple(one.shape)) for name, one in manifest.tensors.items()}
    theirs = {name: (one.sha256, one.dtype, tuple(one.shape)) for name, one in other.items()}
    return [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]


def _of_tensor(wanted: Checkpoint, held: Checkpoint, name: str) -> str | None:
    if name not in held.tensors or name not in wanted.tensors:
        return f"tensor {name} is {'missing' if name in wanted.tensors else 'not part of this merge'}"
    one, two = wanted.tensors[name], held.tensors[name]
    if (one.kind, one.shape) != (two.kind, two.shape):
        return f"tensor {name}: expected {_form(one)}, found {_form(two)}"
    place = _first_unequal(wanted.span(name), held.span(name))
    if place is None:
        return None
    element = place // one.kind.itemsize
    where = ", ".join(str(int(index)) for index in np.unravel_index(element, one.shape)) if one.shape else ""
    values = (_value(checkpoint.span(name), checkpoint.tensors[name], element) for checkpoint in (wanted, held))
    return "tensor {}, element [{}]: expected {}, found {}".format(name, where, *values)


def _form(entry: TensorEntry) -> str:
    return f"{entry.kind.name} {list(entry.shape)}"


def _first_unequal(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> int | None:
    for start in range(0, one.size, BLOCK):
        unequal = one[start : start + BLOCK] != two[start : start + BLOCK]
        if unequal.any():
            return start + int(unequal.argmax())
    return None


def _value(span: NDArray[np.uint8], entry: TensorEntry, element: int) -> str:
    """The element as a number and its bits, so that two NaN or two zeros are told apart."""
    size = entry.kind.itemsize
    bits = int.from_bytes(span[element * size : (element + 1) * size].tobytes(), "little")
    if entry.kind.name == "BF16":
        number = np.array(bits << 16, np.uint32).view(np.float32)
    else:
        number = np.array(bits, entry.kind.bits).view(f"<f{size}")
    return f"{float(number)!r} (0x{bits:0{2 * size}x})"


def first_changed_input(recorded: Mapping[str, str], held: Mapping[str, str]) -> str | None:
    """The first tensor, by name, whose recorded content (see `widen.contents`) is not what is there now."""
    for one, two in zip_longest(sorted(recorded.items()), sorted(held.items())):
        if one != two:
            return (one or two)[0]
    return None
