"""A checkpoint's tokens by text: from tokenizer.json, or what the older files mean, as the library reads them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from widen.checkpoint import Checkpoint, read_json
from widen.errors import InputsRefused
from widen.tokenizer import FAST_FILE, SLOW_FILES

CONFIG_FILE = "tokenizer_config.json"
ADDED_FILE = "added_tokens.json"
FLAGS: Mapping[str, bool] = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": True,
    "special": False,
}
"""What the tokenizers library says of an added token, and what it takes for granted of one given as text."""
SPECIAL = {"special": True, "normalized": False}
MAP_FILE = "special_tokens_map.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""In the order in which transformers adds those that no file gives an id."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a checkpoint.

    ids: every token's id by its text, added tokens included. added: of these the added ones, each with FLAGS. content:
    tokenizer.json, as found or as transformers converts the older files.
    """

    name: str
    ids: Mapping[str, int]
    added: Mapping[str, Mapping[str, bool]]
    content: Mapping[str, Any]

    @classmethod
    def of(cls, checkpoint: Checkpoint, rows: int = 0) -> "Vocabulary | None":
        """Of a checkpoint, whose embedding has `rows`; None where it has no tokenizer.

        Special tokens that are only named get the next ids, as transformers gives them, as far as there are rows.
        Raises InputsRefused, naming model, file and key, where ids are not what a tokenizer can have: negative, no
        whole numbers, one id for two texts or two for one, tokens that are no text, or a file that the tokenizers
        library reads otherwise than it is written.
        """
        if (checkpoint.folder / FAST_FILE).is_file():
            content, file = read_json(checkpoint.name, checkpoint.folder / FAST_FILE), FAST_FILE
        elif any((checkpoint.folder / name).is_file() for name in SLOW_FILES):
            content, file = _converted(checkpoint), "the converted tokenizer"
        else:
            return None
        reader = _Reader(checkpoint.name, file)
        reader.read(content)
        listed = [*reader.added.values()]
        for origin, token in _beside(checkpoint):
            if reader.take_added(origin, token):
                listed.append(reader.added[token["content"]])
        for text in _named(checkpoint):
            behind = max(reader.ids.values(), default=-1) + 1
            if text not in reader.ids and behind < rows:
                reader.take_added((CONFIG_FILE, "special token"), {"content": text, "id": behind, **SPECIAL})
                listed.append(reader.added[text])
        listed.sort(key=lambda token: reader.ids[token["content"]])
        content = {**content, "added_tokens": listed}
        prove(checkpoint.name, content, reader.ids)
        flags = {text: {flag: token[flag] for flag in FLAGS} for text, token in reader.added.items()}
        return cls(checkpoint.name, reader.ids, flags, content)


def prove(name: str, content: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """Let the tokenizers library read it: every token must get the id that is written. Raises InputsRefused."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(json.dumps(content)).get_vocab(with_added_tokens=True)
    except Exception as error:
        raise InputsRefused(
            f"{name}: {FAST_FILE} is not what the tokenizers library reads ({_line(error)}); fetch the checkpoint again"
        ) from error
    if found == ids:
        return
    text = min((text for text in found.keys() | ids.keys() if found.get(text) != ids.get(text)), key=str)
    raise InputsRefused(
        f"{name}: {FAST_FILE}: token {text!r:.60} is written with id {ids.get(text)}, and the tokenizers library gives "
        f"it {found.get(text)}; ids would shift silently. Save the tokenizer again with transformers"
    )


class _Reader:
    """Tokens of one tokenizer as they are written, refused where they contradict each other."""

    def __init__(self, name: str, file: str) -> None:
        self.name, self.file = name, file
        self.ids: dict[str, int] = {}
        self.added: dict[str, dict[str, Any]] = {}
        self._text_of: dict[int, str] = {}

    def read(self, content: Mapping[str, Any]) -> None:
        """The model's vocabulary, then the added tokens."""
        model = content.get("model")
        if not isinstance(model, dict):
            raise self._refused("model", "a mapping with the vocabulary", model)
        for key, text, number in self._pieces(model.get("vocab")):
            self._take(self.file, key, text, number)
        added = content.get("added_tokens") or []
        if not isinstance(added, list):
            raise self._refused("added_tokens", "a list", added)
        for index, token in enumerate(added):
            self.take_added((self.file, f"added_tokens[{index}]"), token)

    def _pieces(self, vocab: Any) -> Iterator[tuple[str, Any, Any]]:
        """Of a mapping (BPE, WordPiece, WordLevel) or of a list of pieces with scores (Unigram)."""
        if isinstance(vocab, dict):
            for text, number in vocab.items():
                yield "model.vocab", text, number
        elif isinstance(vocab, list):
            for number, piece in enumerate(vocab):
                yield f"model.vocab[{number}]", piece[0] if isinstance(piece, list) and piece else piece, number
        else:
            raise self._refused("model.vocab", "a mapping of tokens to ids, or a list of pieces", vocab)

    def take_added(self, origin: tuple[str, str], token: Any) -> bool:
        """One added token; False where the same one was there already."""
        file, key = origin
        if not isinstance(token, dict):
            raise self._refused(key, "a mapping with `content` and `id`", token, file)
        text, number = token.get("content"), token.get("id")
        known = isinstance(text, str) and text in self.added
        self._take(file, key, text, number)
        if known:
            return False
        flags = {flag: token.get(flag, default) for flag, default in FLAGS.items()}
        if wrong := [flag for flag, value in flags.items() if not isinstance(value, bool)]:
            raise self._refused(f"{key}.{wrong[0]}", "true or false", flags[wrong[0]], file)
        self.added[str(text)] = {"id": number, "content": text, **flags}
        return True

    def _take(self, file: str, key: str, text: Any, number: Any) -> None:
        if not isinstance(text, str):
            raise self._refused(key, "a token's text", text, file)
        if type(number) is not int or not 0 <= number < 1 << 31:
            raise self._refused(f"{key} {text!r:.60}", "an id of at least 0", number, file)
        if self.ids.get(text, number) != number:
            raise self._refused(f"{key} {text!r:.60}", f"id {self.ids[text]}, as before", number, file)
        other = self._text_of.setdefault(number, text)
        if other != text:
            expected = f"an id of its own, not that of {other!r:.60}"
            raise self._refused(f"{key} {text!r:.60}", expected, number, file)
        self.ids[text] = number

    def _refused(self, key: str, expected: str, found: Any, file: str | None = None) -> InputsRefused:
        shown = "nothing" if found is None else f"{found!r:.60}"
        return InputsRefused(
            f"{self.name}: {file or self.file}: {key}: expected {expected}, found {shown}; no token could be told by "
            "its id. Fetch the checkpoint again, or save its tokenizer with transformers"
        )


def _beside(checkpoint: Checkpoint) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """The added tokens of the files beside tokenizer.json, in the order of their ids as far as these are numbers."""
    if (checkpoint.folder / ADDED_FILE).is_file():
        added = read_json(checkpoint.name, checkpoint.folder / ADDED_FILE)
        for text, number in added.items():
            yield (ADDED_FILE, "token"), {"content": text, "id": number, "special": False}
    if (checkpoint.folder / CONFIG_FILE).is_file():
        decoder = read_json(checkpoint.name, checkpoint.folder / CONFIG_FILE).get("added_tokens_decoder") or {}
        for number, token in decoder.items() if isinstance(decoder, dict) else ():
            written = token if isinstance(token, dict) else {"content": token}
            key = f"added_tokens_decoder.{number}"
            yield (CONFIG_FILE, key), {**written, "id": int(number) if _is_number(number) else number}


def _named(checkpoint: Checkpoint) -> Iterator[str]:
    """Special tokens by what they are for, and further ones, as transformers reads them from the files beside."""
    config, roles = (
        read_json(checkpoint.name, checkpoint.folder / file) if (checkpoint.folder / file).is_file() else {}
        for file in (CONFIG_FILE, MAP_FILE)
    )
    told = config if "added_tokens_decoder" in config else {**config, **roles}
    extra = told.get("extra_special_tokens") or told.get("additional_special_tokens") or []
    further = list(extra.values()) if isinstance(extra, dict) else extra if isinstance(extra, list) else []
    for one in [*(told.get(role) for role in ROLES), *further]:
        text = one.get("content") if isinstance(one, dict) else one
        if isinstance(text, str) and text:
            yield text


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _converted(checkpoint: Checkpoint) -> dict[str, Any]:
    """The older files (SentencePiece, vocab.json and merges, vocab.txt, tiktoken) as transformers converts them."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            _plain(checkpoint.folder), trust_remote_code=False, local_files_only=True
        )
        content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:
        raise InputsRefused(
            f"{checkpoint.name}: it has no {FAST_FILE}, and transformers cannot convert its older tokenizer files "
            f"({_line(error)}); save its tokenizer with transformers"
        ) from error
    return content


def _plain(folder: Path) -> str:
    """An absolute path is never taken for the name of a repository."""
    return str(folder.absolute())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
