"""Computed tensors in the cache: whole or not there, never of other bytes than their key says, one writer at a time."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.build import family
from widen.checkpoint import Checkpoint
from widen.contents import Contents
from widen.errors import InputsRefused
from widen.overlay import Overlays, open_overlays
from widen.shards import Slot

SLOTS = [Slot("w", "F32", (2, 3))]


def values(_: str) -> Iterator[NDArray[np.uint32]]:
    """Two rows."""
    for row in np.arange(6, dtype=np.float32).reshape(2, 3):
        yield row.view(np.uint32)


def never(_: str) -> Iterator[NDArray[np.uint32]]:
    """Fails where anything is computed."""
    raise AssertionError("computed again")
    yield


def test_computed_once_and_read_back(tmp_path: Path) -> None:
    overlays = Overlays(tmp_path, Contents())
    first = overlays.entries("k", SLOTS, values)
    assert overlays.entries("k", SLOTS, never) == first
    entry = first["w"]
    held = np.fromfile(entry.file, np.float32, 6, offset=entry.start)
    assert held.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    overlays = Overlays(tmp_path, Contents())
    entry = overlays.entries("k", SLOTS, values)["w"]
    with Path(entry.file).open("r+b") as file:
        file.seek(entry.start)
        file.write(b"\xff")
    overlays.entries("k", SLOTS, values)
    assert np.fromfile(entry.file, np.float32, 1, offset=entry.start)[0] == 0.0


def test_what_came_of_inputs_that_changed_meanwhile_is_not_kept(tmp_path: Path) -> None:
    """Else the key would name bytes that other inputs made, for every later merge."""
    checkpoint = Checkpoint.open(family(tmp_path)[0])
    contents = Contents()
    contents.of(checkpoint, "lm_head.weight")
    overlays = Overlays(tmp_path / "cache", contents)

    def fill(_: str) -> Iterator[NDArray[np.uint32]]:
        yield from values("w")
        os.utime(checkpoint.folder / "model.safetensors", (1e9, 1e9))

    with pytest.raises(InputsRefused, match="changed while it was merged"):
        overlays.entries("k", SLOTS, fill)
    assert list((tmp_path / "cache").glob("k*")) == []


def test_without_a_cache_nothing_stays(tmp_path: Path) -> None:
    with open_overlays(None) as overlays:
        path = Path(overlays.entries("k", SLOTS, values)["w"].file)
        assert path.is_file()
    assert not path.exists()
