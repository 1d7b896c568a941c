"""Small tokenizers of every kind, and checkpoints whose rows follow their tokens."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.build import LLAMA, write_checkpoint

TEXT = [
    "the cat sat on the mat and the dog ran to the house",
    "kucing itu duduk di atas tikar dan anjing itu lari ke rumah",
    "a naïve café costs 12 € or more, doesn't it?",
]
SPECIAL = ("<s>", "</s>", "<unk>")


def byte_level(texts: Iterable[str] = TEXT, size: int = 300, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """As GPT-2 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def metaspace(texts: Iterable[str] = TEXT, size: int = 90, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """A Unigram model on words that begin with a bar, as SentencePiece's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(special), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def word_piece(texts: Iterable[str] = TEXT, size: int = 90, special: Sequence[str] = SPECIAL) -> Tokenizer:
    """As BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def words(listed: Sequence[str]) -> Tokenizer:
    """Whole words with the ids of their places."""
    tokenizer = Tokenizer(models.WordLevel({text: number for number, text in enumerate(listed)}, unk_token=listed[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def with_added(tokenizer: Tokenizer, *texts: str, special: bool = True) -> Tokenizer:
    """A copy with added tokens."""
    other = Tokenizer.from_str(tokenizer.to_str())
    other.add_tokens([AddedToken(text, special=special, normalized=not special) for text in texts])
    return other


def permuted(tokenizer: Tokenizer, seed: int) -> Tokenizer:
    """The same tokens with other ids."""
    content = json.loads(tokenizer.to_str())
    vocab, added = content["model"]["vocab"], {token["content"] for token in content["added_tokens"]}
    texts = sorted(vocab)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    content["model"]["vocab"] = {text: order[place] for place, text in enumerate(texts)}
    behind = len(texts)
    for token in content["added_tokens"]:
        if token["content"] not in vocab:
            token["id"], behind = behind, behind + 1
        else:
            token["id"] = content["model"]["vocab"][token["content"]]
    assert added == {token["content"] for token in content["added_tokens"]}
    content["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(content))


def ids_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Every token's id."""
    found: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    return found


def write_tokenizer(folder: Path, tokenizer: Tokenizer, **config: Any) -> Path:
    """tokenizer.json and a configuration that transformers loads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def row_of(text: str, width: int, seed: int = 0) -> torch.Tensor:
    """A row that is a function of the token's text."""
    number = int.from_bytes(text.encode()[:6].ljust(6, b"."), "little") % (1 << 40) + seed * 7 + len(text)
    return torch.randn(width, generator=torch.Generator().manual_seed(number), dtype=torch.float64) * 0.05


def write_model(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    config: Mapping[str, Any] = LLAMA,
    rows: int | None = None,
    seed: int = 0,
    **told: Any,
) -> Path:
    """A checkpoint whose embedding and head have, for each token, the row of its text; rows without one are 7."""
    ids = ids_of(tokenizer)
    size = rows or max(ids.values()) + 1
    filled = dict(weights)
    for place, name in enumerate(("model.embed_tokens.weight", "lm_head.weight")):
        if name not in weights:
            continue
        width, kind = weights[name].shape[1], weights[name].dtype
        table = torch.full((size, width), 7.0, dtype=kind)
        for text, number in ids.items():
            if number < size:
                table[number] = row_of(text, width, seed + place).to(kind)
        filled[name] = table
    write_checkpoint(folder, filled, {**config, "vocab_size": size})
    write_tokenizer(folder, tokenizer, **told)
    return folder
