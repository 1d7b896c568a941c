"""What makes two tokenizers the same for a merge: that every text becomes the same ids."""

from collections.abc import Mapping
from dataclasses import dataclass

from widen.checkpoint import Checkpoint, read_json
from widen.digests import digest_of, hash_file

FAST_FILE = "tokenizer.json"
# Only what turns text into ids: chat templates, padding and truncation may differ between a base and its chat model.
MEANING = ("added_tokens", "model", "normalizer", "pre_tokenizer")
SLOW_FILES = ("merges.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class TokenizerIdentity:
    """SHA-256 of every part that decides ids: parts of tokenizer.json, and the older files as a whole."""

    parts: Mapping[str, str]

    def comparable(self, other: "TokenizerIdentity") -> list[str]:
        """The parts to compare: tokenizer.json alone where both have it, else the older files that both have."""
        shared = sorted(self.parts.keys() & other.parts.keys())
        fast = [part for part in shared if part.startswith(FAST_FILE)]
        return fast or shared


def tokenizer_identity(checkpoint: Checkpoint) -> TokenizerIdentity:
    """What decides this checkpoint's ids; without parts when it has no tokenizer."""
    parts = {}
    if (checkpoint.folder / FAST_FILE).is_file():
        content = read_json(checkpoint.name, checkpoint.folder / FAST_FILE)
        parts = {f"{FAST_FILE} {part}": digest_of(content.get(part)) for part in MEANING}
    slow = [checkpoint.folder / file for file in SLOW_FILES]
    return TokenizerIdentity(parts | {path.name: hash_file(path).sha256 for path in slow if path.is_file()})
