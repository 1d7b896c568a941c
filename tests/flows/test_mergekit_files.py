"""Configurations as mergekit's users write them: each parses to what it means, or is refused with the reason."""

import re
from pathlib import Path
from typing import Any

import pytest

from flows.recipe import load_recipe
from widen.errors import RecipeError

# In the manner of mergekit's examples and documentation: hub names, comments, gradients, filters, several layouts.
MEANT: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "an average": (
        "models:\n  - model: org/chat-13b\n    parameters:\n      weight: 1.0\n"
        "  - model: org/math-13b\n    parameters:\n      weight: 0.3\nmerge_method: linear\ndtype: float16\n",
        ["chat-13b", "math-13b"],
        {"method": "linear", "models": [{"weight": 1.0}, {"weight": 0.3}], "out_dtype": "float16"},
    ),
    "gradients through layers, filters, a base among the models": (
        "models:\n  - model: org/base-7B-v0.1\n  - model: org/chat-7B\n    parameters:\n      density: [1, 0.7, 0.1]\n"
        "      weight: 1.0\n  - model: ./math/\n    parameters:\n      density: 0.33\n      weight:\n"
        "        - filter: mlp\n          value: 0.5\n        - value: 0\nmerge_method: ties\n"
        "base_model: org/base-7B-v0.1\nparameters:\n  normalize: true\n  int8_mask: true\ndtype: float16\n",
        ["base-7B-v0.1", "chat-7B", "math"],
        {
            "method": "ties",
            "models": [
                {"density": [1.0, 0.7, 0.1], "weight": 1.0},
                {"density": 0.33, "weight": [{"filter": "mlp", "value": 0.5}, {"value": 0.0}]},
            ],
        },
    ),
    "an arc by slices": (
        "slices:\n  - sources:\n      - model: org/a\n        layer_range: [0, 40]\n      - model: org/b\n"
        "        layer_range: [0, 40]\nmerge_method: slerp\nbase_model: org/a\nparameters:\n  t:\n"
        "    - filter: self_attn\n      value: [0, 0.5, 0.3, 0.7, 1]\n    - value: 0.5 # for the rest\ndtype: bfloat16\n",
        ["a", "b"],
        {
            "method": "slerp",
            "slices": [{"sources": [{"model": "a", "layers": [0, 40]}, {"model": "b", "layers": [0, 40]}]}],
        },
    ),
    "a frankenmerge": (
        "slices:\n  - sources:\n    - model: org/a\n      layer_range: [0, 24]\n  - sources:\n    - model: org/b\n"
        "      layer_range: [20, 40]\nmerge_method: passthrough\ndtype: float16\n",
        ["a", "b"],
        {
            "method": "passthrough",
            "slices": [{"sources": [{"model": "a", "layers": [0, 24]}]}, {"sources": [{"model": "b", "layers": [20, 40]}]}],
        },
    ),
    "a model stacked on itself, some of its layers scaled": (
        "merge_method: passthrough\nslices:\n- sources: [{model: org/a, layer_range: [0, 8]}]\n- sources:\n"
        "  - model: org/a\n    layer_range: [4, 8]\n    parameters:\n      scale:\n      - {filter: o_proj, value: 0.0}\n"
        "      - value: 1.0\n",
        ["a"],
        {
            "slices": [
                {"sources": [{"model": "a", "layers": [0, 8]}]},
                {
                    "sources": [
                        {
                            "model": "a", "layers": [4, 8],
                            "parameters": {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 1.0}]},
                        }
                    ]
                },
            ]
        },
    ),
    "one module": (
        "modules:\n  default:\n    slices:\n      - sources:\n          - {model: org/a, layer_range: [0, 2]}\n"
        "        parameters: {scale: 0.5}\nmerge_method: passthrough\n",
        ["a"],
        {"slices": [{"sources": [{"model": "a", "layers": [0, 2]}], "parameters": {"scale": 0.5}}]},
    ),
    "two modules": (
        "base_model: org/t5\nmerge_method: task_arithmetic\nparameters: {weight: 0.5}\nmodules:\n  encoder:\n"
        "    models: [{model: org/fr, parameters: {weight: 0.7}}]\n  decoder:\n    models: [{model: org/fr}]\n",
        ["t5", "fr"],
        {
            "slices": [
                {"sources": [{"model": "fr", "parameters": {"weight": 0.7}}, {"model": "t5"}], "module": "encoder"},
                {"sources": [{"model": "fr"}, {"model": "t5"}], "module": "decoder"},
            ]
        },
    ),
    "a tokenizer by model": (
        "base_model: org/a\nmodels: [{model: org/b}]\nmerge_method: task_arithmetic\nparameters: {weight: 1}\n"
        "tokenizer_source: model:org/b\nchat_template: auto\n",
        ["a", "b"],
        {"tokenizer": {"source": "b"}, "chat_template": "auto"},
    ),
    "adapters on models": (
        "models:\n  - model: org/a+org/french\n    parameters: {weight: 0.6}\n  - model: org/a+org/german\n"
        "    parameters: {weight: 0.4}\nmerge_method: linear\n",
        ["a", "french", "german"],
        {"composed": [["a", "french"], ["a", "german"]]},
    ),
    "a model as a mapping": (
        "merge_method: karcher\nmodels:\n  - model: {model: {path: org/a}}\n  - model: {path: org/b}\ndtype: torch.bfloat16\n",
        ["a", "b"],
        {"method": "karcher", "out_dtype": "bfloat16"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANT)
def test_parses_to_what_it_means(case: str, tmp_path: Path) -> None:
    text, inputs, content = MEANT[case]
    (tmp_path / "config.yml").write_text(text)
    recipe = load_recipe(tmp_path / "config.yml")
    assert list(recipe.inputs) == inputs
    assert {key: recipe.settings.content.get(key) for key in content} == content


TWO = "models: [{model: org/a, parameters: {weight: 1}}, {model: org/b, parameters: {weight: 1}}]\n"
REFUSED = {
    "a chain of merges": (
        f"{TWO}merge_method: linear\n---\n{TWO}merge_method: linear\n",
        r":3: not valid YAML: but found another document; a file is one recipe: write one for each",
    ),
    "an evolution": (
        "genome:\n  models: [org/a, org/b]\n  merge_method: dare_ties\ntasks: [{name: sst2}]\n",
        ":1: genome: this is a file for mergekit-evolve; `widen compare`",
    ),
    "experts": (
        "base_model: org/a\ngate_mode: hidden\nexperts: [{source_model: org/b, positive_prompts: [x]}]\n",
        ":3: experts: this is a file for mergekit-moe",
    ),
    "metrics": ("models: [{model: org/a}]\nmetric_method: all\n", ":2: metric_method: this is a file that measures"),
    "a method of mergekit's that is not here": (
        f"{TWO}merge_method: nearswap\n",
        r":2: merge_method: mergekit's `nearswap` is not supported: the merge methods here are",
    ),
    "a place of its own for the output": (
        f"{TWO}merge_method: linear\nout_path: ./merged\n",
        r":3: out_path: mergekit's `out_path` is not supported: the command line says where: `--out`",
    ),
    "a method of mergekit's, the base among its models": (
        "models: [{model: org/a}, {model: org/b}]\nmerge_method: arcee_fusion\nbase_model: org/a\n",
        r"^[^\n]*config.yml:2: merge_method: mergekit's `arcee_fusion` is not supported: [^\n]*$",
    ),
    "a method of one's own, without a base": (
        f"{TWO}merge_method: simple_average\n",
        r"^[^\n]*config.yml:2: merge_method: unknown merge method `simple_average`; [^\n]*$",
    ),
    "a method that nobody has": (f"{TWO}merge_method: linaer\n", "unknown merge method `linaer`; the nearest known is `linear`"),
    "nothing to merge": ("merge_method: linear\n", r":1: models: a required key is missing: the models to merge, or"),
    "both": (
        f"{TWO}merge_method: linear\nslices: [{{sources: [{{model: org/a, layer_range: [0, 2]}}]}}]\n",
        "slices: expected exactly one of `models`, `slices`, `modules`, found `models`, `slices`",
    ),
    "a module without either": (
        "merge_method: passthrough\nmodules: {default: {parameters: {scale: 1}}}\n",
        "modules.default: expected either `models` or `slices`, found neither",
    ),
    "layers the wrong way round": (
        "merge_method: passthrough\nslices: [{sources: [{model: org/a, layer_range: [8, 4]}]}]\n",
        r"slices\[0\].sources\[0\].layer_range: expected two whole numbers \[first, last\] with 0 <= first < last",
    ),
    "sources of different length": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources: [{model: org/a, layer_range: [0, 4]}, {model: org/b, "
        "layer_range: [0, 5]}]\n",
        r"slices\[0\].sources: expected as many layers of every source, found `4 layers`, `5 layers`",
    ),
    "a slice without the base": (
        "merge_method: task_arithmetic\nbase_model: org/a\nparameters: {weight: 1}\nslices:\n"
        "- sources: [{model: org/b, layer_range: [0, 4]}]\n",
        r"slices\[0\].sources: its sources lack the base `org/a`",
    ),
    "too many for the method": (
        "merge_method: passthrough\nslices:\n- sources: [{model: org/a, layer_range: [0, 4]}, {model: org/b, layer_range: [0, 4]}]\n",
        r"slices\[0\]: `passthrough` merges 1 models, found 2",
    ),
    "a parameter that the slice's source lacks": (
        "merge_method: linear\nslices:\n- sources: [{model: org/a, layer_range: [0, 4]}]\n",
        r"slices\[0\]: `linear` needs its `weight`",
    ),
    "an adapter that is a number": (
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: {model: ./a, lora: 5}}, {model: ./b}]\n",
        r":3: models\[0\].model.lora: expected an adapter's name or folder, or {path: FOLDER}, found the number 5",
    ),
    "several adapters on one model": (
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: {model: ./a, lora: [./q]}}, {model: ./b}]\n",
        r":3: models\[0\].model.lora: expected an adapter's .* found a list",
    ),
    "an adapter without a path": (
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: {model: ./a, lora: {path: 7}}}, {model: ./b}]\n",
        r":3: models\[0\].model.lora: expected an adapter's .* found the number 7",
    ),
    "a parameter of no method": (
        "merge_method: passthrough\nslices:\n- sources: [{model: org/a, layer_range: [0, 4], parameters: {scael: 1}}]\n",
        r"slices\[0\].sources\[0\].parameters.scael: unknown key `scael`; the nearest known is `scale`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    text, told = REFUSED[case]
    (tmp_path / "config.yml").write_text(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "config.yml")
    assert re.search(told, str(error.value)), error.value


def test_a_model_that_several_slices_name_is_one_input(tmp_path: Path) -> None:
    first, other = "{model: ./a, layer_range: [0, 1]}", "{model: ./b/a, layer_range: [1, 2]}"
    text = f"merge_method: passthrough\nslices:\n- sources: [{first}]\n- sources: [{first}]\n"
    (tmp_path / "config.yml").write_text(text)
    assert list(load_recipe(tmp_path / "config.yml").inputs) == ["a"]
    (tmp_path / "config.yml").write_text(f"{text}- sources: [{other}]\n")
    with pytest.raises(RecipeError, match="would both be named `a`"):
        load_recipe(tmp_path / "config.yml")
