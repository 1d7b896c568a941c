"""A recipe that holds together loads; any other is refused with file, line, key, expected and found."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.recipe import Recipe, load_recipe
from widen.errors import RecipeError

ROOT = Path(__file__).parents[2]
WHOLE = """\
name: quickstart
sources:
  base: {repo: ../hub, path: checkpoints/base, rev: v1}
  tagger: {repo: ../hub, path: checkpoints/tagger, rev: v1}
  indonesian: {repo: ../hub, path: checkpoints/indonesian, rev: v1}
merge:
  merge_method: widen
  base_model: base
  models: [{model: tagger}, {model: indonesian}]
  parameters: {t: 1.0, s: 1.0}
  dtype: bfloat16
validate:
  relative_change: {tagger: [0.001, 0.2], indonesian: [0.01, 1.5]}
  direction_change_max: 0.5
  allow_config: []
evaluate:
  tasks: [app_en, bpb_id]
  include_path: evaluation
  dtype: float32
  batch_size: 64
  limit: null
  num_fewshot: null
gates:
  alpha: 0.05
  absolute: [{task: app_en, metric: acc, floor: 0.5}]
  parents:
    - {task: app_en, metric: acc, owner: tagger, keep: 0.4}
    - {task: bpb_id, metric: bits_per_byte, owner: indonesian, keep: 0.6, superior: true}
registry:
  name: quickstart
  uri: null
"""
MERGEKIT = """\
merge_method: widen
base_model: ../models/base
models:
  - model: ../models/chat
  - model: ../models/sailor
parameters: {t: 0.9}
dtype: float16
"""
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def load(folder: Path, text: str | bytes) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_recipe(path)


def refusal(folder: Path, text: str | bytes) -> str:
    """The message without the folder, so that it reads `recipe.yaml:3: key: ...`."""
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


# What a good recipe gives


def test_whole_recipe(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    assert (recipe.name, recipe.base, recipe.parents) == ("quickstart", "base", ("tagger", "indonesian"))
    assert recipe.inputs["tagger"].path == "checkpoints/tagger"
    assert (recipe.merge.parameters, recipe.merge.output_dtype) == ({"t": 1.0, "s": 1.0}, "bfloat16")
    assert recipe.require("validate").relative_change == {"tagger": (0.001, 0.2), "indonesian": (0.01, 1.5)}
    assert recipe.require("evaluate").tasks == ("app_en", "bpb_id")
    assert [clause.keep for clause in recipe.require("gates").parents] == [0.4, 0.6]
    assert recipe.require("gates").absolute[0].floor == 0.5
    assert recipe.require("registry").uri is None
    assert recipe.text == WHOLE


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load_whole(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.require("gates").parents
    assert recipe.require("registry").name == path.stem


def test_quickstart_says_what_the_demo_relies_on() -> None:
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml")
    owners = [(clause.task, clause.owner, clause.keep) for clause in recipe.require("gates").parents]
    assert owners == [("app_en", "tagger", 0.4), ("bpb_id", "indonesian", 0.6)]
    assert {source.repo for source in recipe.inputs.values()} == {"../hub"}


def test_everything_that_lm_eval_may_be_told(tmp_path: Path) -> None:
    told = """batch_size: auto:4
  apply_chat_template: tool_use
  fewshot_as_multiturn: false
  system_instruction: Be brief.
  max_length: 4096
  backend: vllm
  backend_args: {tensor_parallel_size: 2, gpu_memory_utilization: 0.85, enforce_eager: true}"""
    asked = load(tmp_path, WHOLE.replace("batch_size: 64", told)).require("evaluate")
    assert (asked.batch_size, asked.apply_chat_template, asked.fewshot_as_multiturn) == ("auto:4", "tool_use", False)
    assert (asked.system_instruction, asked.max_length, asked.backend) == ("Be brief.", 4096, "vllm")
    assert asked.backend_args == {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.85, "enforce_eager": True}


def test_bare_mergekit_configuration(tmp_path: Path) -> None:
    recipe = load(tmp_path, MERGEKIT)
    assert (recipe.name, recipe.base, recipe.parents) == ("recipe", "base", ("chat", "sailor"))
    assert recipe.inputs["chat"].path == "../models/chat"
    assert recipe.inputs["chat"].repo is None
    assert (recipe.merge.parameters, recipe.merge.output_dtype) == ({"t": 0.9, "s": 1.0}, "float16")


def test_mergekit_spellings_that_mean_the_same(tmp_path: Path) -> None:
    plain = load(tmp_path, MERGEKIT)
    spelt = MERGEKIT.replace("../models/base", "{model: {path: ../models/base}}")
    spelt = spelt.replace("- model: ../models/chat", "- model: {path: ../models/chat}\n    parameters: {}")
    spelt = spelt.replace("dtype: float16", "dtype: torch.float32\nout_dtype: torch.float16")
    assert load(tmp_path, spelt).merge_digest == plain.merge_digest


def test_anchors_and_merge_keys(tmp_path: Path) -> None:
    sources = """\
  base: &hub {repo: ../hub, path: checkpoints/base, rev: v1}
  tagger: {<<: *hub, path: checkpoints/tagger}
  indonesian: {path: checkpoints/indonesian, <<: [*hub]}
"""
    text = re.sub(r"  base: \{repo(.|\n)*?(?=merge:)", lambda _: sources, WHOLE)
    assert load(tmp_path, text).digest == load(tmp_path, WHOLE).digest


def test_one_band_for_all_models(tmp_path: Path) -> None:
    text = WHOLE.replace("{tagger: [0.001, 0.2], indonesian: [0.01, 1.5]}", "[0.001, 1]")
    bands = load(tmp_path, text).require("validate").relative_change
    assert bands == {"tagger": (0.001, 1.0), "indonesian": (0.001, 1.0)}


def test_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    with pytest.raises(FrozenInstanceError):
        recipe.merge.dtype = "float16"  # type: ignore[misc]


@pytest.mark.parametrize("rev", ["v*", "tagger-v*", ">=1.2,<2", ">=1.2, <2", "tagger-v>=1,<2", "1234abcd"])
def test_a_revision_may_be_a_pattern_or_a_range(rev: str, tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE.replace("tagger, rev: v1", f"tagger, rev: '{rev}'"))
    assert recipe.inputs["tagger"].rev == rev


def test_a_source_may_lie_in_a_storage(tmp_path: Path) -> None:
    recipe = load(
        tmp_path, WHOLE.replace("{repo: ../hub, path: checkpoints/base, rev: v1}", "{path: s3://models/base}")
    )
    assert recipe.inputs["base"].place == {"path": "s3://models/base", "repo": None, "rev": None}
    leaking = WHOLE.replace("{repo: ../hub, path: checkpoints/base, rev: v1}", "{path: s3://key:hush@models/base}")
    assert "hush" not in refusal(tmp_path, leaking)


def test_missing_section_names_all_that_a_run_would_miss(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE[: WHOLE.index("evaluate:")])
    assert recipe.require("validate").direction_change_max == 0.5
    with pytest.raises(RecipeError, match=r"recipe\.yaml:1: gates: .*lacks: `evaluate`, `gates`, `registry`"):
        recipe.require("gates")


# What a bad one is told: (what is replaced, by what, the whole message after "recipe.yaml:")

ROWS = {
    "unknown key": ("  dtype: bfloat16", "  dtyp: bfloat16", r"11: merge\.dtyp: unknown key `dtyp`; the nearest known is `dtype` \(known: .*`out_dtype`.*\)"),
    "unknown section": ("registry:", "registy:", r"29: registy: unknown key `registy`; the nearest known is `registry` .*"),
    "key inside a list": ("keep: 0.4", "kepe: 0.4", r"27: gates\.parents\[0\]\.kepe: unknown key `kepe`; the nearest known is `keep` .*"),
    "key of a source": ("base, rev: v1", "base, ref: v1", r"3: sources\.base\.ref: unknown key `ref`; the nearest known is `rev` \(known: `path`, `repo`, `rev`, `license`\)"),
    "misspelt parameter": ("{t: 1.0, s: 1.0}", "{T: 1.0}", r"10: merge\.parameters\.T: unknown key `T`; the nearest known is `t` \(known: `t`, `s`, `ranks`, `exclude`\)"),
    "signing key": ("uri: null", "signing_key: key.pem", r"31: registry\.signing_key: unknown key `signing_key`.*does not belong in a recipe.*WIDEN_SIGNING_KEY"),
    "credential key": ("uri: null", "api_key: hush", r"31: registry\.api_key: unknown key `api_key`.*does not belong in a recipe.*"),
    "missing key": ("  base_model: base\n", "", r"6: merge\.base_model: a required key is missing: `widen` merges what changed since it"),
    "number as text": ("t: 1.0", "t: 1e-1", r"10: merge\.parameters\.t: expected a number of at least 0 \(YAML takes this for text; write 0\.1\), found the text `1e-1`"),
    "truth as number": ("t: 1.0", "t: true", r"10: merge\.parameters\.t: expected a number of at least 0, found true"),
    "nan": ("s: 1.0", "s: .nan", r"10: merge\.parameters\.s: expected a number of at least 0, found the number nan"),
    "infinite": ("s: 1.0", "s: .inf", r"10: merge\.parameters\.s: expected a number of at least 0, found .*"),
    "huge": ("s: 1.0", "s: 1" + "0" * 400, r"10: merge\.parameters\.s: expected a number of at least 0, found a number too large"),
    "negative": ("t: 1.0", "t: -0.5", r"10: merge\.parameters\.t: expected a number of at least 0, found the number -0\.5"),
    "nothing": ("t: 1.0", "t: ", r"10: merge\.parameters\.t: expected a number of at least 0, found nothing"),
    "revision as number": ("base, rev: v1", "base, rev: 1.0", r"3: sources\.base\.rev: expected text \(put it in quotes\), found the number 1\.0"),
    "list for a mapping": ("{t: 1.0, s: 1.0}", "[1.0, 1.0]", r"10: merge\.parameters: expected a mapping, found a list"),
    "text for a list": ("[app_en, bpb_id]", "app_en", r"17: evaluate\.tasks: expected a list, found the text `app_en`"),
    "unknown method": ("merge_method: widen", "merge_method: wyden", r"7: merge\.merge_method: unknown merge method `wyden`; the nearest known is `widen` .*"),
    "mergekit's method": ("merge_method: widen", "merge_method: nearswap", r"7: merge\.merge_method: mergekit's `nearswap` is not supported: the merge methods here are `breadcrumbs`, .*`widen`"),
    "mergekit's parameter": ("s: 1.0", "density: 1.0", r"10: merge\.parameters\.density: mergekit's `density` is not supported: `widen` has `t`, `s`, `ranks`, `exclude`"),
    "gradient of text": ("t: 1.0", "t: [0, much]", r"10: merge\.parameters\.t: expected a number of at least 0, found the text `much`"),
    "empty gradient": ("t: 1.0", "t: []", r"10: merge\.parameters\.t: expected at least one value, found a list"),
    "filter without a value": ("t: 1.0", "t: [{filter: mlp}]", r"10: merge\.parameters\.t: expected a `value` beside the `filter`, found a list"),
    "mergekit's weight": ("{model: tagger}", "{model: tagger, parameters: {weight: 1}}", r"9: merge\.models\[0\]\.parameters\.weight: mergekit's `weight` is not supported: `widen` has `exclude`"),
    "an empty slice": ("models: [{model: tagger}, {model: indonesian}]", "slices: [{sources: []}]", r"9: merge\.slices\[0\]\.sources: expected at least one, found a list"),
    "mergekit's adapter": ("base_model: base", "base_model: {model: base, lora: x}", r"8: merge\.base_model: unknown source `x`; the nearest known is .*"),
    "adapter of a path": ("base_model: base", "base_model: {path: base, lora: x}", r"8: merge\.base_model\.lora: unknown key `lora`.*"),
    "adapter twice": ("model: tagger", "model: tagger+base+indonesian", r"9: merge\.models\[0\]\.model: expected MODEL or MODEL\+ADAPTER, found .*"),
    "adapter without a name": ("model: tagger", "model: tagger+", r"9: merge\.models\[0\]\.model: expected a path that is not empty.*"),
    "type": ("dtype: bfloat16", "dtype: bf16", r"11: merge\.dtype: expected `bfloat16` or `float16` or `float32`, found the text `bf16`"),
    "no models": ("[{model: tagger}, {model: indonesian}]", "[]", r"9: merge\.models: expected at least one, found a list"),
    "base among models": ("{model: indonesian}", "{model: base}, {model: indonesian}", r"9: merge\.models\[1\]\.model: the base is among the models.*"),
    "model twice": ("{model: indonesian}", "{model: indonesian}, {model: tagger}", r"9: merge\.models\[2\]\.model: the model `tagger` stands twice.*"),
    "two of one name": ("{model: indonesian}", "{model: indonesian}, {model: a/tagger}", r"9: merge\.models\[2\]\.model: .* both be named `tagger`.*"),
    "unknown source": ("{model: tagger}", "{model: tager}", r"9: merge\.models\[0\]\.model: unknown source `tager`; the nearest known is `tagger` .*; a folder is written `\./tager`"),
    "folder without a name": ("{model: tagger}", "{model: ../..}", r"9: merge\.models\[0\]\.model: `\.\./\.\.` gives no name.*"),
    "name": ("name: quickstart\nsources", "name: ../up\nsources", r"1: name: expected a name of letters, digits, .*, found `\.\./up`"),
    "revision of a folder": ("{repo: ../hub, path: checkpoints/base, rev: v1}", "{path: here, rev: v1}", r"3: sources\.base\.rev: a revision needs a `repo`.*"),
    "path out of a repository": ("path: checkpoints/base", "path: ../base", r"3: sources\.base\.path: expected a path inside the repository, found `\.\./base`"),
    "URL in a repository": ("path: checkpoints/base", "path: s3://models/base", r"3: sources\.base\.path: expected a path inside the repository, found `s3://models/base`"),
    "storage without a folder": ("{repo: ../hub, path: checkpoints/base, rev: v1}", "{path: s3://models}", r"3: sources\.base\.path: expected s3://PLACE/FOLDER, .*, found `s3://models`"),
    "storage that lists nothing": ("{repo: ../hub, path: checkpoints/base, rev: v1}", "{path: https://host/model}", r"3: sources\.base\.path: expected a local folder, or a folder in a storage: s3://, .*, found `https://host/model`"),
    "model in a storage without a folder": ("{model: tagger}", "{model: s3://models}", r"9: merge\.models\[0\]\.model: expected s3://PLACE/FOLDER, .*, found `s3://models`"),
    "revision of a storage": ("{repo: ../hub, path: checkpoints/base, rev: v1}", "{path: s3://models/base, rev: v1}", r"3: sources\.base\.rev: a revision needs a `repo`.*"),
    "range of nothing": ("base, rev: v1", "base, rev: '>=1 <2'", r"3: sources\.base\.rev: expected the name of a branch or tag, .*; this range names no versions, found `>=1 <2`"),
    "range without quotes": ("{repo: ../hub, path: checkpoints/base, rev: v1}", "{repo: ../hub, path: x, rev: v>=1,<2}", r"3: sources\.base\.<2: unknown key `<2`.*"),
    "pattern of another kind": ("base, rev: v1", "base, rev: 'v[12]'", r"3: sources\.base\.rev: expected the name of a branch or tag, a commit, a pattern of tags .*, found `v\[12\]`"),
    "band": ("[0.001, 0.2]", "[0.2, 0.001]", r"13: validate\.relative_change\.tagger: expected two numbers \[low, high\] with 0 <= low < high, found a list"),
    "band of a stranger": ("indonesian: [0.01, 1.5]", "indonesia: [0.01, 1.5]", r"13: validate\.relative_change\.indonesia: unknown model `indonesia`; the nearest known is `indonesian` .*"),
    "task twice": ("[app_en, bpb_id]", "[app_en, bpb_id, app_en]", r"17: evaluate\.tasks: expected each name once, found a list"),
    "batch size": ("batch_size: 64", "batch_size: 0", r"20: evaluate\.batch_size: expected a whole number of at least 1, `auto` or `auto:N`, found the number 0"),
    "vllm's code": ("batch_size: 64", "backend_args: {trust_remote_code: true}", r"20: evaluate\.backend_args\.trust_remote_code: refused: no code of a checkpoint is run; remove it"),
    "another tokenizer": ("batch_size: 64", "backend_args: {tokenizer: ../other}", r"20: evaluate\.backend_args\.tokenizer: refused: the tokenizer is the one that lies in the checkpoint; remove it"),
    "nested backend argument": ("batch_size: 64", "backend_args: {add_bos_token: [1]}", r"20: evaluate\.backend_args: expected a mapping of names to true, false, numbers or text, found a mapping"),
    "backend": ("batch_size: 64", "backend: vlm", r"20: evaluate\.backend: expected `hf` or `vllm`, found the text `vlm`"),
    "misspelt key of evaluate": ("batch_size: 64", "apply_chat_templat: true", r"20: evaluate\.apply_chat_templat: unknown key `apply_chat_templat`; the nearest known is `apply_chat_template` .*"),
    "chat template": ("batch_size: 64", "apply_chat_template: 1", r"20: evaluate\.apply_chat_template: expected true, false or a template's name, found the number 1"),
    "turns without a template": ("batch_size: 64", "fewshot_as_multiturn: true", r"20: evaluate\.fewshot_as_multiturn: turns are a chat template's; .*"),
    "automatic batches": ("batch_size: 64", "batch_size: automatic", r"20: evaluate\.batch_size: expected a whole number of at least 1, `auto` or `auto:N`, found the text `automatic`"),
    "alpha": ("alpha: 0.05", "alpha: 0.5", r"24: gates\.alpha: expected a number above 0 and below 0\.5, found the number 0\.5"),
    "keep": ("keep: 0.4", "keep: 40", r"27: gates\.parents\[0\]\.keep: expected a number above 0 and at most 1, found the number 40"),
    "keep and margin": ("keep: 0.4", "keep: 0.4, margin: 0.1", r"27: gates\.parents\[0\]: expected exactly one of `keep`, `margin`, found `keep`, `margin`"),
    "neither floor nor ceiling": (", floor: 0.5", "", r"25: gates\.absolute\[0\]: expected exactly one of `floor`, `ceiling`, found neither"),
    "superior": ("superior: true", "superior: 1", r"28: gates\.parents\[1\]\.superior: expected true or false, found the number 1"),
    "owner": ("owner: tagger", "owner: taggr", r"27: gates\.parents\[0\]\.owner: unknown parent `taggr`; the nearest known is `tagger` .*"),
    "base as owner": ("owner: tagger", "owner: base", r"27: gates\.parents\[0\]\.owner: unknown parent `base`.*"),
    "task of a gate": ("{task: bpb_id", "{task: bpb_is", r"28: gates\.parents\[1\]\.task: unknown task `bpb_is`; the nearest known is `bpb_id` .*"),
    "key twice": ("  dtype: bfloat16", "  dtype: bfloat16\n  dtype: float32", r"12: merge\.dtype: the key stands twice, first on line 11; keep one"),
    "key not text": ("limit: null", "7: null", r"21: evaluate: expected keys that are text, found `7`; quote it"),
    "tag": ("limit: null", "limit: !!python/object/apply:os.getcwd []", r"21: evaluate\.limit: expected plain YAML, found the tag `tag:yaml\.org,2002:python/object/apply:os\.getcwd`"),
    "broken number": ("limit: null", "limit: 0b_", r"21: evaluate\.limit: expected int, found `0b_`"),
    "surrogate": ("include_path: evaluation", 'include_path: "\\ud800"', r"18: evaluate\.include_path: the text holds half of a surrogate pair"),
    "syntax": ("alpha: 0.05", "alpha: [0.05", r"25: not valid YAML: .*"),
    "undefined alias": ("alpha: 0.05", "alpha: *level", r"24: not valid YAML: found undefined alias 'level'"),
    "two documents": ("gates:", "---\ngates:", r"\d+: not valid YAML: .*"),
    "control character": ("alpha: 0.05", "alpha: \x07", r"24: not valid YAML: a control character \(0x0007\)"),
    "no such character": ("include_path: evaluation", 'include_path: "\\UFFFFFFFF"', r"1: not valid YAML: .*"),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_refused_with_line_key_and_advice(row: str, tmp_path: Path) -> None:
    old, new, expected = ROWS[row]
    assert WHOLE.count(old) >= 1, "the row replaces nothing"
    assert re.fullmatch(r"recipe\.yaml:" + expected, refusal(tmp_path, WHOLE.replace(old, new, 1)))


def test_bare_configuration_is_refused_at_its_own_keys(tmp_path: Path) -> None:
    message = refusal(tmp_path, MERGEKIT.replace("{t: 0.9}", "{t: 0.9, q: 1}"))
    assert message.startswith("recipe.yaml:6: parameters.q: unknown key `q`; the nearest known is ")


def test_methods_that_are_not_here_are_refused_once(tmp_path: Path) -> None:
    text = MERGEKIT.replace("widen", "nearswap").replace("{t: 0.9}", "{density: 0.5, weight: 1}")
    assert refusal(tmp_path, text).count("recipe.yaml:") == 1


def test_gates_need_clauses_and_scores(tmp_path: Path) -> None:
    empty = re.sub(r"  absolute:(.|\n)*?(?=registry)", "", WHOLE)
    assert "recipe.yaml:23: gates: expected at least one clause" in refusal(tmp_path, empty)
    unscored = re.sub(r"evaluate:(.|\n)*?(?=gates)", "", WHOLE)
    assert "recipe.yaml:16: gates: gates need an `evaluate` section" in refusal(tmp_path, unscored)


def test_every_problem_is_listed_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        WHOLE.replace("t: 1.0", "t: x").replace("rev: v1", "ref: v1", 1).replace("alpha: 0.05", "alpha: 2\n  alpha: 3")
    )
    lines = refusal(tmp_path, text.replace("dtype: bfloat16", "chat_templat: a")).splitlines()
    assert lines[0] == "recipe.yaml: 5 problems"
    assert [re.findall(r":(\d+):", line) for line in lines[1:]] == [["3"], ["10"], ["11"], ["24"], ["25"]]


def test_a_misspelt_key_does_not_hide_a_wrong_owner(tmp_path: Path) -> None:
    message = refusal(tmp_path, WHOLE.replace("include_path", "include").replace("owner: tagger", "owner: chat"))
    assert "18: evaluate.include: unknown key" in message
    assert "27: gates.parents[0].owner: unknown parent `chat`" in message


# Files that are no recipe


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words"])
def test_not_a_mapping(text: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).startswith("recipe.yaml:1: expected a mapping")


def test_not_utf8(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"name: caf\xe9\n") == "recipe.yaml: expected UTF-8 text, found byte 0xe9 at 9"


def test_byte_order_mark_is_fine(tmp_path: Path) -> None:
    assert load(tmp_path, b"\xef\xbb\xbf" + WHOLE.encode()).name == "quickstart"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError, match="expected a recipe file"):
            load_recipe(path)


def test_too_large(tmp_path: Path) -> None:
    assert "at most 131,072 bytes" in refusal(tmp_path, "#" * 200_000)


def test_alias_bomb(tmp_path: Path) -> None:
    levels = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 9)]
    assert "aliases expand to too much" in refusal(tmp_path, "\n".join(["a0: &a0 [x]", *levels]))


def test_alias_of_itself(tmp_path: Path) -> None:
    assert "aliases expand to too much" in refusal(tmp_path, "a: &a [*a]")


def test_deep_nesting(tmp_path: Path) -> None:
    assert "nested deeper than 24 levels" in refusal(tmp_path, "a: " + "[" * 5000)


# Credentials


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ("  base: {repo: https://me:hunter2@host/hub, path: checkpoints/base}", "hunter2"),
        ("  base: {repo: https://hf_abcdefghijklmnopqrstuvwx@huggingface.co/org/model, path: .}", "hf_abc"),
        ("  base: {repo: ssh://git:hunter2@host/hub, path: checkpoints/base}", "hunter2"),
        ("  base: {repo: ../hub, path: checkpoints/base}  # ghp_abcdefghijklmnopqrstuvwxyz012345", "ghp_abc"),
        ("  base: {path: base, license: '-----BEGIN EC PRIVATE KEY-----MHcCAQ'}", "MHcCAQ"),
    ],
)
def test_credentials_are_refused_and_not_shown(line: str, secret: str, tmp_path: Path) -> None:
    text = WHOLE.replace("  base: {repo: ../hub, path: checkpoints/base, rev: v1}", line)
    message = refusal(tmp_path, text.replace("t: 1.0", "t: x"))
    assert secret not in message
    assert message.startswith("recipe.yaml:3: ")
    assert "credential helper" in message


def test_a_database_password_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, WHOLE.replace("uri: null", "uri: postgresql://mlflow:hunter2@db/mlflow"))
    assert message.startswith("recipe.yaml:31: uri: a credential stands here")
    assert "hunter2" not in message


@pytest.mark.parametrize("repo", ["git@host:org/hub.git", "ssh://git@host/hub", "https://host/org/hub@v1"])
def test_addresses_without_credentials_are_fine(repo: str, tmp_path: Path) -> None:
    assert load(tmp_path, WHOLE.replace("../hub", repo, 1)).inputs["base"].repo == repo


# Digests


def test_digest_ignores_comments_layout_order_and_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    data = yaml.safe_load(WHOLE)
    data["merge"]["parameters"] = {"s": 1, "t": 1}
    del data["validate"]["direction_change_max"], data["evaluate"]["limit"]
    other = load(tmp_path, "# a comment\n" + yaml.safe_dump(data, sort_keys=True))
    assert (other.digest, other.merge_digest) == (recipe.digest, recipe.merge_digest)
    assert re.fullmatch(r"[0-9a-f]{64}", recipe.digest)


@pytest.mark.parametrize(
    ("old", "new", "same_merge"),
    [
        ("keep: 0.4", "keep: 0.5", True),
        ("name: quickstart\nsources", "name: other\nsources", True),
        ("alpha: 0.05", "alpha: 0.01", True),
        ("tagger, rev: v1", "tagger, rev: v1, license: mit", True),
        ("t: 1.0", "t: 0.9", False),
        ("dtype: bfloat16", "dtype: float16", False),
        ("tagger, rev: v1", "tagger, rev: v2", False),
        ("[{model: tagger}, {model: indonesian}]", "[{model: indonesian}, {model: tagger}]", False),
    ],
)
def test_digests_tell_what_changed(old: str, new: str, same_merge: bool, tmp_path: Path) -> None:
    assert old in WHOLE
    one, other = load(tmp_path, WHOLE), load(tmp_path, WHOLE.replace(old, new, 1))
    assert one.digest != other.digest
    assert (one.merge_digest == other.merge_digest) is same_merge


def test_an_unused_source_is_not_part_of_the_merge(tmp_path: Path) -> None:
    one, other = load(tmp_path, WHOLE), load(tmp_path, WHOLE.replace("merge:", "  spare: {path: spare}\nmerge:", 1))
    assert one.digest != other.digest
    assert one.merge_digest == other.merge_digest


# Any recipe at all


def key_paths(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The keys that the schema knows: not the names of sources, nor of models under relative_change."""
    entries: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        if isinstance(key, str) and at not in (("sources",), ("validate", "relative_change")):
            yield (*at, key)
        yield from key_paths(inner, (*at, key))


def rename(data: Any, path: tuple[str | int, ...], name: str) -> None:
    for part in path[:-1]:
        data = data[part]
    data[name] = data.pop(path[-1])


@quick
@given(data=st.data())
def test_any_misspelt_key_is_refused_by_name(data: st.DataObject, tmp_path: Path) -> None:
    recipe = yaml.safe_load(WHOLE)
    path = data.draw(st.sampled_from(sorted(key_paths(recipe), key=str)))
    letter = data.draw(st.sampled_from("qxzw_"))
    at = data.draw(st.integers(0, len(str(path[-1]))))
    name = str(path[-1])[:at] + letter + str(path[-1])[at:]
    rename(recipe, path, name)
    assert f"unknown key `{name}`; the nearest known is `" in refusal(tmp_path, yaml.safe_dump(recipe))


@quick
@given(seed=st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order_of_keys(seed: Any, tmp_path: Path) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            seed.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(one) for one in value] if isinstance(value, list) else value

    text = yaml.safe_dump(
        shuffled(yaml.safe_load(WHOLE)), sort_keys=False, default_flow_style=seed.choice([True, False])
    )
    assert load(tmp_path, text).digest == load(tmp_path, WHOLE).digest


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@quick
@given(data=st.data())
def test_any_value_anywhere_loads_or_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    recipe = yaml.safe_load(WHOLE)
    path = data.draw(st.sampled_from(sorted(key_paths(recipe), key=str)))
    inner = recipe
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = data.draw(values)
    try:
        load(tmp_path, yaml.safe_dump(recipe, allow_unicode=True))
    except RecipeError as error:
        assert "recipe.yaml" in str(error)


pieces = st.sampled_from(
    [
        *"{}[]&*!|>'\"%@`#,:-?\n \t",
        "merge: ",
        "- ",
        "a: ",
        "<<: ",
        "&a ",
        "*a ",
        "!!int ",
        "0x",
        "1",
        "\\U",
        "é",
        "...",
        "---",
    ]
)


@settings(quick, max_examples=200)
@given(text=st.lists(pieces, max_size=30).map("".join) | st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_loads_or_is_refused(text: str | bytes, tmp_path: Path) -> None:
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        load(tmp_path, encoded)
    except RecipeError as error:
        assert "recipe.yaml" in str(error)


@quick
@given(at=st.integers(0, len(WHOLE) - 1), pieces=st.lists(pieces, max_size=3), cut=st.integers(0, 5))
def test_any_damage_to_a_recipe_loads_or_is_refused(at: int, pieces: list[str], cut: int, tmp_path: Path) -> None:
    try:
        load(tmp_path, WHOLE[:at] + "".join(pieces) + WHOLE[at + cut :])
    except RecipeError as error:
        assert "recipe.yaml" in str(error)
