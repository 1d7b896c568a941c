"""LoRA adapters against PEFT's own merges (tests/peft), and what cannot be merged exactly, refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import widen
from widen.adapter import Adapter, adapted
from widen.checkpoint import Checkpoint
from widen.convert import convert
from widen.errors import InputsRefused, RecipeError

PEFT = Path(__file__).parents[1] / "peft"
CASES: dict[str, str] = json.loads((PEFT / "cases.json").read_text())
QUERY = "model.layers.0.self_attn.q_proj.weight"
LORA_A = f"base_model.model.{QUERY.replace('.weight', '.lora_A.weight')}"


def opened(case: str) -> tuple[Checkpoint, Adapter]:
    return Checkpoint.open(PEFT / CASES[case]), Adapter.open(PEFT / case)


def merged(case: str, dtype: str) -> dict[str, np.ndarray]:
    """What PEFT made of every tensor that it changed."""
    with safe_open(PEFT / case / f"merged-{dtype}.safetensors", "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_peft_merges_in_float64_rounded_once(case: str) -> None:
    base, adapter = opened(case)
    expected = merged(case, "float64")
    unchanged = set(adapter.names(base)) - set(expected)
    for name in expected:
        ours = adapter.tensor(base, name)
        assert ours.dtype == np.float32
        rounded = expected[name].astype(np.float32)
        # PEFT sums in another order: its last bit of float64 decides only where a float32 lies halfway.
        assert np.max(np.abs(ours.view(np.int32) - rounded.view(np.int32))) <= 1, name
        assert np.mean(ours == rounded) > 0.99, name
    for name in unchanged:  # saved whole, and equal to the base's
        assert np.array_equal(adapter.tensor(base, name), opened_values(base, name)), name


def opened_values(checkpoint: Checkpoint, name: str) -> np.ndarray:
    return load_file(checkpoint.folder / "model.safetensors")[name].float().numpy()


def test_how_far_it_is_from_peft_in_float32() -> None:
    """The documented figure: PEFT's own rounding, of product, scale and sum."""
    largest = 0.0
    for case in CASES:
        base, adapter = opened(case)
        for name, theirs in merged(case, "float32").items():
            largest = max(largest, np.abs(adapter.tensor(base, name) - theirs).max() / np.abs(theirs).max())
    assert 5e-8 < largest < 4e-7, largest


@pytest.mark.parametrize("case", ["rslora", "dora", "conv1d", "conv1d-dora", "embedding"])
def test_blocks_change_no_bit(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = opened(case)
    whole = {name: adapter.tensor(base, name) for name in adapter.names(base)}
    monkeypatch.setattr(adapted, "BLOCK_ELEMENTS", 17)
    for name, expected in whole.items():
        assert len(list(adapter.on(base).pieces(name))) > 1 or expected.size < 40
        assert np.array_equal(adapter.tensor(base, name), expected), name


def test_a_base_stored_as_the_bare_model_is_found(tmp_path: Path) -> None:
    shutil.copytree(PEFT / "gpt2", tmp_path / "gpt2")
    weights = load_file(tmp_path / "gpt2" / "model.safetensors")
    bare = {name.removeprefix("transformer."): one for name, one in weights.items()}
    save_file(bare, tmp_path / "gpt2" / "model.safetensors")
    base, adapter = opened("conv1d")
    ours = Checkpoint.open(tmp_path / "gpt2")
    assert adapter.names(ours) == tuple(name.removeprefix("transformer.") for name in adapter.names(base))
    name = "transformer.h.0.attn.c_attn.weight"
    assert np.array_equal(adapter.tensor(ours, name.removeprefix("transformer.")), adapter.tensor(base, name))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A copy of an adapter to spoil."""
    return Path(shutil.copytree(PEFT / "plain", tmp_path / "tone"))


def reconfigured(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"peft_type": "IA3"}, "expected peft_type LORA, found 'IA3'"),
        ({"trainable_token_indices": [3]}, "`trainable_token_indices`: its new token rows"),
        ({"alora_invocation_tokens": [1]}, "`alora_invocation_tokens`"),
        ({"layer_replication": [[0, 1]]}, "`layer_replication`"),
        ({"megatron_config": {"x": 1}}, "`megatron_config`"),
        ({"target_parameters": ["experts.down_proj"]}, "`target_parameters`"),
        ({"use_qalora": True}, "`use_qalora`"),
        ({"something_new": 1}, "`something_new`"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*changed the base"),
        ({"init_lora_weights": "loftq"}, "loftq.*changed the base"),
        ({"r": 0}, "r: expected a whole number of at least 1, found 0"),
        ({"r": "3"}, "r: expected a number"),
        ({"lora_alpha": None}, "lora_alpha: expected a number"),
        ({"use_rslora": 1}, "use_rslora: expected true or false"),
        ({"rank_pattern": {"q_proj": 2.5}}, "whole number"),
        ({"rank_pattern": ["q_proj"]}, "expected a mapping"),
        ({"alpha_pattern": {"(a+)+": 2}}, "no expression that is matched here"),
        ({"alpha_pattern": {"[": 2}}, "no expression that is matched here"),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_merged_exactly_is_refused(
    changes: dict[str, Any], expected: str, plain: Path
) -> None:
    reconfigured(plain, **changes)
    with pytest.raises(InputsRefused, match=expected) as caught:
        Adapter.open(plain)
    assert str(caught.value).startswith("tone: adapter_config.json")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda held: held.pop(LORA_A), "lacks one of its matrices"),
        (lambda held: held.update({"x.lora_A.weight": torch.zeros(3, 8)}), "no part of a LoRA adapter"),
        (lambda held: held.update({"base_model.model.x.lora_C.weight": torch.zeros(3)}), "no part of a LoRA adapter"),
        (lambda held: held.update({"base_model.model.y.weight": torch.zeros(3)}), r"meant for y\.weight of llama.*not"),
        (lambda held: held.update({LORA_A: torch.zeros(4, 8)}), r"wants shape \[3, 8\], found \[4, 8\]"),
        (lambda held: held.update({LORA_A: torch.zeros(3, 9)}), r"wants shape \[3, 8\], found \[3, 9\]"),
        (
            lambda held: held.update({LORA_A.replace("A.weight", "magnitude_vector"): torch.zeros(8)}),
            "use_dora false.*has a magnitude vector",
        ),
        (
            lambda held: held.update({"base_model.model.model.norm.weight": torch.zeros(9)}),
            r"model\.norm\.weight.*wants shape \[8\], found \[9\]",
        ),
    ],
)  # fmt: skip
def test_tensors_that_fit_nothing_are_refused_naming_both(change: Any, expected: str, plain: Path) -> None:
    held = load_file(plain / "adapter_model.safetensors")
    change(held)
    save_file(held, plain / "adapter_model.safetensors")
    with pytest.raises(InputsRefused, match=expected):
        Adapter.open(plain).names(Checkpoint.open(PEFT / "llama"))


@pytest.mark.parametrize("stored", [False, True])
def test_a_weight_that_the_model_ties_is_not_adapted_apart(stored: bool, tmp_path: Path) -> None:
    shutil.copytree(PEFT / "llama", tmp_path / "llama")
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    (tmp_path / "llama" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    weights = load_file(tmp_path / "llama" / "model.safetensors")
    kept = {name: one for name, one in weights.items() if stored or name != "lm_head.weight"}
    save_file(kept, tmp_path / "llama" / "model.safetensors")
    with pytest.raises(InputsRefused, match=r"lm_head\.weight of llama.*tied weights"):
        Adapter.open(PEFT / "embedding").names(Checkpoint.open(tmp_path / "llama"))


def test_an_adapter_in_pickle_is_refused_and_converted(plain: Path, tmp_path: Path) -> None:
    torch.save(load_file(plain / "adapter_model.safetensors"), plain / "adapter_model.bin")
    (plain / "adapter_model.safetensors").unlink()
    with pytest.raises(InputsRefused, match=r"adapter_model\.bin.*widen convert"):
        Adapter.open(plain)
    convert(plain, tmp_path / "out")
    base, adapter = opened("plain")
    assert np.array_equal(Adapter.open(tmp_path / "out").tensor(base, QUERY), adapter.tensor(base, QUERY))


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def full(case: str, folder: Path) -> Path:
    """The base with the adapter as a checkpoint in float32, as `Adapter.tensor` has it."""
    base, adapter = opened(case)
    weights = {name: one.float() for name, one in load_file(base.folder / "model.safetensors").items()}
    weights |= {name: torch.from_numpy(adapter.tensor(base, name)) for name in adapter.names(base)}
    folder.mkdir()
    shutil.copy(base.folder / "config.json", folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("cached", [True, False])
def test_a_merge_with_adapters_is_the_merge_of_the_models_that_they_make(cached: bool, tmp_path: Path) -> None:
    """One lies on the base without being told so, one on another model."""
    chat = full("plain", tmp_path / "chat")
    asked = widen.Settings(composed=[["llama"], ["chat", "patterns"], ["saved"]], out_dtype="float32")
    resources = widen.Resources("cpu", cache=tmp_path / "cache" if cached else None)
    inputs = [chat, PEFT / "patterns", PEFT / "saved"]
    manifest = widen.merge(PEFT / "llama", inputs, tmp_path / "out", asked, resources=resources)
    assert [(one.role, one.name) for one in manifest.inputs] == [
        ("base", "llama"), ("model", "chat"), ("adapter", "patterns"), ("adapter", "saved"),
    ]  # fmt: skip
    assert set(manifest.inputs[2].files) == {"adapter_config.json"}
    on_chat = {name: one.clone() for name, one in written(chat).items()}
    adapter, base = Adapter.open(PEFT / "patterns"), Checkpoint.open(chat)
    on_chat |= {name: torch.from_numpy(adapter.tensor(base, name)) for name in adapter.names(base)}
    (tmp_path / "both").mkdir()
    shutil.copy(chat / "config.json", tmp_path / "both")
    save_file(on_chat, tmp_path / "both" / "model.safetensors", {"format": "pt"})
    plainly = [tmp_path / "both", full("saved", tmp_path / "whole")]
    expected = widen.merge(PEFT / "llama", plainly, tmp_path / "plain", widen.Settings(out_dtype="float32"))
    assert {n: t.sha256 for n, t in manifest.tensors.items()} == {n: t.sha256 for n, t in expected.tensors.items()}
    again = widen.merge(PEFT / "llama", inputs, tmp_path / "out", asked, resources=resources)
    assert again.digest == manifest.digest


def test_another_scale_is_another_overlay(plain: Path, tmp_path: Path) -> None:
    asked, cached = widen.Settings(out_dtype="float32"), widen.Resources("cpu", cache=tmp_path / "cache")
    first = widen.merge(PEFT / "llama", [plain], tmp_path / "first", asked, resources=cached)
    reconfigured(plain, lora_alpha=8)
    second = widen.merge(PEFT / "llama", [plain], tmp_path / "second", asked, resources=cached)
    fresh = widen.merge(PEFT / "llama", [plain], tmp_path / "fresh", asked)
    assert second.tensors[QUERY].sha256 == fresh.tensors[QUERY].sha256 != first.tensors[QUERY].sha256


def test_an_adapter_without_a_model_lies_on_the_base(tmp_path: Path) -> None:
    out = widen.Settings(out_dtype="float32")
    ours = widen.merge(PEFT / "llama", [PEFT / "plain"], tmp_path / "out", out)
    expected = widen.merge(PEFT / "llama", [full("plain", tmp_path / "whole")], tmp_path / "plain", out)
    assert {n: t.sha256 for n, t in ours.tensors.items()} == {n: t.sha256 for n, t in expected.tensors.items()}


def test_what_stands_in_the_wrong_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputsRefused, match=r"plain: .* holds an adapter, not a model, and stands where the base is"):
        widen.merge(PEFT / "plain", [PEFT / "llama"], tmp_path / "out")
    asked = widen.Settings(composed=[["llama"], ["plain", "llama"]])
    with pytest.raises(InputsRefused, match="llama is a model; expected an adapter"):
        widen.merge(PEFT / "llama", [PEFT / "plain"], tmp_path / "out", asked)
    asked = widen.Settings(composed=[["llama"], ["chat", "plain"]])
    with pytest.raises(RecipeError, match="there is no input chat; given are llama, plain"):
        widen.merge(PEFT / "llama", [PEFT / "plain"], tmp_path / "out", asked)
    assert not (tmp_path / "out").exists()
