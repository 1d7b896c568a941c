"""A merge section for every method: mergekit's spellings as they are, the engine's settings, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import widen
from flows.merge import open_inputs
from flows.recipe import Recipe, load_recipe
from tests.build import family
from tests.flows.conftest import run_widen
from widen.errors import RecipeError

MERGEKIT = Path(__file__).parents[1] / "mergekit"
A, B, C = ("../a", "../b", "../c")


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def written(method: str, base: str | None, models: list[tuple[str, dict[str, Any]]], **parameters: Any) -> str:
    listed = [{"model": model, "parameters": own} if own else {"model": model} for model, own in models]
    told: dict[str, Any] = {"merge_method": method, "models": listed, "parameters": parameters}
    return yaml.safe_dump(told | ({"base_model": base} if base else {}))


# mergekit's own ways to write it


def test_ties_as_mergekit_s_example_has_it(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1] # weight gradient
  - model: WizardLM/WizardMath-13B-V1.0
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""",
    )
    asked = recipe.settings
    assert (asked.method, asked.origin, asked.out_dtype) == ("ties", True, "float16")
    assert recipe.parents == ("orca_mini_v3_13b", "Platypus2-13B", "WizardMath-13B-V1.0")
    assert asked.parameters == {"normalize": True, "rescale": False, "lambda": 1.0}
    assert asked.models[0] == {"density": [1.0, 0.7, 0.1], "weight": 1.0}
    arguments = dict(asked.arguments(3, "model.layers.3.mlp.up_proj.weight", 0.5))
    assert arguments["density"] == (0.7, 0.5, 0.33)
    assert arguments["weight"] == (1.0, 0.5, 0.5)
    assert dict(asked.arguments(3, "model.layers.3.self_attn.q_proj.weight", 0.5))["weight"] == (1.0, 0.5, 0.0)


def test_slerp_by_models_with_a_gradient_for_each_part(tmp_path: Path) -> None:
    t = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0]}, {"value": 0.5}]
    recipe = load(tmp_path, written("slerp", A, [(A, {}), (B, {})], t=t))
    assert (list(recipe.inputs), recipe.settings.origin) == (["a", "b"], False)
    asked = recipe.settings
    assert dict(asked.arguments(2, "model.layers.1.self_attn.k_proj.weight", 0.25)) == {"t": 0.5}
    assert dict(asked.arguments(2, "model.layers.1.mlp.up_proj.weight", 0.25)) == {"t": 0.75}
    assert dict(asked.arguments(2, "model.norm.weight", 0.0)) == {"t": 0.5}


@pytest.mark.parametrize(
    ("base", "models", "inputs", "weights"),
    [
        (None, [(A, {"weight": 1}), (B, {"weight": 0.5})], ["a", "b"], [1.0, 0.5]),
        (B, [(A, {"weight": 1}), (B, {"weight": 0.5})], ["b", "a"], [0.5, 1.0]),
    ],
)
def test_without_an_origin_the_base_is_a_model_like_the_others(
    base: str | None, models: list[tuple[str, dict[str, Any]]], inputs: list[str], weights: list[float], tmp_path: Path
) -> None:
    recipe = load(tmp_path, written("linear", base, models))
    assert list(recipe.inputs) == inputs
    assert not recipe.settings.origin
    assert [one["weight"] for one in recipe.settings.models] == weights


def test_a_base_that_is_optional_is_an_origin_where_it_is_named(tmp_path: Path) -> None:
    models = [(A, {"weight": 1}), (B, {"weight": 0.5})]
    assert load(tmp_path, written("nuslerp", C, models)).settings.origin
    without = load(tmp_path, written("nuslerp", None, models))
    assert not without.settings.origin
    assert list(without.inputs) == ["a", "b"]


def test_defaults_spelt_out_and_whole_numbers_change_no_digest(tmp_path: Path) -> None:
    short = load(tmp_path, written("ties", A, [(B, {"weight": 1}), (C, {"weight": 0.5})]))
    shared = {"normalize": True, "lambda": 1, "int8_mask": False}
    long = load(tmp_path, written("ties", A, [(B, {"weight": 1.0}), (C, {"weight": 0.5})], **shared))
    assert (short.digest, short.merge_digest) == (long.digest, long.merge_digest)
    other = load(tmp_path, written("ties", A, [(B, {"weight": 1}), (C, {"weight": 0.6})]))
    assert other.merge_digest != short.merge_digest


def test_the_digests_of_widen_recipes_are_those_of_before(tmp_path: Path) -> None:
    text = "merge_method: widen\nbase_model: ../a\nmodels: [{model: ../b}, {model: ../c}]\nparameters: {t: 0.9}\n"
    recipe = load(tmp_path, text)
    assert recipe.digest == "f156d875fe8712408ec1fb56ec7ce6d0096454ac1128209659434b63f4eeedb9"
    assert recipe.merge_digest == "53ba9f1241c5fdcadb74361cd5a978739a36e8215968c6c6690d478ae613e352"
    assert recipe.settings.digest == "fbedbf3bc53c1326719e856a65741fa2d06ee42738201baaa73352d3c151759c"


def test_widen_takes_gradients_and_filters(tmp_path: Path) -> None:
    recipe = load(tmp_path, written("widen", A, [(B, {}), (C, {})], t=[0.5, 1], s=[{"filter": "mlp", "value": 0.8}]))
    asked = recipe.settings
    assert dict(asked.arguments(2, "model.layers.0.mlp.up_proj.weight", 1.0)) == {"t": 1.0, "s": 0.8}
    assert dict(asked.arguments(2, "lm_head.weight", 0.0)) == {"t": 0.5, "s": 1.0}


def test_widen_s_knobs_enter_a_digest_only_where_they_are_turned(tmp_path: Path) -> None:
    plain = load(tmp_path, written("widen", A, [(B, {}), (C, {})]))
    spelt = load(tmp_path, written("widen", A, [(B, {}), (C, {})], ranks="order"))
    assert (plain.digest, plain.merge_digest) == (spelt.digest, spelt.merge_digest)
    other = load(tmp_path, written("widen", A, [(B, {}), (C, {})], ranks="changed", t=[0.5, 1]))
    assert other.settings.parameters == {"ranks": "changed"}
    assert other.settings.t == [0.5, 1.0]
    assert len({plain.merge_digest, other.merge_digest}) == 2


def test_parts_of_names_are_filters_in_short(tmp_path: Path) -> None:
    filters = [{"filter": name, "value": True} for name in ("lm_head", "mlp.down_proj")]
    texts = [written("widen", A, [(B, {"exclude": one}), (C, {})]) for one in (["lm_head", "mlp.down_proj"], filters)]
    short, long = (load(tmp_path, text) for text in texts)
    assert (short.digest, short.merge_digest) == (long.digest, long.merge_digest)
    asked = short.settings
    assert asked.models == ({"exclude": filters}, {})
    assert dict(asked.arguments(2, "model.layers.1.mlp.down_proj.weight", 1.0))["exclude"] == (True, False)
    shared = load(tmp_path, written("widen", A, [(B, {}), (C, {})], exclude=["norm"])).settings
    assert dict(shared.arguments(2, "model.norm.weight", 0.0))["exclude"] == (True, True)


# What is refused

WEIGHED = [(B, {"weight": 1}), (C, {"weight": 1})]
ROWS: dict[str, tuple[str, str]] = {
    "no base": (
        written("ties", None, WEIGHED),
        r"base_model: a required key is missing: `ties` merges what changed since it",
    ),
    "no weight": (written("ties", A, [(B, {"weight": 1}), (C, {})]), r"models\[1\]: `ties` needs its `weight`"),
    "no weight of the base": (
        written("linear", A, [(B, {"weight": 1})]),
        r"base_model: `linear` needs its `weight`",
    ),
    "no t": (written("slerp", A, [(B, {})]), r"parameters: `slerp` needs `t`"),
    "one of its own": (
        written("ties", A, [(B, {"weight": 1, "normalize": True})]),
        r"models\[0\]\.parameters\.normalize: `normalize` is one for the whole merge: .*",
    ),
    "misspelt": (
        written("ties", A, [(B, {"wieght": 1})], weight=1),
        r"models\[0\]\.parameters\.wieght: unknown key `wieght`; the nearest known is `weight` .*",
    ),
    "another method's": (
        written("ties", A, WEIGHED, gamma=0.1),
        r"parameters\.gamma: mergekit's `gamma` is not supported: `ties` has .*",
    ),
    "text": (
        written("ties", A, WEIGHED, density="half"),
        r"parameters\.density: expected a finite number, found the text `half`",
    ),
    "number for a switch": (
        written("ties", A, WEIGHED, normalize=1),
        r"parameters\.normalize: expected true or false, found the number 1",
    ),
    "part of a step": (
        written("karcher", None, [(B, {}), (C, {})], max_iter=1.5),
        r"parameters\.max_iter: expected a whole number, found the number 1\.5",
    ),
    "too many": (written("slerp", A, [(B, {}), (C, {})], t=0.5), r"models: `slerp` merges 2 models, found 3"),
    "too few": (written("model_stock", A, [(B, {})]), r"models: `model_stock` merges at least 2 models, found 1"),
    "no such ranks": (
        written("widen", A, [(B, {}), (C, {})], ranks="averaged"),
        r"parameters\.ranks: expected `order` or `average` or `changed` \(the nearest is `average`\), found .*",
    ),
    "ranks of one model": (
        written("widen", A, [(B, {"ranks": "average"}), (C, {})]),
        r"models\[0\]\.parameters\.ranks: `ranks` is one for the whole merge: .*",
    ),
    "a name that is no list": (
        written("widen", A, [(B, {"exclude": "lm_head"}), (C, {})]),
        r"models\[0\]\.parameters\.exclude: expected true or false, or a list of parts of tensors' names, found .*",
    ),
    "the base in the softmax": (
        written("widen", A, [(A, {}), (B, {})]),
        r"models\[0\]\.model: the base is among the models; .*",
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_refused_with_line_key_and_advice(row: str, tmp_path: Path) -> None:
    text, expected = ROWS[row]
    assert re.search(r"recipe\.yaml:\d+: (" + expected + ")", refusal(tmp_path, text))


# For real


def test_a_mergekit_file_is_merged_by_the_command(tmp_path: Path) -> None:
    base, first, second = family(tmp_path)
    models = [(f"./{one.name}", {"weight": 0.5, "density": 0.4}) for one in (first, second)]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(written("ties", "./base", models))
    (tmp_path / "home").mkdir()
    done = run_widen("merge", recipe, "--out", "out", "--workspace", tmp_path, cwd=tmp_path, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    settings = widen.Settings("ties", models=[{"weight": 0.5, "density": 0.4}] * 2)
    widen.merge(base, [first, second], tmp_path / "same", settings)
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "same"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    manifest = json.loads((tmp_path / "out" / "widen-manifest.json").read_text())
    assert manifest["settings"]["models"] == [{"density": 0.4, "weight": 0.5}] * 2
    assert "t" not in manifest["settings"]


@pytest.mark.parametrize("case", sorted(path.stem for path in MERGEKIT.glob("*.yaml")))
def test_mergekit_s_own_merge_of_its_own_file(case: str, tmp_path: Path) -> None:
    """mergekit computes in float32, and rounds more often: no element may be further off than that explains."""
    recipe = load_recipe(MERGEKIT / f"{case}.yaml")
    base, *models = open_inputs(recipe, MERGEKIT)
    widen.merge(base, models, tmp_path / "out", recipe.settings)
    ours, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(MERGEKIT / f"{case}.safetensors")
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0.0, atol=2e-6 * float(expected.abs().max()), msg=name)
