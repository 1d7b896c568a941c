"""What is asked of the output's tokenizer: mergekit's `tokenizer` section as plain values, checked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from widen.errors import RecipeError

BASE, UNION = "base", "union"
DONOR, MEAN = "donor", "mean"
KINDS: Mapping[str, tuple[str, ...]] = {"zero": (), "mean": (), "model_token": ("model", "token", "token_id")}
"""The ways to write a row's source other than a model's name, with their keys."""
KEYS = ("source", "tokens", "pad_to_multiple_of", "new_rows")
TOKEN_KEYS = ("source", "force")
LARGEST_MULTIPLE = 1 << 20
Place = tuple[str, ...]


@dataclass(frozen=True)
class TokenRequest:
    """Where the row of one token comes from in every model that lacks it, or, with `force`, in every model.

    kind: `default` (as without a request), `model` (the same token of `model`), `model_token` (another token of
    `model`, by `token` or `token_id`), `zero`, or `mean` (of each model's own rows).
    """

    kind: str = "default"
    model: str | None = None
    token: str | None = None
    token_id: int | None = None
    force: bool = False

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "TokenRequest":
        """From mergekit's writing, which `mistakes` found sound."""
        source, force = content.get("source"), content.get("force", False)
        if source is None:
            return cls(force=force)
        if isinstance(source, str):
            return cls("model", source, force=force)
        return cls(source["kind"], source.get("model"), source.get("token"), source.get("token_id"), force)

    @property
    def content(self) -> dict[str, Any]:
        """As it is written."""
        written: dict[str, Any] = {}
        if self.kind == "model":
            written["source"] = self.model
        elif self.kind != "default":
            told = {"kind": self.kind, "model": self.model, "token": self.token, "token_id": self.token_id}
            written["source"] = {key: value for key, value in told.items() if value is not None}
        return written | ({"force": True} if self.force else {})


@dataclass(frozen=True)
class TokenizerRequest:
    """The output's tokenizer and the rows of its tokens.

    source: `base`, `union` (the base's, with every token that only other models have added behind its own), or a
    model's name. tokens: by text; one that no model has is added. pad_to_multiple_of: of the number of rows. new_rows:
    what a model gets for a token that it lacks, `donor` (the row of a model that has it) or `mean` (of its own rows).
    """

    source: str = UNION
    tokens: Mapping[str, TokenRequest] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None
    new_rows: str = DONOR

    def __post_init__(self) -> None:
        told = [f"tokenizer{''.join(f'.{part}' for part in where)}: {text}" for where, text in mistakes(self.content)]
        if told:
            raise RecipeError("\n  ".join(told))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "TokenizerRequest":
        """From mergekit's writing. Raises RecipeError for every mistake in it, with key and nearest known key."""
        told = [f"tokenizer{''.join(f'.{part}' for part in where)}: {text}" for where, text in mistakes(content)]
        if told:
            raise RecipeError("\n  ".join(told))
        tokens = {text: TokenRequest.of(one or {}) for text, one in (content.get("tokens") or {}).items()}
        return cls(content.get("source") or UNION, tokens, content.get("pad_to_multiple_of"),
                   content.get("new_rows") or DONOR)  # fmt: skip

    @property
    def content(self) -> dict[str, Any]:
        """As the manifest records it, without what was not asked."""
        written: dict[str, Any] = {"source": self.source}
        if self.tokens:
            written["tokens"] = {text: one.content for text, one in sorted(self.tokens.items())}
        if self.pad_to_multiple_of is not None:
            written["pad_to_multiple_of"] = self.pad_to_multiple_of
        return written | ({"new_rows": self.new_rows} if self.new_rows != DONOR else {})

    @property
    def models(self) -> Iterator[tuple[Place, str]]:
        """Every model that is named, and where."""
        if self.source not in (BASE, UNION):
            yield ("source",), self.source
        for text, one in sorted(self.tokens.items()):
            if one.model is not None:
                where = ("tokens", text, "source")
                yield (where if one.kind == "model" else (*where, "model")), one.model


def mistakes(content: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    """Everything wrong in a `tokenizer` section: where, and what was expected and found."""
    yield from _unknown(content, KEYS, ())
    source = content.get("source")
    if source is not None and not _is_text(source):
        yield ("source",), f"expected `base`, `union` or a model's name, found {_shown(source)}"
    multiple = content.get("pad_to_multiple_of")
    if multiple is not None and not (type(multiple) is int and 1 <= multiple <= LARGEST_MULTIPLE):
        yield ("pad_to_multiple_of",), f"expected a whole number from 1 to {LARGEST_MULTIPLE}, found {_shown(multiple)}"
    if content.get("new_rows") not in (None, DONOR, MEAN):
        yield ("new_rows",), f"expected `{DONOR}` or `{MEAN}`, found {_shown(content['new_rows'])}"
    tokens = content.get("tokens")
    if isinstance(tokens, Mapping):
        for text, one in tokens.items():
            yield from _token_mistakes(text, one)
    elif tokens is not None:
        yield ("tokens",), f"expected a mapping of tokens to where their rows come from, found {_shown(tokens)}"


def _token_mistakes(text: Any, one: Any) -> Iterator[tuple[Place, str]]:
    where = ("tokens", str(text))
    if not isinstance(text, str) or not text:
        yield where, f"expected a token's text, found {_shown(text)}; put it in quotes"
    if one is None:
        return
    if not isinstance(one, Mapping):
        yield where, f"expected a mapping with `source` and `force`, found {_shown(one)}"
        return
    yield from _unknown(one, TOKEN_KEYS, where)
    force, source = one.get("force", False), one.get("source")
    if not isinstance(force, bool):
        yield (*where, "force"), f"expected true or false, found {_shown(force)}"
    elif force and source is None:
        yield where, "`force` replaces the token's row in every model: say by which `source`"
    if isinstance(source, Mapping):
        yield from _source_mistakes(source, (*where, "source"))
    elif source is not None and not _is_text(source):
        yield (*where, "source"), f"expected a model's name or a mapping with `kind`, found {_shown(source)}"


def _source_mistakes(source: Mapping[str, Any], where: Place) -> Iterator[tuple[Place, str]]:
    kind = source.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = get_close_matches(str(kind), KINDS, 1, 0.0)[0]
        known = ", ".join(f"`{one}`" for one in KINDS)
        yield (*where, "kind"), f"expected one of {known}, found {_shown(kind)}; the nearest is `{near}`"
        return
    yield from _unknown(source, ("kind", *KINDS[kind]), where)
    if kind != "model_token":
        return
    if not _is_text(source.get("model")):
        yield (*where, "model"), f"expected a model's name, found {_shown(source.get('model'))}"
    token, number = source.get("token"), source.get("token_id")
    if (token is None) == (number is None):
        yield where, "expected one of `token` and `token_id`, found " + ("neither" if token is None else "both")
    if token is not None and not isinstance(token, str):
        yield (*where, "token"), f"expected a token's text, found {_shown(token)}"
    if number is not None and not (type(number) is int and number >= 0):
        yield (*where, "token_id"), f"expected a whole number of at least 0, found {_shown(number)}"


def _unknown(content: Mapping[str, Any], known: tuple[str, ...], where: Place) -> Iterator[tuple[Place, str]]:
    for key in content:
        if key not in known:
            near = get_close_matches(str(key), known, 1, 0.0)[0]
            listed = ", ".join(f"`{one}`" for one in known)
            yield (*where, str(key)), f"unknown key `{key}`; the nearest known is `{near}` (known: {listed})"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"
