"""A recipe's `tokenizer_source`, `tokenizer` and `chat_template`: mergekit's spellings, what is refused, a merge."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer

import widen
from flows.again import Checks, Sources, make_again
from flows.merge import open_inputs
from flows.recipe import Recipe, load_recipe
from registry.audit import Record
from registry.lineage import MANIFEST, SourceRecord, build
from registry.provenance import collect
from registry.versions import LINEAGE, LINEAGE_DIGEST, Version
from tests.build import LLAMA, llama_weights
from tests.flows.conftest import run_widen
from tests.registry.conftest import card, judged
from tests.vocabularies import byte_level, permuted, with_added, write_model
from widen.errors import RecipeError

PLAIN = """\
merge_method: widen
base_model: ../base
models: [{model: ../chat}, {model: ../sailor}]
"""


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(PLAIN + text)
    return load_recipe(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("written", "content"),
    [
        ("tokenizer_source: union", {"source": "union"}),
        ("tokenizer_source: base", {"source": "base"}),
        ("tokenizer_source: ../sailor", {"source": "sailor"}),
        ("tokenizer_source: {model: {path: ../sailor}}", {"source": "sailor"}),
        ("tokenizer: {}", {"source": "union"}),
        ("tokenizer: {source: ../chat, pad_to_multiple_of: 64}", {"source": "chat", "pad_to_multiple_of": 64}),
        (
            """
tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: ../chat, force: true}
    <pad>: {source: {kind: zero}}
    <new>: {source: {kind: model_token, model: {model: ../chat}, token: the}}
    <other>: {source: {kind: model_token, model: chat, token_id: 5}}
    <left>:
""",
            {
                "source": "union",
                "tokens": {
                    "<left>": {},
                    "<new>": {"source": {"kind": "model_token", "model": "chat", "token": "the"}},
                    "<other>": {"source": {"kind": "model_token", "model": "chat", "token_id": 5}},
                    "<pad>": {"source": {"kind": "zero"}},
                    "<|im_start|>": {"source": "chat", "force": True},
                },
            },
        ),
    ],
)
def test_mergekit_s_spellings(written: str, content: dict[str, object], tmp_path: Path) -> None:
    recipe = load(tmp_path, written)
    assert recipe.settings.content["tokenizer"] == content
    assert recipe.merge.tokenizer_source is None
    assert json.loads(json.dumps(recipe.settings.content)) == recipe.settings.content


def test_two_spellings_are_one_recipe_and_none_is_as_before(tmp_path: Path) -> None:
    plain, short = load(tmp_path, ""), load(tmp_path, "tokenizer_source: union")
    long = load(tmp_path, "tokenizer: {source: union, tokens: {}, pad_to_multiple_of: null, new_rows: donor}")
    assert (short.digest, short.merge_digest) == (long.digest, long.merge_digest)
    assert len({plain.merge_digest, short.merge_digest, load(tmp_path, "chat_template: auto").merge_digest}) == 3
    assert plain.settings.tokenizer is None
    # As before there were such keys.
    assert plain.merge_digest == "32d18a5e6ef52fc31e0ceab4e983226af06b5e0ddb59c3ad98457388cd3290da"
    assert plain.digest == "82513de7e0420a095399c64550384941ed993d48331e945f9ddbc9368ffce3ec"


FAULTS = {
    "tokenizer_source: 3": "4: tokenizer_source: expected text (put it in quotes), found the number 3",
    "tokenizer_source: ../salor": "4: tokenizer_source: unknown model `../salor`; the nearest known is `../sailor`",
    "tokenizer: union": "4: tokenizer: expected a mapping, found the text `union`",
    "tokenizer:\n  sorce: union": "5: tokenizer.sorce: unknown key `sorce`; the nearest known is `source`",
    "tokenizer: {source: union}\ntokenizer_source: union": "5: tokenizer_source: `tokenizer` has a `source` of its own",
    "tokenizer:\n  tokens:\n    <p>:\n      source: {kind: zeros}": "7: tokenizer.tokens.<p>.source.kind: expected one",
    "tokenizer:\n  tokens:\n    <pad>: {source: ../cat}": "6: tokenizer.tokens.<pad>.source: unknown model `../cat`",
    "tokenizer: {tokens: {a: {source: {model: ../chat, lora: x}}}}": "unknown model `../chat+x`",
    "tokenizer: {pad_to_multiple_of: -1}": "4: tokenizer.pad_to_multiple_of: expected a whole number from 1",
    "chat_template: chatlm": "4: chat_template: unknown template `chatlm`; the nearest known is `chatml`",
    "chat_template: '{% if %}'": "4: chat_template: expected a Jinja text, found one that does not compile",
}


@pytest.mark.parametrize("written", FAULTS)
def test_a_mistake_is_told_with_line_and_nearest(written: str, tmp_path: Path) -> None:
    assert FAULTS[written] in refusal(tmp_path, written)


def test_a_recipe_s_merge_of_two_vocabularies(tmp_path: Path) -> None:
    sizes = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    tokenizer, weights = byte_level(), llama_weights(0, torch.float32, sizes)
    write_model(tmp_path / "base", weights, tokenizer, sizes)
    write_model(tmp_path / "chat", weights, with_added(tokenizer, "[PAD]"), sizes, seed=1)
    write_model(tmp_path / "sailor", weights, permuted(tokenizer, 2), sizes, seed=2)
    (tmp_path / "recipe").mkdir()
    recipe = tmp_path / "recipe/merge.yaml"
    asked = {"tokenizer_source": "union", "chat_template": "chatml"}
    recipe.write_text(yaml.safe_dump(yaml.safe_load(PLAIN) | asked))
    assert [one.name for one in open_inputs(load_recipe(recipe), recipe.parent)] == ["base", "chat", "sailor"]
    done = run_widen("merge", recipe, "--out", tmp_path / "out", cwd=recipe.parent, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "1 tokens that only chat and later models have were added" in done.stderr
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    number = loaded.get_vocab()["[PAD]"]
    rows, donor = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "chat"))
    assert (rows["lm_head.weight"][number] == donor["lm_head.weight"][300]).all()
    assert loaded.decode(loaded.encode("kucing itu duduk")) == "kucing itu duduk"
    assert "<|im_start|>" in loaded.chat_template
    recipe.write_text(PLAIN)
    refused = run_widen("merge", recipe, "--out", tmp_path / "no", cwd=recipe.parent, home=tmp_path / "home")
    assert refused.returncode == 3
    assert "align them by token: `tokenizer_source: union` or `base`" in refused.stderr


@pytest.mark.parametrize("aligned", [False, True])
def test_a_merge_from_before_the_base_s_tokenizer_was_a_request_merges_again_as_it_was(
    aligned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same recipe, as the engines before and after read it: each manifest says what was done."""
    write_model(tmp_path / "base", llama_weights(0), byte_level())
    write_model(tmp_path / "chat", llama_weights(1), byte_level())
    (tmp_path / "recipe").mkdir()
    asked = load(tmp_path / "recipe", "tokenizer_source: base").text.replace(", {model: ../sailor}", "")
    (tmp_path / "recipe/asked.yaml").write_text(asked)
    (tmp_path / "recipe/read.yaml").write_text(asked if aligned else asked.replace("tokenizer_source: base", ""))
    recipe, out = load_recipe(tmp_path / "recipe/read.yaml"), tmp_path / "recipe/merged"
    named = widen.manifest.Recipe("read", recipe.merge_digest)
    base, *models = open_inputs(recipe, tmp_path / "recipe")
    made = widen.merge(base, models, out, recipe.settings, recipe=named, file_digests=True)
    assert ("tokenizer" in made.settings) == aligned

    decision = judged(card("merged", made.digest, 80))
    sources = [SourceRecord(name, one.path) for name, one in recipe.inputs.items()]
    lineage = build(out / MANIFEST, sources, asked, decision, collect())
    (out / LINEAGE).write_text(lineage.to_json())
    version = Version("read", 1, "run", ((LINEAGE_DIGEST, lineage.digest()),), ())
    (tmp_path / "scratch").mkdir()
    checks, places = Checks(), Sources(tmp_path / "recipe", {})
    again = make_again(Record(version, "", out), checks, places, "cpu", tmp_path / "scratch")
    assert again is not None, capsys.readouterr().out
    assert checks.failed == []
    assert again.made.digest == made.digest
