"""What fills the memory that a virtual machine would hand back."""

from pathlib import Path

import pytest

from bench import steady


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(1000))
    return [path]


def prepared(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """A machine with room for so many bytes beside inputs of 1,000."""
    monkeypatch.setattr(steady, "PIECE", 100)
    monkeypatch.setattr(steady, "memory_bytes", lambda: steady.LEFT + 1000 + room)


def test_nothing_is_filled_where_free_memory_stays(
    inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(monkeypatch, 500)
    monkeypatch.setattr(steady, "REPORTING", tmp_path / "none")
    steady.warm(inputs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_file_is_as_large_as_the_room_beside_the_inputs(
    inputs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "REPORTING", tmp_path)
    for room, size in ((500, 500), (700, 700), (300, 300), (-5, 0)):
        prepared(monkeypatch, room)
        steady.warm(inputs, tmp_path)
        assert (tmp_path / "filler").stat().st_size == size
