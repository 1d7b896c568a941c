"""The first difference of two checkpoints: tensor, element and both values."""

from pathlib import Path

import pytest
import torch

import widen
from tests.build import family, llama_weights, write_checkpoint
from widen.difference import BLOCK, changed_tensors, first_changed_input, first_difference

NAME = "model.layers.1.mlp.up_proj.weight"


def pair(folder: Path, dtype: torch.dtype, change) -> tuple[Path, Path]:
    one, two = llama_weights(0, dtype), llama_weights(0, dtype)
    change(two)
    return write_checkpoint(folder / "one", one), write_checkpoint(folder / "two", two, shards=3)


def test_equal_checkpoints_differ_nowhere_however_they_are_sharded(tmp_path: Path) -> None:
    assert first_difference(*pair(tmp_path, torch.bfloat16, lambda _: None)) is None


@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        (torch.bfloat16, r"expected 0\.0\d+ \(0x[0-9a-f]{4}\), found 2\.5 \(0x4020\)"),
        (torch.float16, r"expected 0\.0\d+ \(0x[0-9a-f]{4}\), found 2\.5 \(0x4100\)"),
        (torch.float32, r"expected 0\.0\d+ \(0x[0-9a-f]{8}\), found 2\.5 \(0x40200000\)"),
    ],
)
def test_the_first_unequal_element_is_named_with_both_values(dtype, told: str, tmp_path: Path) -> None:
    import re

    def change(weights) -> None:
        weights[NAME] = weights[NAME].abs()
        weights[NAME][3, 7:] = 2.5

    one, two = llama_weights(0, dtype), llama_weights(0, dtype)
    one[NAME] = one[NAME].abs()
    change(two)
    found = first_difference(write_checkpoint(tmp_path / "one", one), write_checkpoint(tmp_path / "two", two))
    assert found is not None
    assert re.fullmatch(rf"tensor {re.escape(NAME)}, element \[3, 7\]: {told}", found), found


def test_a_difference_beyond_the_first_block_has_the_right_place(tmp_path: Path) -> None:
    size = BLOCK // 2 + 10
    one = llama_weights() | {"model.big": torch.zeros(size, dtype=torch.bfloat16)}
    two = {name: tensor.clone() for name, tensor in one.items()}
    two["model.big"][size - 3] = -0.0  # equal as numbers, not as bytes
    found = first_difference(write_checkpoint(tmp_path / "one", one), write_checkpoint(tmp_path / "two", two))
    assert found == f"tensor model.big, element [{size - 3}]: expected 0.0 (0x0000), found -0.0 (0x8000)"


def test_missing_foreign_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    one, two = pair(tmp_path, torch.bfloat16, lambda weights: weights.pop(NAME))
    assert first_difference(one, two) == f"tensor {NAME} is missing"
    assert first_difference(two, one) == f"tensor {NAME} is not part of this merge"
    weights = llama_weights()
    weights[NAME] = weights[NAME].T.contiguous()
    three = write_checkpoint(tmp_path / "three", weights)
    assert first_difference(one, three) == f"tensor {NAME}: expected BF16 [48, 32], found BF16 [32, 48]"


def test_a_checkpoint_that_cannot_be_read_is_a_difference(tmp_path: Path) -> None:
    one, two = pair(tmp_path, torch.bfloat16, lambda _: None)
    (two / "config.json").write_text("{")
    assert "it cannot be read: found: " in (first_difference(one, two) or "")


def test_tensors_are_compared_by_digest_wherever_they_lie(tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    one = widen.merge(base, models, tmp_path / "one")
    two = widen.merge(base, models, tmp_path / "two", widen.Settings(shard_bytes=9_000))
    assert changed_tensors(one, two.tensors) == []
    other = dict(two.tensors)
    del other[NAME]
    assert changed_tensors(one, other) == [NAME]


@pytest.mark.parametrize(
    ("recorded", "held", "first"),
    [
        ({"a": "1", "b": "2"}, {"a": "1", "b": "2"}, None),
        ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, "b"),
        ({"a": "1", "b": "2"}, {"b": "2"}, "a"),
        ({"a": "1"}, {"a": "1", "c": "2"}, "c"),
    ],
)
def test_the_first_changed_input_tensor(recorded: dict, held: dict, first: str | None) -> None:
    assert first_changed_input(recorded, held) == first
