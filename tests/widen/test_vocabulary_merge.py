"""Merges of models whose vocabularies differ, checked by text: rows, logits, tokenizers that load, configurations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

import widen
from tests.build import LLAMA, changed, llama_weights
from tests.vocabularies import (
    byte_level,
    ids_of,
    metaspace,
    permuted,
    with_added,
    word_piece,
    words,
    write_model,
)
from widen.api import outlook
from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused
from widen.vocabulary.request import TokenizerRequest, TokenRequest

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SMALL = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
SAID = ["the cat sat on the mat", "kucing itu duduk", "a naïve café, doesn't it? 12 €"]
BASE, UNION = TokenizerRequest("base"), TokenizerRequest("union")


def body(seed: int, size: float = 0.1, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    weights = llama_weights(0, dtype, SMALL)
    return changed(weights, seed, size) if seed else weights


def made(folder: Path, name: str, tokenizer: Tokenizer, seed: int, **told: Any) -> Path:
    return write_model(
        folder / name, body(seed, dtype=told.pop("dtype", torch.float32)), tokenizer, SMALL, seed=seed, **told
    )


def merged(out: Path, base: Path, models: list[Path], request: TokenizerRequest | None, **told: Any) -> widen.Manifest:
    return widen.merge(base, models, out, widen.Settings(tokenizer=request, **told))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def logits_by_text(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    """For each token of the output, its logit after a sequence of tokens, given by text."""
    vocabulary = AutoTokenizer.from_pretrained(folder).get_vocab()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.get_input_embeddings().weight.shape[0] > max(vocabulary.values())
    with torch.no_grad():
        logits = model(torch.tensor([[vocabulary[text] for text in texts]])).logits[0, -1]
    return {text: logits[number] for text, number in vocabulary.items()}


# The show: by text, not by ids


@pytest.mark.parametrize("source", ["base", "union", "twin"])
def test_a_permuted_twin_merges_to_the_same_logits_by_text(source: str, tmp_path: Path) -> None:
    tokenizer = byte_level()
    base, plain = made(tmp_path, "base", tokenizer, 0), made(tmp_path, "plain", tokenizer, 1)
    twin = made(tmp_path, "twin", permuted(tokenizer, 7), 1)
    straight = merged(tmp_path / "straight", base, [plain], None)
    aligned = merged(tmp_path / "aligned", base, [twin], TokenizerRequest(source))
    texts = tokenizer.encode(SAID[0]).tokens
    expected, found = logits_by_text(tmp_path / "straight", texts), logits_by_text(tmp_path / "aligned", texts)
    assert expected.keys() == found.keys()
    assert len(expected) == 300
    for text, logit in expected.items():
        torch.testing.assert_close(found[text], logit, rtol=0, atol=2e-7)
    if source != "twin":
        assert {name: one.sha256 for name, one in aligned.tensors.items()} == {
            name: one.sha256 for name, one in straight.tensors.items()
        }
    else:
        assert aligned.tensors[EMBEDDING].sha256 != straight.tensors[EMBEDDING].sha256
    loaded = AutoTokenizer.from_pretrained(tmp_path / "aligned")
    for said in SAID:
        assert loaded.decode(loaded.encode(said)) == said


def test_extended_and_permuted_vocabularies_merge_by_text(tmp_path: Path) -> None:
    tokenizer = byte_level()
    more = with_added(permuted(tokenizer, 3), "<pad>", "<|im_start|>")
    base, chat = made(tmp_path, "base", tokenizer, 0), made(tmp_path, "chat", more, 1)
    plainly = made(tmp_path, "plainly", with_added(tokenizer, "<pad>", "<|im_start|>"), 1)
    extended = made(tmp_path, "extended", with_added(tokenizer, "<pad>", "<|im_start|>"), 0)
    for name in (EMBEDDING, HEAD):  # where the base lacks a token, the only model that has it counts
        held = tensors(extended)
        ids, theirs = ids_of(with_added(tokenizer, "<pad>", "<|im_start|>")), tensors(chat)[name]
        for text in ("<pad>", "<|im_start|>"):
            held[name][ids[text]] = theirs[ids_of(more)[text]]
        save_file(held, extended / "model.safetensors", {"format": "pt"})
    merged(tmp_path / "straight", extended, [plainly], None)
    merged(tmp_path / "union", base, [chat], UNION)
    texts = ["<|im_start|>", *tokenizer.encode(SAID[0]).tokens]
    expected, found = logits_by_text(tmp_path / "straight", texts), logits_by_text(tmp_path / "union", texts)
    assert len(found) == 302
    for text, logit in expected.items():
        assert found[text] == logit, text
    loaded = AutoTokenizer.from_pretrained(tmp_path / "union")
    for said in ["<|im_start|>" + SAID[0] + "<pad>", *SAID]:
        assert loaded.decode(loaded.encode(said)) == said
    assert loaded.encode("<|im_start|>a")[0] == found.keys().__len__() - 1 == loaded.get_vocab()["<|im_start|>"]


@pytest.mark.parametrize(("kind", "size"), [(metaspace, 90), (word_piece, 90), (byte_level, 300)])
def test_the_union_s_tokenizer_loads_and_gives_each_token_its_row_s_id(kind: Any, size: int, tmp_path: Path) -> None:
    first, other = (
        kind(size=size),
        with_added(kind(["wholly other words stand here, zebra"], size=size), "<pad>", "<x> y"),
    )
    base, chat = made(tmp_path, "base", first, 0), made(tmp_path, "chat", other, 2)
    merged(tmp_path / "out", base, [chat], UNION)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    found, own, theirs = loaded.get_vocab(), ids_of(first), ids_of(other)
    assert set(found) == own.keys() | theirs.keys()
    assert {text: found[text] for text in own} == own
    rows = tensors(tmp_path / "out")[EMBEDDING]
    assert (
        rows.shape[0] == max(found.values()) + 1 == json.loads((tmp_path / "out/config.json").read_text())["vocab_size"]
    )
    donor = tensors(chat)[EMBEDDING]
    for text in theirs.keys() - own.keys():
        assert (rows[found[text]] == donor[theirs[text]]).all(), text
    assert set(loaded.all_special_tokens) <= set(found)
    special = {
        text for text, token in loaded.added_tokens_encoder.items() if loaded.added_tokens_decoder[token].special
    }
    assert {"<pad>", "<x> y"} <= special
    said = "the cat sat on the mat"
    assert loaded.encode("<x> y" + said)[0] == found["<x> y"]
    assert loaded.decode(loaded.encode("<pad>"), skip_special_tokens=True) == ""
    if kind is byte_level:
        for text in SAID:
            assert loaded.decode(loaded.encode(text)) == text


# An added pad token; Sailor and WizardLM


def test_an_added_pad_token_and_padded_rows(tmp_path: Path) -> None:
    tokenizer = byte_level()
    base = made(tmp_path, "base", tokenizer, 0, rows=320)  # as Qwen: more rows than tokens
    wizard = made(
        tmp_path, "wizard", with_added(tokenizer, "[PAD]"), 1
    )  # as WizardLM: one row more than its base's tokens
    sailor = made(tmp_path, "sailor", permuted(tokenizer, 5), 2, rows=304)
    merged(tmp_path / "out", base, [wizard, sailor], UNION)
    rows = tensors(tmp_path / "out")
    assert rows[EMBEDDING].shape[0] == rows[HEAD].shape[0] == 320
    assert (rows[EMBEDDING][300] == tensors(wizard)[EMBEDDING][300]).all()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()["[PAD]"] == 300
    with pytest.raises(InputsRefused, match=r"or align them by token: `tokenizer_source: union` or `base`"):
        merged(tmp_path / "no", base, [wizard], None)
    with pytest.raises(InputsRefused, match=r"other tokenizer: .*`tokenizer_source: union`"):
        widen.merge(tmp_path / "base", [tmp_path / "sailor"], tmp_path / "no")


def test_bfloat16_stays_and_computed_rows_are_rounded_once(tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "a", "b", "c"])
    padded = with_added(tokenizer, "<pad>")
    named = {"base": tokenizer, "one": padded, "two": padded}
    kind = torch.bfloat16
    models = [made(tmp_path, name, one, seed, dtype=kind) for seed, (name, one) in enumerate(named.items())]
    manifest = merged(
        tmp_path / "out", models[0], models[1:], UNION, method="linear", origin=False, parameters={"weight": 1}
    )
    assert {one.dtype for one in manifest.tensors.values()} == {"BF16"}
    own = [tensors(model)[EMBEDDING][4].double() for model in models[1:]]
    mean = ((own[0] + own[1]) / 2).float().double()
    expected = ((mean + own[0] + own[1]) / 3).to(torch.bfloat16)
    assert (tensors(tmp_path / "out")[EMBEDDING][4] == expected).all()


# Configurations


def rewrite(folder: Path, file: str, **content: Any) -> None:
    path = folder / file
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(held | content))


def test_configurations_have_the_output_tokenizer_s_ids(tmp_path: Path) -> None:
    base = made(tmp_path, "base", words(["<unk>", "<s>", "</s>", "a", "<img>", "<old>"]), 0)
    chat = made(tmp_path, "chat", words(["<s>", "a", "<unk>", "</s>", "<|im_end|>", "<img>"]), 1)
    rewrite(base, "config.json", bos_token_id=1, eos_token_id=2, pad_token_id=5)
    rewrite(
        base, "generation_config.json", bos_token_id=1, eos_token_id=[2, 5], suppress_tokens=[3, 5], temperature=0.5
    )
    rewrite(chat, "config.json", bos_token_id=0, eos_token_id=4)
    merged(tmp_path / "out", base, [chat], TokenizerRequest("chat"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["vocab_size"]) == (0, 4, 6)
    assert "pad_token_id" not in config  # the output has no `<old>`
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation == {"bos_token_id": 0, "eos_token_id": 4, "suppress_tokens": [1], "temperature": 0.5}
    merged(tmp_path / "kept", base, [chat], UNION)
    kept = json.loads((tmp_path / "kept/config.json").read_text())
    assert (kept["bos_token_id"], kept["eos_token_id"], kept["pad_token_id"], kept["vocab_size"]) == (1, 2, 5, 7)
    assert json.loads((tmp_path / "kept/generation_config.json").read_text())["eos_token_id"] == [2, 5]


def test_files_that_keep_a_list_of_added_tokens_keep_it_whole(tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "a"])
    decoder = {"0": {"content": "<unk>", "special": True}}
    base = made(tmp_path, "base", tokenizer, 0, added_tokens_decoder=decoder, unk_token="<unk>")
    (base / "vocab.json").write_text("{}")
    chat = made(tmp_path, "chat", with_added(tokenizer, "<pad>", "<y>"), 1)
    merged(tmp_path / "out", base, [chat], UNION)
    told = json.loads((tmp_path / "out/tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert {number: token["content"] for number, token in told.items()} == {"0": "<unk>", "2": "<pad>", "3": "<y>"}
    assert not (tmp_path / "out/vocab.json").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == {"<unk>": 0, "a": 1, "<pad>": 2, "<y>": 3}


# The record: reuse, verification, outlook


def test_a_merge_is_its_own_record(tmp_path: Path) -> None:
    tokenizer = byte_level()
    base = made(tmp_path, "base", tokenizer, 0)
    chat = made(tmp_path, "chat", with_added(permuted(tokenizer, 3), "<pad>"), 1)
    request = TokenizerRequest("union", {"<pad>": TokenRequest("zero")}, 16)
    settings = widen.Settings(tokenizer=request, chat_template="chatml")
    resources = widen.Resources("cpu", cache=tmp_path / "cache")
    first = widen.merge(base, [chat], tmp_path / "out", settings, resources=resources)
    assert first.settings["tokenizer"] == {"source": "union", "tokens": {"<pad>": {"source": {"kind": "zero"}}},
                                           "pad_to_multiple_of": 16}  # fmt: skip
    assert widen.Settings(**first.settings) == settings
    assert [entry.name for entry in first.inputs] == ["base", "chat"]
    foreseen, problems = outlook(base, [chat], tmp_path / "out", settings, resources=resources)
    assert (problems, foreseen.write) == ([], sum(one.numel() * 4 for one in tensors(tmp_path / "out").values()))
    assert widen.merge(base, [chat], tmp_path / "out", settings, resources=resources).digest == first.digest
    again = widen.merge(base, [chat], tmp_path / "again", widen.Settings(**first.settings), recipe=first.recipe)
    assert {name: one.sha256 for name, one in again.tensors.items()} == {
        name: one.sha256 for name, one in first.tensors.items()
    }
    assert again.files == first.files
    assert again.digest == first.digest
    assert widen.inspect(base, [chat], settings=settings).problems == ()
    updated = tensors(chat)
    updated[EMBEDDING][5] += 1
    save_file(updated, chat / "model.safetensors", {"format": "pt"})
    second = widen.merge(base, [chat], tmp_path / "out", settings, resources=resources)
    assert second.reuse.reused == len(second.tensors) - 1
    assert second.tensors[EMBEDDING].sha256 != first.tensors[EMBEDDING].sha256


def test_without_a_request_nothing_is_recorded_of_one() -> None:
    assert not {"tokenizer", "chat_template"} & widen.Settings().content.keys()
    assert widen.Settings().digest == widen.Settings(tokenizer=None).digest


def test_a_permuted_model_is_merged_whatever_the_threads_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = byte_level()
    base, chat = (
        made(tmp_path, "base", tokenizer, 0),
        made(tmp_path, "chat", with_added(permuted(tokenizer, 3), "<p>"), 1),
    )
    request = TokenizerRequest("union", new_rows="mean")
    first = merged(tmp_path / "one", base, [chat], request)
    monkeypatch.setattr("widen.vocabulary.rows.BLOCK_BYTES", 100)
    second = widen.merge(base, [chat], tmp_path / "two", widen.Settings(tokenizer=request),
                         resources=widen.Resources("cpu", threads=1))  # fmt: skip
    assert {n: one.sha256 for n, one in first.tensors.items()} == {n: one.sha256 for n, one in second.tensors.items()}


# Chat templates


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes"},
]
RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nYes<|im_end|>\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>",
    "mistral": "<s> [INST] Be brief.\n\nHi [/INST] Yes</s>",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nYes",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Yes[|endofturn|]\n",
}


@pytest.mark.parametrize("name", RENDERED)
def test_a_built_in_template_renders_its_format(name: str, tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "<s>", "</s>"])
    base = made(tmp_path, "base", tokenizer, 0, bos_token="<s>", eos_token="</s>", chat_template="{{ 'old' }}")
    merged(tmp_path / "out", base, [made(tmp_path, "m", tokenizer, 1)], None, chat_template=name)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.apply_chat_template(CHAT, tokenize=False) == RENDERED[name]
    opened = loaded.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert RENDERED[name].startswith(opened)
    assert "chat_template" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())


def test_auto_takes_the_most_common_template_then_the_first(tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "a"])
    base = made(tmp_path, "base", tokenizer, 0)
    first = made(tmp_path, "first", tokenizer, 1, chat_template="{{ 'one' }}")
    others = [made(tmp_path, name, tokenizer, seed) for seed, name in enumerate(("second", "third"), start=2)]
    (others[0] / "chat_template.jinja").write_text("{{ 'two' }}\n")
    merged(tmp_path / "tie", base, [first, others[0]], None, chat_template="auto")
    assert (tmp_path / "tie/chat_template.jinja").read_text() == "{{ 'one' }}"
    (others[1] / "chat_template.jinja").write_text("{{ 'two' }}")
    merged(tmp_path / "most", base, [first, *others], BASE, chat_template="auto")
    assert (tmp_path / "most/chat_template.jinja").read_text() == "{{ 'two' }}"
    none = merged(tmp_path / "none", base, [made(tmp_path, "plain", tokenizer, 4)], None, chat_template="auto")
    assert "chat template: `auto`, and no model has one" in none.notes


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("chatlm", "unknown template `chatlm`; the nearest known is `chatml`"),
        ("{% for message in messages %}", "does not compile: line 1"),
        ("{{ messages | nosuchfilter }}", "does not compile: line 1: No filter named 'nosuchfilter'"),
        (" ", "expected `auto`, a template's name or a Jinja text"),
    ],
)
def test_a_template_that_is_none_is_told(asked: str, told: str) -> None:
    with pytest.raises(widen.errors.RecipeError, match=rf"^chat_template: .*{told}"):
        widen.Settings(chat_template=asked)


def test_a_template_may_mark_what_the_assistant_says() -> None:
    asked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert widen.Settings(chat_template=asked).content["chat_template"] == asked


def test_the_tokenizer_of_the_chat_model_brings_its_template(tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "a"])
    base = made(tmp_path, "base", tokenizer, 0, chat_template="{{ 'base' }}")
    chat = made(tmp_path, "chat", permuted(tokenizer, 1), 1, chat_template="{{ 'chat' }}")
    merged(tmp_path / "out", base, [chat], TokenizerRequest("chat"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ 'chat' }}"
    assert Checkpoint.open(tmp_path / "out").config["vocab_size"] == 2
