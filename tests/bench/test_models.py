"""Generated checkpoints: real safetensors files, the same on every run, different enough from each other."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench import models
from bench.models import WEIGHTS_FILE, Normals, generate, models_for, update
from bench.sizes import SIZES, Size

TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return generate(tmp_path_factory.mktemp("models"), TINY)


def digest(folder: Path) -> str:
    return sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def test_the_same_bytes_every_time(folders: dict[str, Path], tmp_path: Path) -> None:
    again = generate(tmp_path, TINY)
    assert [digest(folder) for folder in again.values()] == [digest(folder) for folder in folders.values()]
    assert len({digest(folder) for folder in folders.values()}) == 3


def test_bytes_do_not_depend_on_how_the_work_is_shared(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "ALONE", 0)
    monkeypatch.setattr(models, "SPAN", 1000)
    shared = generate(tmp_path, TINY)
    assert [digest(folder) for folder in shared.values()] == [digest(folder) for folder in folders.values()]


def test_names_shapes_and_types(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        found = weights(folder)
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == TINY.shapes()
        assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
        assert sum(tensor.numel() for tensor in found.values()) == TINY.parameters


def test_the_architecture_is_one_that_transformers_knows(folders: dict[str, Path]) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folders["base"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == TINY.shapes()


@pytest.mark.parametrize(("name", "billions"), [("0.43b", 0.44), ("1.78b", 1.78)])
def test_sizes_are_what_their_names_say(name: str, billions: float) -> None:
    assert SIZES[name].parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_no_tensor_is_constant_or_zero_and_none_resembles_another(folders: dict[str, Path]) -> None:
    found = weights(folders["base"])
    for tensor in found.values():
        assert tensor.double().std() == pytest.approx(0.02, rel=0.3)
        assert len(tensor.unique()) > 40
    rows = torch.stack([tensor.double().flatten()[:64] for tensor in found.values()])
    alike = torch.corrcoef(rows) - torch.eye(len(rows))
    assert alike.abs().max() < 0.6


@pytest.mark.parametrize(("name", "size"), [("tuned", 0.02), ("pretrained", 0.4)])
def test_models_differ_from_the_base_as_much_as_they_say(folders: dict[str, Path], name: str, size: float) -> None:
    base, changed = weights(folders["base"]), weights(folders[name])
    for tensor in ("lm_head.weight", "model.layers.1.mlp.down_proj.weight"):
        before, after = base[tensor].double(), changed[tensor].double()
        assert (after - before).norm() / before.norm() == pytest.approx(size, rel=0.1)
        assert (after != before).double().mean() > 0.8


def test_numbers_are_normal_and_do_not_repeat() -> None:
    row = np.concatenate([Normals("tensor", "base").numbers(first, 1 << 16) for first in range(0, 1 << 20, 1 << 16)])
    assert row.mean() == pytest.approx(0, abs=0.005)
    assert row.std() == pytest.approx(1, rel=0.005)
    assert (row**4).mean() == pytest.approx(3, rel=0.02)
    assert len(np.unique(row)) > 0.9 * row.size
    for period in models.PERIODS:
        assert not np.array_equal(row[:1000], row[period : period + 1000])


@pytest.mark.parametrize("layers", [2, 24])
def test_an_update_changes_every_twentieth_tensor_and_nothing_else(layers: int, tmp_path: Path) -> None:
    size = Size(layers=layers, hidden=16, inner=24, heads=2, vocabulary=64)
    source = generate(tmp_path / "models", size)["tuned"]
    before = digest(source)
    promised = update(source, tmp_path / "updated", 0.05, seed=1)
    assert digest(source) == before
    old, new = weights(source), weights(tmp_path / "updated")
    assert promised == sorted(old)[19::20]
    assert [name for name in sorted(old) if not torch.equal(old[name], new[name])] == promised
    for name in promised:
        assert (new[name].double() - old[name].double()).norm() / old[name].double().norm() < 0.1
    update(source, tmp_path / "other", 0.05, seed=2)
    assert digest(tmp_path / "other") != digest(tmp_path / "updated")


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    first = models_for(tmp_path, TINY)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert models_for(tmp_path, TINY) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times
    assert first.changed == ("model.layers.1.self_attn.k_proj.bias",)
    facts = first.facts()
    assert (facts["tensors"], facts["updated_tensors"]) == (27, 1)
    assert facts["updated_share"] == 64 / TINY.parameters
