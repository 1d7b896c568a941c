"""The golden cases: the float64 answer, rounded to the output type, element for element."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import widen

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_merge_equals_the_float64_answer(case: str, tmp_path: Path) -> None:
    folder = GOLDEN / case
    asked = json.loads((folder / "case.json").read_text())
    models = [folder / f"model-{k + 1}" for k in range(asked["models"])]
    settings = widen.Settings(t=asked["t"], s=asked["s"], out_dtype=asked["dtype"])
    widen.merge(folder / "base", models, tmp_path / "out", settings)
    with (
        safe_open(folder / "expected-float32.safetensors", "pt") as expected,
        safe_open(tmp_path / "out" / "model.safetensors", "pt") as merged,
    ):
        assert set(merged.keys()) == set(expected.keys())
        for name in expected.keys():  # noqa: SIM118 - safe_open is no mapping
            answer = expected.get_tensor(name).to(getattr(torch, asked["dtype"]))
            assert torch.equal(merged.get_tensor(name), answer), name
