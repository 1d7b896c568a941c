"""An embedding, a Conv1D, a 3-D convolution and fused experts are each merged as what they are.

Each case is held against the paper's reading of its own kind, and against the reading of the wrong kind: a merge that
took one for the other would be told apart, which the last test shows by taking it so.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import widen
from tests import oracle
from tests.build import changed
from widen import plan
from widen.geometry import Geometry

Matrices = list[np.ndarray]
Reading = Callable[[Matrices], np.ndarray]


def as_matrix(values: Matrices) -> np.ndarray:
    return oracle.merge_matrix(values[0], values[1:], 1.0, 1.0)


def as_embedding(values: Matrices) -> np.ndarray:
    return oracle.merge_embedding(values[0], values[1:], 1.0, 1.0)


def as_batch(values: Matrices) -> np.ndarray:
    """Every matrix of the batch on its own."""
    return np.stack([as_matrix([value[index] for value in values]) for index in range(len(values[0]))])


def as_one_matrix(values: Matrices) -> np.ndarray:
    """All but the last axis as rows."""
    flat = as_matrix([value.reshape(-1, value.shape[-1]) for value in values])
    return flat.reshape(values[0].shape)


@dataclass(frozen=True)
class Case:
    """A tensor of a model, how it is to be read, how it would be misread, and the geometry that would misread it."""

    model: str
    config: dict[str, Any]
    tensor: str
    right: Reading
    wrong: Reading
    flipped: Callable[[Geometry], Geometry]


def turned(found: Geometry) -> Geometry:
    return Geometry(found.batch, found.stored_rows, found.stored_columns, not found.transposed)


def flattened(found: Geometry) -> Geometry:
    return Geometry(1, found.batch * found.stored_rows, found.stored_columns, found.transposed)


SMALL = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 1}
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "intermediate_size": 12}
CASES = {
    "embedding": Case(
        "Llama", SMALL | ATTENTION, "model.embed_tokens.weight", as_embedding, as_matrix, turned
    ),
    "Conv1D": Case(
        "GPT2", {"vocab_size": 24, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8},
        "transformer.h.0.mlp.c_fc.weight", as_embedding, as_matrix, turned,
    ),
    "3-D convolution": Case(
        "Mamba", SMALL | {"state_size": 4}, "backbone.layers.0.mixer.conv1d.weight", as_batch, as_one_matrix, flattened
    ),
    "fused experts": Case(
        "GptOss", SMALL | ATTENTION | {"num_local_experts": 3, "num_experts_per_tok": 1},
        "model.layers.0.mlp.experts.gate_up_proj", as_batch, as_one_matrix, flattened,
    ),
}  # fmt: skip
every_case = pytest.mark.parametrize("case", CASES)


def family_of(case: Case, folder: Path) -> list[Path]:
    """A base and two models that are changes of it, in float32."""
    config = getattr(transformers, f"{case.model}Config")(**case.config)
    suffix = "LMHeadModel" if case.model == "GPT2" else "ForCausalLM"
    torch.manual_seed(0)
    getattr(transformers, case.model + suffix)(config).float().save_pretrained(folder / "base")
    weights = {name: one.float() for name, one in load_file(folder / "base" / "model.safetensors").items()}
    weights = changed(weights, 3, 0.5)  # what begins as zeros or ones says nothing
    text = json.loads((folder / "base" / "config.json").read_text())
    for number, name in enumerate(("base", "m1", "m2")):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(text))
        held = weights if number == 0 else changed(weights, number, 0.2 * number)
        (folder / name / "model.safetensors").unlink(missing_ok=True)
        save_file(held, folder / name / "model.safetensors", {"format": "pt"})
    return [folder / name for name in ("base", "m1", "m2")]


def merged_and_read(case: Case, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tensor as it is merged, as it should be, and as it would be if it were taken for another kind."""
    folders = family_of(case, folder)
    widen.merge(folders[0], folders[1:], folder / "out", widen.Settings(out_dtype="float32"))
    merged = {name: one for file in (folder / "out").glob("*.safetensors") for name, one in load_file(file).items()}
    values = [load_file(one / "model.safetensors")[case.tensor].double().numpy() for one in folders]
    return (
        merged[case.tensor].double().numpy(), case.right(values).astype(float), case.wrong(values).astype(float)
    )  # fmt: skip


@every_case
def test_a_tensor_is_merged_as_its_kind(case: str, tmp_path: Path) -> None:
    merged, right, wrong = merged_and_read(CASES[case], tmp_path)
    assert np.allclose(merged, right, rtol=2e-7, atol=1e-12)
    assert np.mean(np.isclose(merged, wrong, rtol=1e-4, atol=1e-8)) < 0.9


@every_case
def test_taken_for_the_wrong_kind_it_would_be_seen(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Geometry):
        @classmethod
        def of(cls, shape: tuple[int, ...], transposed: bool) -> Geometry:
            found = Geometry.of(shape, transposed)
            return CASES[case].flipped(found) if shape == wanted else found

    folders = family_of(CASES[case], tmp_path / "shape")
    wanted = tuple(load_file(folders[0] / "model.safetensors")[CASES[case].tensor].shape)
    monkeypatch.setattr(plan, "Geometry", Wrong)
    merged, right, wrong = merged_and_read(CASES[case], tmp_path)
    assert np.allclose(merged, wrong, rtol=2e-7, atol=1e-12)
    assert not np.allclose(merged, right, rtol=2e-7, atol=1e-12)
