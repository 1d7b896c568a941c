"""MODEL+ADAPTER in a recipe: what it names, how it is merged, written whole for scoring, and merged again."""

import shutil
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
from tests.vocabularies import words, write_tokenizer
from widen.adapter import Adapter, composed
from widen.adapter.whole import write_whole
from widen.checkpoint import Checkpoint
from widen.errors import RecipeError
from widen.overlay import open_overlays

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
    sides = [sides_of(name.split("+"), ["base"], sources) for name in recipe.participants]
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


def test_an_adapter_alone_is_known_by_all_that_the_base_is_made_of(tmp_path: Path) -> None:
    """The same adapter on another base is another model: what was scored of one says nothing of the other."""
    digests, made = {"base": "b" * 64, "tone": "t" * 64, "mild": "m" * 64}, []
    for base in ("base", "base+tone"):
        text = WHOLE.replace("base_model: base", f"base_model: {base}").replace("{model: base+tone}, ", "")
        recipe = load(tmp_path, text.partition("validate")[0])
        sources = [Fetched(name, Path(one.path), one.path, *[None] * 4) for name, one in recipe.inputs.items()]
        sides = sides_of(["mild"], recipe.base.split("+"), sources)
        with open_overlays(None) as overlays:
            inputs = [Checkpoint.open(one.folder, one.name) for one in sources]
            views = composed(inputs, recipe.settings.composed, overlays)
        assert sides == tuple(one.name for one in views[-1].inputs)
        made.append(digest_of_participant(sides, digests))
    assert made[0] != made[1]


def test_a_whole_one_is_the_parent_as_it_is_whatever_is_asked_of_the_merge(tmp_path: Path) -> None:
    """Its tokenizer is its own, so its rows must be: neither aligned nor stacked anew."""
    for name, order in (("base", range(20)), ("chat", range(19, -1, -1))):
        shutil.copytree(PEFT / "llama", tmp_path / name)
        write_tokenizer(tmp_path / name, words([f"w{number}" for number in order]))
    asked = {"composed": [["base"], ["chat", "plain"]], "tokenizer": {"source": "base"}, "chat_template": "chatml"}
    sliced = {"method": "passthrough", "origin": False, "slices": [{"sources": [{"model": "base", "layers": [0, 1]}]}]}
    inputs = [tmp_path / "base", tmp_path / "chat", PEFT / "plain"]
    for extra in ({}, sliced):
        settings = widen.Settings(**asked, **extra)  # type: ignore[arg-type]
        write_whole([Checkpoint.open(one) for one in inputs], settings, "chat+plain", tmp_path / "out", None)
        for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "chat" / file).read_bytes()
        written, chat = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", tmp_path / "chat"))
        assert written.keys() == chat.keys()
        for tensor in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"):
            assert torch.equal(written[tensor], chat[tensor]), tensor


def test_a_folder_with_two_names_is_two_inputs(tmp_path: Path) -> None:
    text = WHOLE.replace("tone: {path", f"b2: {{path: {PEFT}/llama}}\n  tone: {{path").replace("base+tone", "b2+tone")
    recipe = load(tmp_path, text)
    base, *models = open_inputs(recipe, tmp_path)
    found = widen.inspect(base, models, settings=recipe.settings)
    assert [(one.role, one.name) for one in found.inputs] == [
        ("base", "base"), ("model", "b2"), ("adapter", "tone"), ("adapter", "mild")
    ]  # fmt: skip
    sources = [Fetched(name, Path(one.path), one.path, *[None] * 4) for name, one in recipe.inputs.items()]
    digests = {one.name: one.digest for one in found.inputs}
    for name in recipe.participants:
        assert digest_of_participant(sides_of(name.split("+"), ["base"], sources), digests)


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
