"""Hostile and damaged checkpoints: refused with model, file and tensor named, nothing written, nothing executed."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import widen
from tests.build import LLAMA, changed, family, llama_weights, write_checkpoint
from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused

NAME = "model.layers.1.mlp.up_proj.weight"


def refused(tmp_path: Path, pattern: str) -> str:
    """The message with which merging tmp_path/m1 into tmp_path/base is refused; nothing may have been written."""
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(InputsRefused, match=pattern) as caught:
        widen.merge(tmp_path / "base", [tmp_path / "m1"], tmp_path / "out")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    return str(caught.value)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    family(tmp_path, sizes=(0.1,))
    return tmp_path / "m1"


def rewrite(folder: Path, change) -> None:
    """Change a checkpoint's tensors and write it again."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def reconfigure(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | changes))


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_truncated_file(keep: int, pair: Path, tmp_path: Path) -> None:
    path = pair / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors" in refused(tmp_path, "m1: .*truncated")


def test_a_file_longer_than_its_header_says(pair: Path, tmp_path: Path) -> None:
    with (pair / "model.safetensors").open("ab") as file:
        file.write(b"\0" * 64)
    refused(tmp_path, "m1: .*truncated or corrupt")


def test_an_index_that_names_a_missing_file(pair: Path, tmp_path: Path) -> None:
    weights = load_file(pair / "model.safetensors")
    (pair / "model.safetensors").rename(pair / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(weights, "model-00001-of-00002.safetensors") | {NAME: "model-00002-of-00002.safetensors"}
    (pair / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    message = refused(tmp_path, "no such file")
    assert "model-00002-of-00002.safetensors" in message
    assert NAME in message


@pytest.mark.parametrize("target", ["../elsewhere.safetensors", "/etc/passwd", "a/../../x.safetensors", "..\\x", ""])
def test_an_index_that_leaves_its_folder(target: str, pair: Path, tmp_path: Path) -> None:
    (pair / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (pair / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NAME: target}}))
    assert "was not opened" in refused(tmp_path, "outside the checkpoint's folder").replace("\n", " ")


def test_links_into_a_cache_are_followed(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (pair / "model.safetensors").rename(tmp_path / "blobs" / "abc")
    (pair / "model.safetensors").symlink_to(Path("..") / "blobs" / "abc")
    widen.merge(tmp_path / "base", [pair], tmp_path / "out")
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_checkpoint_is_not_opened(file: str, pair: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (pair / "model.safetensors").unlink()
    import pickle

    (pair / file).write_bytes(pickle.dumps(Bomb()))
    assert "widen convert" in refused(tmp_path, f"pickle weights \\({file}\\)")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_came_with_the_checkpoint_is_not_run(file: str, pair: Path, tmp_path: Path) -> None:
    path = pair / file
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (pair / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})")
    assert "nothing was executed" in refused(tmp_path, f"{file} has `auto_map`")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("folder", ["m1", "base"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_that_are_not_finite(value: float, folder: str, dtype: torch.dtype, tmp_path: Path) -> None:
    family(tmp_path, dtype, sizes=(0.1,))
    rewrite(tmp_path / folder, lambda weights: weights[NAME].view(-1).__setitem__(slice(3, 5), value))
    message = refused(tmp_path, "not finite")
    assert message.startswith(f"{folder}: {NAME}")
    assert ("2 NaN, 0 Inf" if value != value else "0 NaN, 2 Inf") in message


def test_another_shape_a_missing_and_an_extra_tensor_are_all_named(pair: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[NAME] = weights[NAME][:-1].clone()
        del weights["model.norm.weight"]
        weights["model.extra.weight"] = torch.zeros(3, dtype=torch.bfloat16)

    rewrite(pair, change)
    lines = refused(tmp_path, "other shape").split("\n")
    assert len(lines) == 3
    assert any(f"m1: {NAME}: other shape: expected [48, 32], found [47, 32]" in line for line in lines)
    assert any("m1: model.norm.weight: missing tensor" in line for line in lines)
    assert any("m1: model.extra.weight: extra tensor" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value"), [("rope_theta", 500000.0), ("num_attention_heads", 8), ("rms_norm_eps", 1e-5)]
)
def test_another_configuration(key: str, value: float, pair: Path, tmp_path: Path) -> None:
    reconfigure(pair, **{key: value})
    assert "other configuration" in refused(tmp_path, f"m1: config.json {'rope' if 'rope' in key else key}")
    widen.merge(
        tmp_path / "base", [pair], tmp_path / "out",
        allow_config=["rope_parameters", key, "head_dim"],
    )  # fmt: skip


@pytest.mark.parametrize("key", ["transformers_version", "torch_dtype", "use_cache", "eos_token_id"])
def test_configuration_that_changes_no_meaning_is_let_through(key: str, pair: Path, tmp_path: Path) -> None:
    values = {"transformers_version": "4.0", "torch_dtype": "float16", "use_cache": False, "eos_token_id": 3}
    reconfigure(pair, **{key: values[key]})
    widen.merge(tmp_path / "base", [pair], tmp_path / "out")


def test_spelt_out_defaults_are_the_same_configuration(pair: Path, tmp_path: Path) -> None:
    reconfigure(pair, rope_theta=10000.0, attention_bias=False, head_dim=8)
    widen.merge(tmp_path / "base", [pair], tmp_path / "out")


def tokenizer(vocabulary: dict[str, int], **extra: object) -> str:
    return json.dumps({"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": [], **extra})


def test_another_tokenizer(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "base" / "tokenizer.json").write_text(tokenizer({"a": 0, "b": 1}))
    (pair / "tokenizer.json").write_text(tokenizer({"a": 0, "b": 1}, truncation={"max_length": 3}))
    widen.merge(tmp_path / "base", [pair], tmp_path / "fine")
    (tmp_path / "fine").rename(tmp_path / "elsewhere")
    (pair / "tokenizer.json").write_text(tokenizer({"b": 0, "a": 1}))
    refused(tmp_path, "m1: tokenizer.json model: other tokenizer")
    (pair / "tokenizer.json").unlink()
    (pair / "vocab.json").write_text("{}")
    refused(tmp_path, "tokenizers cannot be compared")


def test_a_quantised_configuration(pair: Path, tmp_path: Path) -> None:
    reconfigure(pair, quantization_config={"quant_method": "gptq"})
    refused(tmp_path, "m1: .*quantised weights \\(gptq\\)")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.float8_e4m3fn, torch.uint8])
def test_a_type_that_cannot_be_merged(dtype: torch.dtype, pair: Path, tmp_path: Path) -> None:
    rewrite(pair, lambda weights: weights.__setitem__(NAME, torch.zeros(48, 32).to(dtype)))
    message = refused(tmp_path, "is stored as")
    assert NAME in message
    assert "BF16, F16, F32" in message


def test_an_unknown_architecture(pair: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "base", pair):
        reconfigure(folder, architectures=["MysteryForCausalLM"])
    refused(tmp_path, "base: .*MysteryForCausalLM")
    for folder in (tmp_path / "base", pair):
        reconfigure(folder, model_type="mystery", architectures=["LlamaForCausalLM"])
    refused(tmp_path, "'mystery'")


@pytest.mark.parametrize("nonsense", [{"hidden_size": "wide"}, {"hidden_size": -4}, {"num_attention_heads": 0}])
def test_a_configuration_that_makes_no_sense(nonsense: dict, pair: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "base", pair):
        reconfigure(folder, **nonsense)
    refused(tmp_path, "base: config.json does not describe a llama model")


def test_no_checkpoint_at_all(pair: Path, tmp_path: Path) -> None:
    (pair / "model.safetensors").unlink()
    refused(tmp_path, "neither model.safetensors nor")
    (pair / "config.json").write_text("{")
    refused(tmp_path, "not valid JSON")
    (pair / "config.json").unlink()
    refused(tmp_path, "has no config.json")


def test_a_tensor_outside_its_shard_and_a_lost_one(tmp_path: Path) -> None:
    weights = llama_weights()
    write_checkpoint(tmp_path / "base", weights)
    folder = write_checkpoint(tmp_path / "m1", changed(weights, 1, 0.1), shards=2)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    first, second = sorted(set(index["weight_map"].values()))
    moved = next(name for name, file in index["weight_map"].items() if file == first)
    index["weight_map"][moved] = second
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert moved in refused(tmp_path, "does not place there")


def header_file(folder: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {
            "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "y": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"x": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"x": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"x": {"shape": [1]}},
        {"x": 3},
        [],
        b"\xff\xfe",
        b'{"x":1,"x":2}',
        b"[" * 100_000,
    ],
)
def test_lying_headers(header: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    header_file(tmp_path, header, b"\0" * 4)
    with pytest.raises(InputsRefused, match=r"model\.safetensors"):
        Checkpoint.open(tmp_path)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 700), value=st.integers(0, 255), extra=st.binary(max_size=8))
def test_no_damage_to_a_header_is_more_than_a_refusal(
    position: int, value: int, extra: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "config.json").write_text(json.dumps(LLAMA))
    save_file({"x": torch.ones(3, 2), "y": torch.ones(4)}, folder / "model.safetensors", {"format": "pt"})
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[position % len(data)] = value
    (folder / "model.safetensors").write_bytes(bytes(data) + extra)
    try:
        opened = Checkpoint.open(folder)
        for name in opened.tensors:
            opened.tensor(name)
    except InputsRefused as error:
        assert "model.safetensors" in str(error)
