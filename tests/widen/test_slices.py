"""Layers stacked anew: what stands where, against stacking by hand; configurations; what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import widen
from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from widen.architecture import Architecture
from widen.checkpoint import Checkpoint
from widen.dtypes import BF16
from widen.errors import InputsRefused, RecipeError
from widen.headers import TensorEntry
from widen.settings import Settings
from widen.slices import Slice, Stack, Stacking
from widen.stacked_config import stacked_config

DEEP = LLAMA | {"num_hidden_layers": 4}


def source(model: str, first: int, last: int, **parameters: Any) -> dict[str, Any]:
    """A slice's source."""
    return {"model": model, "layers": [first, last], "parameters": parameters}


@pytest.fixture
def models(tmp_path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Checkpoints a (4 layers), b (4 layers, of the same family) and c (2 layers) in the folder, by name."""
    weights = llama_weights(1, config=DEEP)
    found = {"a": weights, "b": changed(weights, 7, 0.3), "c": llama_weights(3)}
    for name, tensors in found.items():
        write_checkpoint(tmp_path / name, tensors, LLAMA if name == "c" else DEEP)
    return found


def merged(folder: Path, names: str, settings: Settings) -> tuple[dict[str, torch.Tensor], widen.Manifest]:
    """The merged tensors, and the manifest."""
    base, *others = (Checkpoint.open(folder / name, name) for name in names)
    manifest = widen.merge(base, others, folder / "out", settings)
    return load_file(folder / "out" / "model.safetensors"), manifest


def layer(tensors: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
    """The tensors of one layer, by the rest of their names."""
    start = f"model.layers.{number}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors are equal to the sign of zero."""
    return bool(torch.equal(ours.view(torch.int16), theirs.view(torch.int16)))


def test_passthrough_stacks_layers_bit_for_bit(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    models["b"]["model.layers.1.mlp.up_proj.weight"][0, :4] = -0.0
    write_checkpoint(tmp_path / "z", models["b"], DEEP)
    slices = [{"sources": [source("a", 0, 3)]}, {"sources": [source("z", 1, 4)]}]
    out, _ = merged(tmp_path, "az", Settings("passthrough", origin=False, slices=slices))
    wanted = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]
    for number, (model, its) in enumerate(wanted):
        ours, theirs = layer(out, number), layer(models[model], its)
        assert ours.keys() == theirs.keys()
        assert all(same_bits(ours[name], theirs[name]) for name in ours)
    assert same_bits(out["model.embed_tokens.weight"], models["a"]["model.embed_tokens.weight"])
    assert same_bits(out["lm_head.weight"], models["b"]["lm_head.weight"])
    assert same_bits(out["model.norm.weight"], models["b"]["model.norm.weight"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 6


def test_a_stacked_model_runs(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    from transformers import AutoModelForCausalLM

    slices = [{"sources": [source("a", 0, 4)]}, {"sources": [source("a", 2, 4)]}]
    merged(tmp_path, "a", Settings("passthrough", origin=False, slices=slices))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[1, 5, 9]])).logits
    assert torch.isfinite(logits).all()
    assert len(model.model.layers) == 6
    for ours, theirs in ((4, 2), (5, 3)):
        weight = model.model.layers[ours].mlp.up_proj.weight
        assert torch.equal(weight, models["a"][f"model.layers.{theirs}.mlp.up_proj.weight"].float())


def test_scale(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    scale = [{"filter": "down_proj", "value": 0.25}, {"value": 1.0}]
    slices = [{"sources": [source("a", 0, 2)]}, {"sources": [source("b", 2, 4, scale=scale)]}]
    out, _ = merged(tmp_path, "ab", Settings("passthrough", origin=False, slices=slices))
    name = "mlp.down_proj.weight"
    assert same_bits(layer(out, 3)[name], layer(models["b"], 3)[name] * 0.25)
    assert same_bits(layer(out, 1)[name], layer(models["a"], 1)[name])
    assert same_bits(layer(out, 3)["mlp.up_proj.weight"], layer(models["b"], 3)["mlp.up_proj.weight"])


def test_slices_of_whole_models_are_the_merge_of_models(
    tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Every method's tensors are the same where the slices say what `models` say."""
    slices = [{"sources": [source("b", 0, 4), source("a", 0, 4)]}]
    for settings in (Settings(), Settings("task_arithmetic", parameters={"weight": 0.5, "lambda": 0.7})):
        base, other = (Checkpoint.open(tmp_path / name, name) for name in "ab")
        whole = widen.merge(base, [other], tmp_path / f"{settings.method}-whole", settings)
        asked = Settings(settings.method, parameters=settings.parameters, slices=slices)
        stacked = widen.merge(base, [other], tmp_path / f"{settings.method}-stacked", asked)
        assert {name: one.sha256 for name, one in whole.tensors.items()} == {
            name: one.sha256 for name, one in stacked.tensors.items()
        }


def test_slices_of_different_width(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    """One layer of one model, then two averaged, by weights of the sources; the gradient goes through the slice."""
    slices = [
        {"sources": [source("a", 0, 1)]},
        {"sources": [source("a", 1, 4, weight=1.0), source("b", 1, 4, weight=[0.0, 1.0])]},
    ]
    out, _ = merged(tmp_path, "ab", Settings("linear", origin=False, slices=slices, parameters={"weight": 1.0}))
    name = "self_attn.q_proj.weight"
    assert same_bits(layer(out, 0)[name], layer(models["a"], 0)[name])
    for number, weight in ((1, 0.0), (2, 0.5), (3, 1.0)):
        ours, theirs = (layer(models[model], number)[name].double() for model in "ab")
        wanted = ((ours + weight * theirs) / (1.0 + weight)).float().to(torch.bfloat16)
        assert (layer(out, number)[name].float() - wanted.float()).abs().max() <= wanted.abs().max().float() * 2**-8


def test_a_model_is_left_out_of_a_slice_by_name(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    """WIDEN's own parameters stand in slices too, and are recorded as they were meant."""
    slices = [{"sources": [source("a", 0, 4), source("b", 0, 4, exclude=["mlp", "embed", "head"])]}]
    out, manifest = merged(tmp_path, "ab", Settings(slices=slices))
    assert same_bits(layer(out, 2)["mlp.up_proj.weight"], layer(models["a"], 2)["mlp.up_proj.weight"])
    assert not same_bits(layer(out, 2)["self_attn.q_proj.weight"], layer(models["a"], 2)["self_attn.q_proj.weight"])
    told = manifest.settings["slices"][0]["sources"][1]["parameters"]["exclude"]
    assert told[0] == {"filter": "mlp", "value": True}


def test_models_of_other_depth(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    slices = [{"sources": [source("a", 0, 4)]}, {"sources": [source("c", 0, 2)]}]
    out, manifest = merged(tmp_path, "ac", Settings("passthrough", origin=False, slices=slices))
    assert same_bits(layer(out, 5)["mlp.up_proj.weight"], layer(models["c"], 1)["mlp.up_proj.weight"])
    assert [entry.name for entry in manifest.inputs] == ["a", "c"]


def test_what_was_merged_is_kept_where_a_slice_stays(
    tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]
) -> None:
    """A second merge takes over what is the same function of the same bytes, and merges the rest."""
    first = Settings("passthrough", origin=False, slices=[{"sources": [source("a", 0, 4)]}])
    second = Settings(
        "passthrough", origin=False, slices=[{"sources": [source("a", 0, 2)]}, {"sources": [source("b", 2, 4)]}]
    )
    inputs = [Checkpoint.open(tmp_path / name, name) for name in "ab"]
    recipe = widen.manifest.Recipe("stack", "0")
    widen.merge(inputs[0], inputs[1:], tmp_path / "out", first, recipe=recipe)
    again = widen.merge(inputs[0], inputs[1:], tmp_path / "out", second, recipe=recipe)
    fresh = widen.merge(inputs[0], inputs[1:], tmp_path / "fresh", second, recipe=recipe)
    assert again.reuse.reused == 2 * len(layer(models["a"], 0)) + 1
    assert {name: one.sha256 for name, one in again.tensors.items()} == {
        name: one.sha256 for name, one in fresh.tensors.items()
    }
    third = widen.merge(inputs[0], inputs[1:], tmp_path / "out", second, recipe=recipe)
    assert third.reuse == again.reuse  # nothing was done


def test_a_model_that_is_not_finite(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    models["b"]["model.layers.3.mlp.up_proj.weight"][1, 1] = np.nan
    write_checkpoint(tmp_path / "n", models["b"], DEEP)
    slices = [{"sources": [source("a", 0, 2)]}, {"sources": [source("n", 2, 4)]}]
    with pytest.raises(InputsRefused, match=r"n: model\.layers\.3\.mlp\.up_proj\.weight: not finite.*1 NaN"):
        merged(tmp_path, "an", Settings("passthrough", origin=False, slices=slices))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("slices", "told"),
    [
        ([{"sources": [source("a", 0, 5)]}], r"slice 1: a has 4 layers, found the layer_range \[0, 5\]"),
        ([{"sources": [source("a", 2, 2)]}], r"slice 1: a has 4 layers, found the layer_range \[2, 2\]"),
        ([{"sources": [source("a", 0, 1), source("b", 0, 2)]}], "slice 1: .*found 1 of a, 2 of b"),
        ([{"sources": [source("a", 0, 1), source("a", 1, 2)]}], "slice 1: expected each model once"),
        ([{"sources": [source("d", 0, 1)]}], "a slice names the model d; expected one of a, b"),
        ([{"module": "vision", "sources": [source("a", 0, 1)]}], r"a stack of layers under the module vision.*layers"),
        ([{"source": []}], "a slice needs `sources`"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, models: dict[str, dict[str, torch.Tensor]], slices: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        merged(tmp_path, "ab", Settings("linear", origin=False, slices=slices, parameters={"weight": 1.0}))


def test_a_slice_without_its_base(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    with pytest.raises(RecipeError, match="slice 1: its sources lack the base a"):
        merged(tmp_path, "ab", Settings(slices=[{"sources": [source("b", 0, 4)]}]))


def test_layers_of_another_shape(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    wide = DEEP | {"intermediate_size": 64}
    write_checkpoint(tmp_path / "w", llama_weights(5, config=wide), wide)
    slices = [{"sources": [source("a", 0, 4), source("w", 0, 4)]}]
    with pytest.raises(InputsRefused, match=r"w: model\.layers\.0\.mlp\.down_proj\.weight: other shape") as error:
        merged(tmp_path, "aw", Settings("linear", origin=False, slices=slices, parameters={"weight": 1.0}))
    assert "intermediate_size" in str(error.value)


def checkpoint_of(config: dict[str, Any]) -> Checkpoint:
    """A checkpoint that only has a configuration."""
    return Checkpoint("m", Path("m"), config, {}, ())


def test_configurations_of_stacks() -> None:
    """Lists by layer follow the layers; a decoder's depth is its own; nested configurations are found."""
    flat = {"num_hidden_layers": 2, "layer_types": ["full", "sliding"], "eos_token_id": [1, 2]}
    one = checkpoint_of(flat)
    stack = Stack("model.layers.", 2, ((one, 1), (one, 0), (one, 1)))
    assert stacked_config(flat, [stack]) == {
        "num_hidden_layers": 3, "layer_types": ["sliding", "full", "sliding"], "eos_token_id": [1, 2],
    }  # fmt: skip
    nested = {"text_config": flat, "vision_config": {"num_hidden_layers": 9}}
    stack = Stack("language_model.model.layers.", 2, ((checkpoint_of(nested), 0),))
    assert stacked_config(nested, [stack])["text_config"]["layer_types"] == ["full"]
    assert stacked_config(nested, [stack])["vision_config"] == {"num_hidden_layers": 9}
    t5 = {"num_layers": 2, "num_decoder_layers": 2}
    encoder, decoder = (Stack(f"{side}.block.", 2, ((checkpoint_of(t5), 0),)) for side in ("encoder", "decoder"))
    assert stacked_config(t5, [encoder]) == {"num_layers": 1, "num_decoder_layers": 2}
    assert stacked_config(t5, [decoder]) == {"num_layers": 2, "num_decoder_layers": 1}
    with pytest.raises(RecipeError, match=r"no key of config\.json says that h has 2 layers"):
        stacked_config({}, [Stack("h.", 2, ((one, 0),))])


def test_a_tower_s_section_is_its_own() -> None:
    """A language model's depth is not its eyes', though the numbers are equal."""
    both = {"text_config": {"num_hidden_layers": 2}, "vision_config": {"num_hidden_layers": 2}}
    one = checkpoint_of(both)
    text = stacked_config(both, [Stack("language_model.model.layers.", 2, ((one, 0),))])
    assert [text[key]["num_hidden_layers"] for key in both] == [1, 2]
    vision = stacked_config(both, [Stack("vision_tower.encoder.layers.", 2, ((one, 0),))])
    assert [vision[key]["num_hidden_layers"] for key in both] == [2, 1]


def test_layers_named_by_number_in_a_configuration_are_not_moved() -> None:
    config = {"num_hidden_layers": 4, "mlp_only_layers": [3]}
    same = Stack("model.layers.", 4, tuple((checkpoint_of(config), layer) for layer in range(4)))
    assert stacked_config(config, [same]) == config
    with pytest.raises(RecipeError, match="`mlp_only_layers` names layers by their numbers"):
        stacked_config(config, [Stack("model.layers.", 4, ((checkpoint_of(config), 3),))])


def stacking(names: list[str], slices: list[dict[str, Any]], kinds: dict[str, Any]) -> dict[str, str]:
    """Whose tensor each one outside the layers is, of models a and b that have `names`."""
    entry = TensorEntry("x", "f", 0, 8, BF16, (2, 2))
    models = tuple(Checkpoint(name, Path(name), {}, dict.fromkeys(sorted(names), entry), ()) for name in "ab")
    found = Stacking(tuple(Slice.of(one) for one in slices), models, origin=False)
    placed = found.tensors(Architecture(kinds, frozenset(), ""))
    return {one.name: one.sides[0].checkpoint.name for one in placed}


def test_what_stands_outside_the_layers_goes_by_its_own_module() -> None:
    names = ["encoder.layers.0.w", "decoder.layers.0.w", "encoder.layer_norm.w", "decoder.embed_positions.w",
             "decoder.layernorm_embedding.w", "shared.w", "head.w"]  # fmt: skip
    slices = [
        {"module": side, "sources": [source(model, 0, 1)]} for side, model in (("encoder", "a"), ("decoder", "b"))
    ]
    assert stacking(names, slices, {"shared.w": "embedding"}) == {
        "encoder.layers.0.w": "a", "decoder.layers.0.w": "b", "encoder.layer_norm.w": "a",
        "decoder.embed_positions.w": "b", "decoder.layernorm_embedding.w": "b", "shared.w": "a", "head.w": "b",
    }  # fmt: skip


def test_a_head_called_embed_out_is_a_head() -> None:
    names = ["gpt_neox.layers.0.w", "gpt_neox.layers.1.w", "gpt_neox.embed_in.weight", "embed_out.weight"]
    slices = [{"sources": [source("a", 0, 1)]}, {"sources": [source("b", 1, 2)]}]
    found = stacking(names, slices, {"gpt_neox.embed_in.weight": "embedding"})
    assert (found["gpt_neox.embed_in.weight"], found["embed_out.weight"]) == ("a", "b")


def test_a_last_slice_from_a_model_without_a_head(tmp_path: Path, models: dict[str, dict[str, torch.Tensor]]) -> None:
    bare = {name: one for name, one in models["b"].items() if name != "lm_head.weight"}
    write_checkpoint(tmp_path / "h", bare, DEEP)
    slices = [{"sources": [source("a", 0, 2)]}, {"sources": [source("h", 2, 4)]}]
    with pytest.raises(InputsRefused, match=r"h: lm_head\.weight: missing tensor"):
        merged(tmp_path, "ah", Settings("passthrough", origin=False, slices=slices))


@pytest.mark.parametrize("content", [{"sources": []}, {"sources": [{"model": "a", "layers": [0.5, 1]}]}, {}])
def test_a_slice_that_is_none(content: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="a slice needs `sources`"):
        Settings("passthrough", origin=False, slices=[content])
