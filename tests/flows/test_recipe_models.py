"""MODEL+ADAPTER in a recipe: what it names, how it is merged, written whole for scoring, and merged again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import widen
from flows.merge import open_inputs
from flows.recipe import Recipe, load_recipe
from tasks.compose import compose, digest_of_participant, sides_of
from tasks.content import counted
from tasks.fetch import Fetched
from tasks.remake import merge_again
from widen.adapter import Adapter
from widen.checkpoint import Checkpoint
from widen.errors import RecipeError

PEFT = Path(__file__).parents[1] / "peft"
SOURCES = f"""
sources:
  base: {{path: {PEFT}/llama}}
  tone: {{path: {PEFT}/patterns}}
  mild: {{path: {PEFT}/saved}}
"""
WHOLE = f"""
name: adapted
{SOURCES}
merge:
  merge_method: widen
  base_model: base
  models: [{{model: base+tone}}, {{model: mild}}]
  dtype: float32
validate: {{relative_change: {{base+tone: [0, 9]}}}}
"""


def load(folder: Path, text: str, name: str = "recipe.yaml") -> Recipe:
    (folder / name).write_text(text)
    return load_recipe(folder / name)


def test_names_of_inputs_and_of_what_is_merged(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    assert tuple(recipe.inputs) == ("base", "tone", "mild")
    assert (recipe.base, recipe.parents) == ("base", ("base+tone", "mild"))
    assert recipe.settings.composed == (("base",), ("base", "tone"), ("mild",))
    assert recipe.settings.content["composed"] == [["base"], ["base", "tone"], ["mild"]]
    assert recipe.validate is not None
    assert recipe.validate.relative_change == {"base+tone": (0.0, 9.0)}
    plain = load(tmp_path, WHOLE.replace("base+tone", "tone"))
    assert "composed" not in plain.settings.content
    assert plain.merge_digest != recipe.merge_digest
    text = f"models: [{{model: {PEFT}/llama+{PEFT}/plain}}]\nmerge_method: linear\nparameters: {{weight: 1}}\n"
    folders = load(tmp_path, text)
    assert tuple(folders.inputs) == ("llama", "plain")
    assert folders.participants == ("llama+plain",)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("base+tone}, {model: mild}", "base+tone}, {model: base+tone}", "the model `base.tone` stands twice"),
        ("base_model: base", "base_model: mild", "the base is among the models"),
        ("model: base+tone", "model: base+tune", "unknown source `tune`; the nearest known is `tone`"),
        ("model: base+tone", "model: a/tone+base", "would both be named `tone`"),
        ("{base+tone: [0, 9]}", "{tone: [0, 9]}", "unknown model `tone`"),
    ],
)
def test_mistakes_are_told_with_their_line(old: str, new: str, expected: str, tmp_path: Path) -> None:
    text = WHOLE.replace(old, new).replace("{model: mild}]", "{model: mild}, {model: mild+tone}]")
    with pytest.raises(RecipeError, match=expected) as caught:
        load(tmp_path, text)
    assert "recipe.yaml:" in str(caught.value)


def test_mergekit_s_own_ways_to_write_it(tmp_path: Path) -> None:
    text = "{{merge_method: linear, models: [{{model: {}}}, {{model: {}}}], parameters: {{weight: 1}}}}"
    plain = load(tmp_path, text.format("./a+./b", "./c"))
    mapped = load(tmp_path, text.format("{model: {path: ./a}, lora: {path: ./b}}", "{model: ./c}"))
    assert mapped.merge == plain.merge
    assert mapped.inputs == plain.inputs


def test_a_recipe_is_merged_whole_ones_are_written_and_it_is_merged_again(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    base, *models = open_inputs(recipe, tmp_path)
    assert [one.is_adapter for one in models] == [True, True]
    resources = widen.Resources("cpu", cache=tmp_path / "cache")
    made = widen.merge(base, models, tmp_path / "out", recipe.settings, file_digests=True, resources=resources)
    folders = {name: Path(source.path) for name, source in recipe.inputs.items()}
    again = merge_again(made, folders, (), "cpu", tmp_path / "again")
    assert {n: t.sha256 for n, t in again.tensors.items()} == {n: t.sha256 for n, t in made.tensors.items()}

    sources = [Fetched(name, folder, str(folder), None, None, None, None) for name, folder in folders.items()]
    digests = {one.name: one.digest for one in made.inputs}
    sides = [sides_of(name.split("+"), sources) for name in recipe.participants]
    assert sides == [("base",), ("base", "tone"), ("base", "mild")]
    assert digest_of_participant(sides[0], digests) == digests["base"]
    assert len({digest_of_participant(one, digests) for one in sides}) == 3
    for name, adapter in (("base+tone", "patterns"), ("mild", "saved")):
        out = compose.fn(sources, recipe.settings, name, tmp_path / "cache", tmp_path / "composed" / name)
        written = load_file(out / "model.safetensors")
        expected = Adapter.open(PEFT / adapter)
        assert set(Checkpoint.open(out).tensors) == set(base.tensors)
        for tensor, value in load_file(base.folder / "model.safetensors").items():
            if tensor in expected.names(base):
                assert np.array_equal(written[tensor].float().numpy(), expected.tensor(base, tensor)), tensor
            else:
                assert torch.equal(written[tensor], value), tensor


def test_a_slice_may_name_a_model_with_an_adapter(tmp_path: Path) -> None:
    text = f"""
merge_method: passthrough
slices:
  - sources: [{{model: {PEFT}/llama+{PEFT}/plain, layer_range: [0, 1]}}]
  - sources: [{{model: {PEFT}/llama, layer_range: [1, 2]}}]
dtype: float32
"""
    recipe = load(tmp_path, text)
    base, *models = open_inputs(recipe, tmp_path)
    widen.merge(base, models, tmp_path / "out", recipe.settings)
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = Adapter.open(PEFT / "plain").tensor(Checkpoint.open(PEFT / "llama"), name)
    assert np.array_equal(load_file(tmp_path / "out" / "model.safetensors")[name].numpy(), expected)


def test_an_adapter_s_configuration_counts_where_no_model_s_does() -> None:
    names = dict.fromkeys(["adapter_config.json", "adapter_model.safetensors", "README.md"], "")
    assert counted(names) == ["adapter_config.json", "adapter_model.safetensors"]
    assert counted({**names, "config.json": ""}) == ["adapter_model.safetensors", "config.json"]
