"""The merge as a function of bytes: what may not change a tensor, what must, and what an independent reading says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import widen
from tests import oracle
from tests.build import LLAMA, changed, family, llama_weights, write_checkpoint
from widen.errors import InputsRefused, OutputExists, RecipeError
from widen.manifest import Manifest


def tensor_digests(folder: Path) -> dict[str, str]:
    return {name: tensor.sha256 for name, tensor in Manifest.load(folder).tensors.items()}


def merged_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.6, 1.25)])
def test_merge_equals_an_independent_reading_of_the_paper(
    dtype: torch.dtype, t: float, s: float, tmp_path: Path
) -> None:
    base, *models = family(tmp_path, dtype)
    widen.merge(base, models, tmp_path / "out", widen.Settings(t=t, s=s))
    inputs = [load_file(folder / "model.safetensors") for folder in (base, *models)]
    differ = elements = 0
    for name, merged in merged_weights(tmp_path / "out").items():
        values = [tensors[name].double().numpy() for tensors in inputs]
        merge = oracle.merge_vector if merged.dim() == 1 else oracle.merge_matrix
        merge = oracle.merge_embedding if "embed_tokens" in name else merge
        answer = torch.from_numpy(merge(values[0], values[1:], t, s).astype(np.float64)).float().to(dtype)
        differ += int((merged != answer).sum())
        elements += merged.numel()
    assert differ <= elements * 1e-4


def test_threads_shards_and_stored_types_change_no_tensor(tmp_path: Path) -> None:
    base, one, two = family(tmp_path / "single")
    weights = [load_file(folder / "model.safetensors") for folder in (base, one, two)]
    split = [write_checkpoint(tmp_path / f"split{k}", tensors, shards=k + 2) for k, tensors in enumerate(weights)]
    wide = {name: tensor.float() for name, tensor in weights[2].items()}
    mixed = [base, split[1], write_checkpoint(tmp_path / "wide", wide)]
    runs = {
        "plain": (base, [one, two], widen.Resources(), widen.Settings()),
        "one thread": (base, [one, two], widen.Resources(threads=1), widen.Settings()),
        "many threads": (base, [one, two], widen.Resources(threads=7), widen.Settings()),
        "many shards in": (split[0], split[1:], widen.Resources(), widen.Settings()),
        "many shards out": (base, [one, two], widen.Resources(), widen.Settings(shard_bytes=5000)),
        "a bfloat16 model stored as float32": (mixed[0], mixed[1:], widen.Resources(), widen.Settings()),
    }
    digests = {}
    for label, (root, models, resources, settings) in runs.items():
        out = tmp_path / label
        widen.merge(root, models, out, settings, resources=resources)
        digests[label] = tensor_digests(out)
    assert len(list((tmp_path / "many shards out").glob("model-*.safetensors"))) > 5
    for label, found in digests.items():
        assert found == digests["plain"], label


def test_the_manifest_says_what_the_files_hold(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    returned = widen.merge(base, models, tmp_path / "out", widen.Settings(shard_bytes=20_000))
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.to_json() == json.loads(json.dumps(returned.to_json()))
    assert manifest.damage(tmp_path / "out") == []
    assert [(one.role, one.name) for one in manifest.inputs] == [("base", "base"), ("model", "m1"), ("model", "m2")]
    on_disk = {path.name for path in (tmp_path / "out").iterdir()}
    assert on_disk == {*manifest.files, "widen-manifest.json"}
    shard = tmp_path / "out" / next(name for name in manifest.files if name.endswith(".safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert [line.split(":")[0] for line in manifest.damage(tmp_path / "out")] == [shard.name]


def test_two_runs_give_the_same_folder_to_the_byte(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    for name in ("first", "second"):
        recipe = widen.manifest.Recipe("r", "0")
        widen.merge(base, models, tmp_path / name, recipe=recipe)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_one_model_alone_with_weight_one_is_that_model(tmp_path: Path) -> None:
    base, model = family(tmp_path, sizes=(0.3,))
    widen.merge(base, [model], tmp_path / "out")
    expected = load_file(model / "model.safetensors")
    for name, tensor in merged_weights(tmp_path / "out").items():
        assert torch.equal(tensor, expected[name]), name


def test_columns_that_no_model_touched_stay_the_base(tmp_path: Path) -> None:
    weights = llama_weights()
    touched = changed(weights, 1, 0.2)
    name = "model.layers.0.mlp.up_proj.weight"
    touched[name][:, ::2] = weights[name][:, ::2]
    base = write_checkpoint(tmp_path / "base", weights)
    model = write_checkpoint(tmp_path / "model", touched)
    widen.merge(base, [model], tmp_path / "out", widen.Settings(s=0.5))
    merged = merged_weights(tmp_path / "out")[name]
    assert torch.equal(merged[:, ::2], weights[name][:, ::2])
    assert not torch.equal(merged[:, 1::2], weights[name][:, 1::2])


def test_the_order_of_two_models_changes_no_weight(tmp_path: Path) -> None:
    base, one, two = family(tmp_path)
    widen.merge(base, [one, two], tmp_path / "ab")
    widen.merge(base, [two, one], tmp_path / "ba")
    assert tensor_digests(tmp_path / "ab") == tensor_digests(tmp_path / "ba")


def test_settings_change_the_result(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    digests = set()
    for number, settings in enumerate([widen.Settings(), widen.Settings(t=0.5), widen.Settings(s=0.9)]):
        digests.add(widen.merge(base, models, tmp_path / str(number), settings).digest)
    assert len(digests) == 3


def test_a_tied_head_is_not_merged_even_where_it_is_stored(tmp_path: Path) -> None:
    config = LLAMA | {"tie_word_embeddings": True}
    weights = llama_weights(config=config)
    model = changed(weights, 1, 0.1)
    stored = model | {"lm_head.weight": model["model.embed_tokens.weight"].clone()}
    base = write_checkpoint(tmp_path / "base", weights, config)
    folder = write_checkpoint(tmp_path / "model", stored, config)
    manifest = widen.merge(base, [folder], tmp_path / "out")
    assert "lm_head.weight" not in manifest.tensors
    assert any("lm_head.weight" in note for note in manifest.notes)


def test_conv1d_columns_are_rows_and_three_dimensions_are_a_batch(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=40, n_positions=8, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    moved = changed(weights, 1, 0.2), changed(weights, 2, 0.4)
    models = []
    for number, tensors in enumerate(moved):
        models.append(tmp_path / f"m{number}")
        shutil.copytree(tmp_path / "base", models[-1])
        (models[-1] / "model.safetensors").unlink()
        from safetensors.torch import save_file

        save_file(tensors, models[-1] / "model.safetensors", {"format": "pt"})
    manifest = widen.merge(tmp_path / "base", models, tmp_path / "out")
    kinds = {name: tensor.kind for name, tensor in manifest.tensors.items()}
    name = next(name for name in kinds if name.endswith("c_attn.weight"))
    assert kinds[name] == "conv1d"
    assert {kind for name, kind in kinds.items() if name.endswith(("wte.weight", "wpe.weight"))} == {"embedding"}
    values = [tensors[name].double().numpy() for tensors in (weights, *moved)]
    answer = oracle.merge_embedding(values[0], values[1:], 1.0, 1.0).astype(np.float64)
    merged = merged_weights(tmp_path / "out")[name]
    assert np.allclose(merged.double().numpy(), answer, rtol=1e-6, atol=1e-8)
    GPT2LMHeadModel.from_pretrained(tmp_path / "out")


def test_the_output_loads_and_carries_companions(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base, one, two = family(tmp_path)
    (base / "generation_config.json").write_text('{"max_length": 7}')
    template = "{{ messages }}"
    for folder in (one, two):
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    manifest = widen.merge(base, [one, two], tmp_path / "out", widen.Settings(out_dtype="float16", shard_bytes=30_000))
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.float16
    assert model.generation_config.max_length == 7
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == template
    assert "tokenizer: base has none, taken from m1" in manifest.notes


def test_a_checkpoint_without_tokenizer_is_merged_and_says_so(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    manifest = widen.merge(base, models, tmp_path / "out")
    assert "tokenizer: no input has one, so the merged checkpoint has none" in manifest.notes


def test_a_rerun_keeps_an_intact_output_and_repairs_a_damaged_one(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    out = tmp_path / "out"
    widen.merge(base, models, out)
    before = (out / "model.safetensors").stat().st_ino
    widen.merge(base, models, out)
    assert (out / "model.safetensors").stat().st_ino == before
    (out / "model.safetensors").write_bytes(b"damaged")
    widen.merge(base, models, out)
    assert Manifest.load(out).damage(out) == []


def test_new_inputs_of_the_same_recipe_replace_the_output_in_one_step(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    first = widen.merge(base, models, tmp_path / "out")
    shutil.rmtree(models[0])
    write_checkpoint(models[0], changed(llama_weights(), 9, 0.1))
    second = widen.merge(base, models, tmp_path / "out")
    assert first.digest != second.digest
    assert Manifest.load(tmp_path / "out").digest == second.digest
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("content", ["nothing", "a file", "another recipe", "a damaged manifest"])
def test_a_folder_of_somebody_else_is_left_untouched(content: str, tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    out = tmp_path / "out"
    if content == "another recipe":
        widen.merge(base, models, out, widen.Settings(t=0.5))
    else:
        out.mkdir()
    if content == "a file":
        (out / "thesis.tex").write_text("years")
    if content == "a damaged manifest":
        (out / "widen-manifest.json").write_text('{"schema": "widen-manifest/1"}')
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OutputExists, match="out exists and was"):
        widen.merge(base, models, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_input_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    base, *models = family(tmp_path)

    class Meddling(widen.progress.Silent):
        def stage(self, label: str, total: int):
            if label == "merge":
                path = models[0] / "model.safetensors"
                path.write_bytes(path.read_bytes())
            return super().stage(label, total)

    with pytest.raises(InputsRefused, match="changed while it was merged"):
        widen.merge(base, models, tmp_path / "out", progress=Meddling())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"t": float("nan")},
        {"s": -1},
        {"t": "1"},
        {"s": True},
        {"method": "wyden"},
        {"out_dtype": "int8"},
        {"shard_bytes": 0},
    ],
)
def test_wrong_settings_are_named(wrong: dict) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong)).split("_")[0].replace("out", "output")):
        widen.Settings(**wrong)


def test_statistics_are_measured_once_and_only_for_what_changed(tmp_path: Path) -> None:
    base, one, two = family(tmp_path)
    notes: list[str] = []

    class Listening(widen.progress.Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    old = 10**9
    import os

    for folder in (base, one, two):
        for path in folder.iterdir():
            os.utime(path, (old, old))
    first = widen.merge(
        base, [one, two], tmp_path / "a", resources=widen.Resources(cache=tmp_path / "cache"), progress=Listening()
    )
    assert not [note for note in notes if "statistics" in note]
    second = widen.merge(
        base,
        [one, two],
        tmp_path / "b",
        widen.Settings(t=0.5),
        resources=widen.Resources(cache=tmp_path / "cache"),
        progress=Listening(),
    )
    told = [f"statistics of {model}: 0 tensors measured, {len(first.tensors)} known" for model in ("m1", "m2")]
    assert [note for note in notes if "statistics" in note] == told
    assert first.digest != second.digest
    fresh = widen.merge(base, [one, two], tmp_path / "c", widen.Settings(t=0.5))
    assert fresh.tensors == second.tensors
