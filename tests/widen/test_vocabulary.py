"""Tokens told by text: what a tokenizer's files say, what is refused, and the rows that an alignment gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.build import LLAMA, llama_weights, write_checkpoint
from tests.vocabularies import (
    byte_level,
    ids_of,
    metaspace,
    permuted,
    with_added,
    word_piece,
    words,
    write_model,
    write_tokenizer,
)
from widen.checkpoint import Checkpoint
from widen.dtypes import BF16, F32
from widen.errors import InputsRefused, RecipeError
from widen.vocabulary.alignment import align
from widen.vocabulary.request import TokenizerRequest, TokenRequest, mistakes
from widen.vocabulary.rows import aligned_rows, aligned_shape, aligned_type, as_float32
from widen.vocabulary.vocabulary import Vocabulary

EMBEDDING = "model.embed_tokens.weight"
KINDS = {"byte level": byte_level, "unigram": metaspace, "word piece": word_piece}
SMALL = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}


def model(folder: Path, tokenizer: Tokenizer, dtype: torch.dtype = torch.float32, **more: Any) -> Checkpoint:
    size = more.get("rows") or max(ids_of(tokenizer).values()) + 1
    weights = llama_weights(0, dtype, SMALL | {"vocab_size": size})
    return Checkpoint.open(write_model(folder, weights, tokenizer, SMALL, **more))


def table(alignment: Any, checkpoints: list[Checkpoint], index: int, name: str = EMBEDDING) -> np.ndarray:
    bits = np.concatenate(list(aligned_rows(alignment, checkpoints, index, name)))
    kind = aligned_type(alignment, checkpoints, index, name)
    values = as_float32(bits.reshape(-1), kind).reshape(bits.shape)
    assert values.shape == aligned_shape(alignment, checkpoints[index], index, name)
    return values


def stored(checkpoint: Checkpoint, name: str = EMBEDDING) -> np.ndarray:
    return load_file(checkpoint.folder / "model.safetensors")[name].float().numpy()


# What a tokenizer's files say


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_is_what_the_library_says(kind: str, tmp_path: Path) -> None:
    tokenizer = with_added(KINDS[kind](), "<pad>", "<|im_start|>")
    vocabulary = Vocabulary.of(model(tmp_path / "m", tokenizer))
    assert vocabulary is not None
    assert vocabulary.ids == ids_of(tokenizer)
    assert vocabulary.added["<pad>"]["special"]
    assert "the" not in vocabulary.added


def test_added_tokens_that_only_files_beside_name(tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "a", "b"])
    checkpoint = model(
        tmp_path / "m", tokenizer, rows=5, added_tokens_decoder={"4": {"content": "<x>", "special": True}}
    )
    (checkpoint.folder / "added_tokens.json").write_text(json.dumps({"<pad>": 3}))
    vocabulary = Vocabulary.of(checkpoint)
    assert vocabulary is not None
    assert vocabulary.ids == {"<unk>": 0, "a": 1, "b": 2, "<pad>": 3, "<x>": 4}
    assert (vocabulary.added["<pad>"]["special"], vocabulary.added["<x>"]["special"]) == (False, True)


@pytest.mark.parametrize("listed", [{}, {"added_tokens_decoder": {}}], ids=["plain", "with a list"])
def test_special_tokens_that_are_only_named_get_the_ids_that_transformers_gives(
    listed: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = byte_level()
    told = {
        "pad_token": "[PAD]", "bos_token": "<s>", "eos_token": {"content": "[EOS]", "__type": "AddedToken"},
        "mask_token": "[M]", "extra_special_tokens": ["<e>", "<s>"],
    }  # fmt: skip
    checkpoint = model(tmp_path / "m", tokenizer, rows=304, **told, **listed)
    (checkpoint.folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    vocabulary = Vocabulary.of(checkpoint, 304)
    assert vocabulary is not None
    assert vocabulary.ids == AutoTokenizer.from_pretrained(checkpoint.folder).get_vocab()
    assert {text: number for text, number in vocabulary.ids.items() if number > 299} == {
        "[EOS]": 300, "[PAD]": 301, "[M]": 302, "<e>": 303,
    }  # fmt: skip
    fewer = Vocabulary.of(checkpoint, 301)
    assert fewer is not None
    assert max(fewer.ids.values()) == 300


def test_older_files_are_converted(tmp_path: Path) -> None:
    tokenizer = byte_level()
    folder = tmp_path / "m"
    weights = llama_weights(0, torch.float32, SMALL | {"vocab_size": 300})
    write_checkpoint(folder, weights, SMALL, vocab_size=300)
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer", "unk_token": "<unk>"})
    )
    vocabulary = Vocabulary.of(Checkpoint.open(folder))
    assert vocabulary is not None
    assert {text: vocabulary.ids[text] for text in ids_of(tokenizer)} == ids_of(tokenizer)


def test_older_files_that_cannot_be_converted_are_refused(tmp_path: Path) -> None:
    weights = llama_weights(0, torch.float32, SMALL | {"vocab_size": 300})
    folder = write_checkpoint(tmp_path / "m", weights, SMALL, vocab_size=300)
    (folder / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(InputsRefused, match=r"^m: it has no tokenizer.json, and transformers cannot convert"):
        Vocabulary.of(Checkpoint.open(folder))


def set_to(content: dict[str, Any], place: str, value: Any) -> None:
    *path, last = place.split(".")
    for part in path:
        content = content[int(part)] if isinstance(content, list) else content[part]
    content[int(last) if isinstance(content, list) else last] = value


HOSTILE = {
    "two texts, one id": ("model.vocab", {"<unk>": 0, "a": 1, "b": 1}, "model.vocab 'b'", "not that of 'a', found 1"),
    "negative": ("model.vocab.a", -1, "model.vocab 'a'", "an id of at least 0, found -1"),
    "no number": ("model.vocab.a", "1", "model.vocab 'a'", "an id of at least 0, found '1'"),
    "true": ("model.vocab.a", True, "model.vocab 'a'", "an id of at least 0, found True"),
    "huge": ("model.vocab.a", 1 << 40, "model.vocab 'a'", f"an id of at least 0, found {1 << 40}"),
    "no vocabulary": ("model.vocab", 3, "model.vocab", "a mapping of tokens to ids, or a list of pieces, found 3"),
    "no model": ("model", None, "model", "a mapping with the vocabulary, found nothing"),
    "pieces that are no text": ("model.vocab", [["a", 0.0], [7, 0.0]], "model.vocab[1]", "a token's text, found 7"),
    "an added token that is no text": ("added_tokens.0.content", 5, "added_tokens[0]", "a token's text, found 5"),
    "an added token without text": ("added_tokens.0", {"id": 3}, "added_tokens[0]", "a token's text, found nothing"),
    "an added token that is a number": ("added_tokens.0", 3, "added_tokens[0]", "a mapping with `content` and `id`"),
    "added tokens that are no list": ("added_tokens", {"a": 1}, "added_tokens", "a list, found {'a': 1}"),
    "an added token with another's id": ("added_tokens.0.id", 1, "added_tokens[0] '<pad>'", "not that of 'a', found 1"),
    "a flag that is none": ("added_tokens.0.special", "yes", "added_tokens[0].special", "true or false, found 'yes'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tokenizer_is_refused(case: str, tmp_path: Path) -> None:
    place, value, key, told = HOSTILE[case]
    checkpoint = model(tmp_path / "m", with_added(words(["<unk>", "a", "b"]), "<pad>"))
    content = json.loads((checkpoint.folder / "tokenizer.json").read_text())
    set_to(content, place, value)
    (checkpoint.folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputsRefused) as caught:
        Vocabulary.of(checkpoint)
    assert str(caught.value).startswith(f"m: tokenizer.json: {key}: expected ")
    assert told in str(caught.value)


def test_an_id_that_the_library_would_not_give_is_refused(tmp_path: Path) -> None:
    checkpoint = model(tmp_path / "m", with_added(words(["<unk>", "a", "b"]), "<pad>"), rows=9)
    content = json.loads((checkpoint.folder / "tokenizer.json").read_text())
    content["added_tokens"][0]["id"] = 6
    (checkpoint.folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(
        InputsRefused, match=r"token '<pad>' is written with id 6, and the tokenizers library gives it 3"
    ):
        Vocabulary.of(checkpoint)


def test_ids_beyond_the_rows_are_refused(tmp_path: Path) -> None:
    checkpoint = model(tmp_path / "m", words(["<unk>", "a", "b", "c"]), rows=3)
    with pytest.raises(InputsRefused, match=r"m: token 'c' has id 3, and the embedding has 3 rows"):
        align([checkpoint], TokenizerRequest("base"))


def test_a_damaged_json_is_refused(tmp_path: Path) -> None:
    checkpoint = model(tmp_path / "m", words(["<unk>", "a"]))
    (checkpoint.folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {}}}')
    with pytest.raises(InputsRefused, match=r"not what the tokenizers library reads"):
        Vocabulary.of(checkpoint)


# The request


@pytest.mark.parametrize(
    ("content", "where", "told"),
    [
        ({"sorce": "base"}, "sorce", "the nearest known is `source`"),
        ({"source": 3}, "source", "expected `base`, `union` or a model's name, found 3"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of", "a whole number from 1"),
        ({"pad_to_multiple_of": True}, "pad_to_multiple_of", "found True"),
        ({"new_rows": "zero"}, "new_rows", "expected `donor` or `mean`"),
        ({"tokens": ["a"]}, "tokens", "expected a mapping"),
        ({"tokens": {3: {}}}, "tokens.3", "put it in quotes"),
        ({"tokens": {"a": "m"}}, "tokens.a", "a mapping with `source` and `force`"),
        ({"tokens": {"a": {"forced": True}}}, "tokens.a.forced", "the nearest known is `force`"),
        ({"tokens": {"a": {"force": 1, "source": "m"}}}, "tokens.a.force", "true or false, found 1"),
        ({"tokens": {"a": {"force": True}}}, "tokens.a", "say by which `source`"),
        ({"tokens": {"a": {"source": {"kind": "zeros"}}}}, "tokens.a.source.kind", "the nearest is `zero`"),
        ({"tokens": {"a": {"source": {"kind": "zero", "model": "m"}}}}, "tokens.a.source.model", "unknown key"),
        ({"tokens": {"a": {"source": {"kind": "model_token", "model": "m"}}}}, "tokens.a.source", "found neither"),
        (
            {"tokens": {"a": {"source": {"kind": "model_token", "model": "m", "token": "b", "token_id": 1}}}},
            "tokens.a.source", "found both",
        ),
        (
            {"tokens": {"a": {"source": {"kind": "model_token", "model": "m", "token_id": -1}}}},
            "tokens.a.source.token_id", "at least 0, found -1",
        ),
    ],
)  # fmt: skip
def test_a_mistaken_request_is_told(content: dict[str, Any], where: str, told: str) -> None:
    found = {".".join(place): text for place, text in mistakes(content)}
    assert told in found[where]
    with pytest.raises(RecipeError, match=rf"tokenizer\.{where}: "):
        TokenizerRequest.of(content)


def test_a_request_s_content_is_read_back() -> None:
    content = {
        "source": "chat",
        "tokens": {
            "<a>": {"source": {"kind": "zero"}, "force": True},
            "<b>": {"source": {"kind": "model_token", "model": "m", "token_id": 0}},
            "<c>": {"source": "m"},
            "<d>": {},
        },
        "pad_to_multiple_of": 64,
        "new_rows": "mean",
    }
    request = TokenizerRequest.of(content)
    assert request.content == content
    assert json.loads(json.dumps(request.content)) == content
    assert TokenizerRequest.of(request.content) == request
    assert request.tokens["<b>"] == TokenRequest("model_token", "m", token_id=0)
    assert TokenizerRequest.of({}).content == {"source": "union"}


# Alignment


def three(folder: Path) -> list[Checkpoint]:
    base = words(["<unk>", "a", "b", "c"])
    first = with_added(words(["<unk>", "c", "a", "b"]), "<pad>")
    second = with_added(words(["<unk>", "b", "d", "a", "c"]), "<pad>", "<x>")
    named = {"base": base, "first": first, "second": second}
    return [model(folder / name, one, seed=seed) for seed, (name, one) in enumerate(named.items())]


def test_union_keeps_the_base_s_ids_and_appends_by_model_and_id(tmp_path: Path) -> None:
    found = three(tmp_path)
    alignment = align(found, TokenizerRequest("union"))
    assert alignment.ids == {"<unk>": 0, "a": 1, "b": 2, "c": 3, "<pad>": 4, "d": 5, "<x>": 6}
    assert alignment.appended == ("<pad>", "d", "<x>")
    assert alignment.rows == 7
    rows = [table(alignment, found, index) for index in range(3)]
    own = [stored(one) for one in found]
    for text, number in alignment.ids.items():
        for index in range(3):
            ids = alignment.vocabularies[index].ids
            if text in ids:
                assert (rows[index][number] == own[index][ids[text]]).all()
    # Only one model has it, then: two models have it, and not the base.
    assert (rows[0][6] == own[2][6]).all()
    assert (rows[1][6] == own[2][6]).all()
    mean = ((own[1][4].astype(np.float64) + own[2][5].astype(np.float64)) / 2).astype(np.float32)
    assert (rows[0][4] == mean).all()
    assert not (mean == own[1][4]).all()


def test_the_base_s_row_comes_before_the_mean_of_all_that_have_it(tmp_path: Path) -> None:
    tokenizer = words(["<unk>", "a"])
    named = {"base": with_added(tokenizer, "<pad>"), "without": tokenizer, "with": with_added(tokenizer, "<pad>")}
    found = [model(tmp_path / name, one, seed=seed) for seed, (name, one) in enumerate(named.items())]
    alignment = align(found, TokenizerRequest("base"))
    assert (table(alignment, found, 1)[2] == stored(found[0])[2]).all()
    assert alignment.means == ()


def test_base_and_model_sources_keep_their_ids(tmp_path: Path) -> None:
    found = three(tmp_path)
    base, second = align(found, TokenizerRequest("base")), align(found, TokenizerRequest("second"))
    assert (base.ids, base.rows, base.appended) == ({"<unk>": 0, "a": 1, "b": 2, "c": 3}, 4, ())
    assert second.ids == {"<unk>": 0, "b": 1, "d": 2, "a": 3, "c": 4, "<pad>": 5, "<x>": 6}
    assert base.fills[0].is_identity(0, 4)
    assert not base.fills[1].is_identity(1, 5)
    assert (table(base, found, 1)[3] == stored(found[1])[1]).all()
    assert (table(second, found, 0)[2] == stored(found[2])[2]).all()


def test_new_rows_as_the_paper_s_code_has_them(tmp_path: Path) -> None:
    found = three(tmp_path)
    alignment = align(found, TokenizerRequest("union", new_rows="mean"))
    for index, text in ((0, "<pad>"), (0, "d"), (1, "<x>")):
        own = stored(found[index]).astype(np.float64)
        total = np.zeros(own.shape[1])
        for row in own:
            total += row
        expected = (total / len(own)).astype(np.float32)
        assert (table(alignment, found, index)[alignment.ids[text]] == expected).all()


def test_tokens_say_where_their_rows_come_from(tmp_path: Path) -> None:
    found = three(tmp_path)
    asked = {
        "<pad>": TokenRequest("zero"),
        "<x>": TokenRequest("model_token", "first", token="c"),
        "a": TokenRequest("model", "second", force=True),
        "b": TokenRequest("zero"),
        "<new>": TokenRequest("model_token", "base", token_id=2),
        "<also>": TokenRequest(),
    }
    alignment = align(found, TokenizerRequest("union", asked))
    assert alignment.appended == ("<pad>", "d", "<x>", "<also>", "<new>")
    rows, own = [table(alignment, found, index) for index in range(3)], [stored(one) for one in found]
    at = alignment.ids
    assert not rows[0][at["<pad>"]].any()
    assert (rows[1][at["<pad>"]] == own[1][4]).all()  # not forced: a model that has it keeps it
    assert (rows[0][at["<x>"]] == own[1][1]).all()
    assert (rows[2][at["<x>"]] == own[2][6]).all()
    for index in range(3):
        assert (rows[index][at["a"]] == own[2][3]).all()
        assert (rows[index][at["<new>"]] == own[0][2]).all()
        assert rows[index][at["b"]].any()
    assert any("no model has a row for '<also>'" in note for note in alignment.notes)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            TokenizerRequest("secnd"),
            r"tokenizer.source: no model of the merge is called `secnd`; the nearest is `second`",
        ),
        (
            TokenizerRequest("union", {"d": TokenRequest("model", "base")}),
            r"tokenizer.tokens.d.source: base has no row",
        ),
        (
            TokenizerRequest("union", {"<pad>": TokenRequest("model_token", "base", token_id=4)}),
            r"token_id: expected a row of base, which has 4, found 4",
        ),
        (TokenizerRequest("union", {"q": TokenRequest("model", "third")}), r"tokens.q.source: no model .* `third`"),
    ],
)
def test_a_request_that_names_nothing_is_refused(request_: TokenizerRequest, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        align(three(tmp_path), request_)


def test_padded_rows_stay_and_new_tokens_go_into_them(tmp_path: Path) -> None:
    base = model(tmp_path / "base", words(["<unk>", "a", "b"]), rows=8)
    other = model(tmp_path / "other", with_added(words(["<unk>", "b", "a"]), "<pad>"), seed=3)
    alignment = align([base, other], TokenizerRequest("union"))
    assert (alignment.rows, alignment.ids["<pad>"]) == (8, 3)
    rows = [table(alignment, [base, other], index) for index in range(2)]
    assert (rows[0][3] == stored(other)[3]).all()
    assert (rows[0][4:] == 7).all()  # the base's own, and the base's for the model that has no such row
    assert (rows[1][4:] == 7).all()
    positional = align([base, other], TokenizerRequest("base"))  # row 3 of the other is its `<pad>`, which has no part
    assert (table(positional, [base, other], 1)[3:] == 7).all()
    wider = align([base, other], TokenizerRequest("base", pad_to_multiple_of=6))
    assert wider.rows == 12
    own = stored(other).astype(np.float64)
    expected = (((own[0] + own[1]) + own[2]) + own[3]) / 4
    assert (table(wider, [base, other], 1)[8:] == expected.astype(np.float32)).all()


def test_added_tokens_without_a_row_get_one(tmp_path: Path) -> None:
    base = model(tmp_path / "base", with_added(words(["<unk>", "a", "b"]), "<pad>"), rows=3)
    other = model(tmp_path / "other", with_added(words(["<unk>", "b", "a"]), "<pad>"), seed=3)
    alignment = align([base, other], TokenizerRequest("base"))
    assert (alignment.ids["<pad>"], alignment.rows) == (3, 4)
    assert (table(alignment, [base, other], 0)[3] == stored(other)[3]).all()
    assert "tokenizer: base has no row for 1 added tokens, first '<pad>'" in alignment.notes


def test_a_model_without_a_tokenizer_shares_the_base_s_or_is_refused(tmp_path: Path) -> None:
    base = model(tmp_path / "base", words(["<unk>", "a", "b"]))
    silent = model(tmp_path / "silent", words(["<unk>", "b", "a"]), seed=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (silent.folder / name).unlink()
    alignment = align([base, silent], TokenizerRequest("base"))
    assert alignment.fills[1].is_identity(1, 3)
    assert alignment.notes == ("tokenizer: silent has none; its rows are taken for base's tokens",)
    longer = model(tmp_path / "longer", words(["<unk>", "b", "a", "c"]))
    (longer.folder / "tokenizer.json").unlink()
    with pytest.raises(InputsRefused, match=r"longer: it has no tokenizer and 4 rows, where base has 3"):
        align([base, longer], TokenizerRequest("base"))
    (base.folder / "tokenizer.json").unlink()
    with pytest.raises(InputsRefused, match=r"no model of the merge has a tokenizer"):
        align([base, silent], TokenizerRequest("base"))


def test_copies_keep_bits_and_type_and_means_are_float32(tmp_path: Path) -> None:
    base = model(tmp_path / "base", words(["<unk>", "a", "b"]), torch.bfloat16)
    twin = model(tmp_path / "twin", words(["b", "<unk>", "a"]), torch.bfloat16, seed=2)
    longer = model(tmp_path / "longer", with_added(words(["b", "<unk>", "a"]), "<pad>"), torch.float16, seed=2)
    plain = align([base, twin], TokenizerRequest("base"))
    assert aligned_type(plain, [base, twin], 1, EMBEDDING) is BF16
    bits = np.concatenate(list(aligned_rows(plain, [base, twin], 1, EMBEDDING)))
    assert (bits == twin.tensor(EMBEDDING).data.reshape(3, -1)[[1, 2, 0]]).all()
    mixed = align([base, longer], TokenizerRequest("union"))
    assert aligned_type(mixed, [base, longer], 0, EMBEDDING) is F32
    assert (table(mixed, [base, longer], 0)[:3] == stored(base)).all()
    assert (table(mixed, [base, longer], 0)[3] == stored(longer)[3]).all()


def test_rows_in_small_blocks_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = three(tmp_path)
    alignment = align(found, TokenizerRequest("union", new_rows="mean", pad_to_multiple_of=10))
    whole = [table(alignment, found, index) for index in range(3)]
    monkeypatch.setattr("widen.vocabulary.rows.BLOCK_BYTES", 70)
    assert len(list(aligned_rows(alignment, found, 0, EMBEDDING))) == 5
    for index in range(3):
        assert (table(alignment, found, index) == whole[index]).all()


TOKENS = st.lists(st.sampled_from([f"t{number}" for number in range(12)]), min_size=1, max_size=12, unique=True)


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.tuples(TOKENS, st.lists(st.sampled_from(["<p>", "<q>", "<r>"]), unique=True), st.integers(0, 3)),
                   min_size=1, max_size=4),
    source=st.sampled_from(["base", "union", "m1"]), multiple=st.integers(1, 9),
    new_rows=st.sampled_from(["donor", "mean"]),
)  # fmt: skip
def test_alignment_never_moves_an_id_and_maps_equal_text(
    parts: list[tuple[list[str], list[str], int]], source: str, multiple: int, new_rows: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    source = source if source != "m1" or len(parts) > 1 else "base"
    folder = tmp_path_factory.mktemp("m")
    found = []
    for index, (pieces, added, padding) in enumerate(parts):
        tokenizer = with_added(words(pieces), *added)
        size = len(pieces) + len(added) + padding
        tensors = {EMBEDDING: torch.zeros(size, 8), "lm_head.weight": torch.zeros(size, 8)}
        rest = {name: one for name, one in llama_weights(0, torch.float32, SMALL).items() if name not in tensors}
        write_checkpoint(folder / f"m{index}", rest | tensors, SMALL, vocab_size=size)
        write_tokenizer(folder / f"m{index}", tokenizer)
        found.append(Checkpoint.open(folder / f"m{index}"))
    alignment = align(found, TokenizerRequest(source, pad_to_multiple_of=multiple, new_rows=new_rows))
    chosen = alignment.vocabularies[alignment.source].ids
    assert {text: alignment.ids[text] for text in chosen} == chosen
    assert len(set(alignment.ids.values())) == len(alignment.ids)
    assert max(alignment.ids.values()) < alignment.rows
    assert alignment.rows % multiple == 0
    every = {text for one in alignment.vocabularies for text in one.ids}
    assert set(alignment.ids) == (every if source == "union" else set(chosen))
    for index, fill in enumerate(alignment.fills):
        assert len(fill.rows) == alignment.rows
        for text, number in alignment.ids.items():
            donor, row = int(fill.donors[number]), int(fill.rows[number])
            if text in alignment.vocabularies[index].ids:
                assert donor == index
            if donor >= 0:
                assert alignment.vocabularies[donor].ids[text] == row
            if donor == -3:
                assert all(alignment.vocabularies[one].ids[text] == place for one, place in alignment.means[row])


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_twin_aligns_to_the_same_rows(kind: str, tmp_path: Path) -> None:
    tokenizer = KINDS[kind]() if kind != "unigram" else byte_level()
    base = model(tmp_path / "base", tokenizer)
    twin = model(tmp_path / "twin", permuted(tokenizer, 1))
    alignment = align([base, twin], TokenizerRequest("base"))
    for name in (EMBEDDING, "lm_head.weight"):
        assert (table(alignment, [base, twin], 1, name) == stored(base, name)).all()
        assert not (stored(twin, name) == stored(base, name)).all()
