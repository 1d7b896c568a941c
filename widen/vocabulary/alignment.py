"""Which row every model contributes to every token of the output, decided by token text.

Where a token's row comes from follows mergekit: a model's own; else the only model's that has it; else the base's; else
the mean of those that have it. The WIDEN paper's own code gives a model that lacks a token the mean of its own rows
(`new_rows: mean`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused, RecipeError
from widen.vocabulary.request import BASE, MEAN, UNION, TokenizerRequest, TokenRequest
from widen.vocabulary.tensors import TokenTensors
from widen.vocabulary.vocabulary import FLAGS, Vocabulary, prove

ZERO_ROW, OWN_MEAN, MEAN_OF_ROWS = -1, -2, -3
"""What fills a row where no row is copied: nothing, the mean of the model's own rows, the mean of several models'."""
Row = tuple[int, int]
"""A checkpoint and a row of it; or ZERO_ROW and OWN_MEAN with 0, MEAN_OF_ROWS with an index into `Alignment.means`."""


@dataclass(frozen=True, eq=False)
class Fill:
    """What fills each row of one checkpoint's aligned tensors: checkpoints (or the words above) and their rows."""

    donors: NDArray[np.int32]
    rows: NDArray[np.int64]

    def is_identity(self, index: int, rows: int) -> bool:
        """Whether these are the checkpoint's own `rows` rows, in their order."""
        own = len(self.rows) == rows and bool((self.donors == index).all())
        return own and bool((self.rows == np.arange(rows)).all())


@dataclass(frozen=True, eq=False)
class Alignment:
    """The output's tokens, and where the rows of every checkpoint come from.

    source: the checkpoint whose tokenizer it is; its ids never move. ids: the output's tokens. appended: those that
    `source` lacks, in the order of their ids: other models' in the recipe's order and by their ids there, then the
    request's own by text. rows: of every aligned tensor. content: tokenizer.json, None where the source's files stay.
    """

    request: TokenizerRequest
    source: int
    ids: Mapping[str, int]
    appended: tuple[str, ...]
    rows: int
    fills: tuple[Fill, ...]
    means: tuple[tuple[Row, ...], ...]
    tensors: tuple[TokenTensors, ...]
    vocabularies: tuple[Vocabulary, ...]
    content: Mapping[str, Any] | None
    notes: tuple[str, ...]


def align(checkpoints: Sequence[Checkpoint], request: TokenizerRequest, cache: Path | None = None) -> Alignment:
    """Align checkpoints, the base first, to one vocabulary; headers and tokenizers are read, no tensor is.

    Raises RecipeError for a request that names no model or token there is, InputsRefused for tokenizers that cannot be.
    """
    tensors = tuple(TokenTensors.of(checkpoint, cache) for checkpoint in checkpoints)
    vocabularies, notes = _vocabularies(checkpoints, tensors)
    return _Aligner(checkpoints, request, tensors, vocabularies, notes).alignment()


def _vocabularies(
    checkpoints: Sequence[Checkpoint], tensors: Sequence[TokenTensors]
) -> tuple[tuple[Vocabulary, ...], list[str]]:
    """A vocabulary for every checkpoint: one that has none is taken to share that of the first that has one."""
    found = [Vocabulary.of(one, own.rows) for one, own in zip(checkpoints, tensors, strict=True)]
    first = next((index for index, one in enumerate(found) if one is not None), None)
    if first is None:
        raise InputsRefused(
            f"{checkpoints[0].name}: no model of the merge has a tokenizer, so tokens cannot be told by text; put the "
            "tokenizer's files beside the weights, or merge by position without `tokenizer`"
        )
    notes, chosen = [], []
    for checkpoint, vocabulary, own in zip(checkpoints, found, tensors, strict=True):
        taken = vocabulary or found[first]
        assert taken is not None
        if vocabulary is None and own.rows != tensors[first].rows:
            raise InputsRefused(
                f"{checkpoint.name}: it has no tokenizer and {own.rows} rows, where {taken.name} has "
                f"{tensors[first].rows}; its tokens cannot be told. Put the tokenizer's files beside the weights"
            )
        if vocabulary is None:
            notes.append(f"tokenizer: {checkpoint.name} has none; its rows are taken for {taken.name}'s tokens")
        notes += _rowless(checkpoint, taken, own.rows)
        chosen.append(taken)
    return tuple(chosen), notes


def _rowless(checkpoint: Checkpoint, vocabulary: Vocabulary, rows: int) -> Iterator[str]:
    """A note for tokens that were added behind the last row and never got one; InputsRefused for any other there."""
    beyond = sorted((number, text) for text, number in vocabulary.ids.items() if number >= rows)
    if not beyond:
        return
    numbers = [number for number, _ in beyond]
    strange = next((one for one in beyond if one[1] not in vocabulary.added), None)
    if strange is None and numbers != list(range(rows, rows + len(numbers))):
        strange = beyond[-1]
    if strange is not None:
        raise InputsRefused(
            f"{checkpoint.name}: token {strange[1]!r:.60} has id {strange[0]}, and the embedding has {rows} rows; "
            "tokenizer and weights do not belong together. Fetch both from one place"
        )
    yield f"tokenizer: {checkpoint.name} has no row for {len(beyond)} added tokens, first {beyond[0][1]!r:.60}"


class _Aligner:
    """One alignment while it is decided."""

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        request: TokenizerRequest,
        tensors: tuple[TokenTensors, ...],
        vocabularies: tuple[Vocabulary, ...],
        notes: list[str],
    ) -> None:
        self.request, self.tensors, self.vocabularies, self.notes = request, tensors, vocabularies, notes
        self.names = [checkpoint.name for checkpoint in checkpoints]
        self.sizes = [own.rows for own in tensors]
        self.own = [
            {text: number for text, number in one.ids.items() if number < size}
            for one, size in zip(vocabularies, self.sizes, strict=True)
        ]
        self.means: list[tuple[Row, ...]] = []

    def alignment(self) -> Alignment:
        """All of it."""
        for place, model in self.request.models:
            self._index(model, place)
        named = self.request.source not in (BASE, UNION)
        source = self._index(self.request.source, ("source",)) if named else 0
        ids = dict(self.vocabularies[source].ids)
        appended, content = self._appended(source, ids)
        top = max(ids.values(), default=-1) + 1
        used = max(self.sizes[source], top)
        multiple = self.request.pad_to_multiple_of or 1
        rows = -(-used // multiple) * multiple
        fills = self._fills(source, ids, rows)
        return Alignment(
            self.request, source, ids, appended, rows, fills, tuple(self.means), self.tensors, self.vocabularies,
            content, tuple(self.notes),
        )  # fmt: skip

    def _index(self, model: str, place: tuple[str, ...]) -> int:
        if model in self.names:
            return self.names.index(model)
        near = get_close_matches(model, self.names, 1, 0.0)[0]
        raise RecipeError(
            f"tokenizer.{'.'.join(place)}: no model of the merge is called `{model}`; the nearest is `{near}` "
            f"(known: {', '.join(self.names)})"
        )

    def _appended(self, source: int, ids: dict[str, int]) -> tuple[tuple[str, ...], Mapping[str, Any] | None]:
        """Put what the source lacks behind its last token, where a tokenizer puts added tokens."""
        wanted: dict[str, dict[str, bool]] = {}
        if self.request.source == UNION:
            for index, vocabulary in enumerate(self.vocabularies):
                missing = sorted(self.own[index].items(), key=lambda one: one[1])
                pieces = [text for text, _ in missing if text not in ids and text not in wanted]
                plain = sum(text not in vocabulary.added for text in pieces)
                wanted |= {text: {**FLAGS, **vocabulary.added.get(text, {})} for text in pieces}
                self.notes += _told(self.names[index], len(pieces), plain)
        own = sorted(text for text in self.request.tokens if text not in ids and text not in wanted)
        wanted |= {text: self._flags(text) for text in own}
        content = self.vocabularies[source].content
        if not wanted:
            return (), None
        first = max(ids.values(), default=-1) + 1
        entries = [
            {"id": first + place, "content": text, **flags} for place, (text, flags) in enumerate(wanted.items())
        ]
        ids |= {text: first + place for place, text in enumerate(wanted)}
        content = {**content, "added_tokens": [*content["added_tokens"], *entries]}
        prove(f"{self.names[source]} with {len(wanted)} tokens of the others", content, ids)
        return tuple(wanted), content

    def _flags(self, text: str) -> dict[str, bool]:
        """Of a token that the request names: as the first model has it that has it as an added one."""
        return next(({**one.added[text]} for one in self.vocabularies if text in one.added), {**FLAGS})

    def _fills(self, source: int, ids: Mapping[str, int], rows: int) -> tuple[Fill, ...]:
        donors = np.full((len(self.own), rows), OWN_MEAN, dtype=np.int32)
        places = np.zeros((len(self.own), rows), dtype=np.int64)
        for text, number in ids.items():
            asked = self.request.tokens.get(text)
            present = [index for index, own in enumerate(self.own) if text in own]
            force = asked is not None and asked.force
            other = self._other(text, present, asked) if force or len(present) < len(self.own) else None
            for index in range(len(self.own)):
                mine = index in present and not force
                found = (index, self.own[index][text]) if mine else other
                assert found is not None
                donors[index, number], places[index, number] = found
        self._fill_unused(source, set(ids.values()), donors, places)
        return tuple(Fill(donors[index], places[index]) for index in range(len(self.own)))

    def _other(self, text: str, present: list[int], asked: TokenRequest | None) -> Row:
        """The row for the models that lack a token, or, forced, for all of them."""
        if asked is not None and asked.kind != "default":
            return self._asked(text, asked)
        if self.request.new_rows == MEAN or not present:
            if not present:
                self.notes.append(
                    f"tokenizer: no model has a row for {text!r:.60}; it is the mean of each model's rows"
                )
            return OWN_MEAN, 0
        if len(present) == 1 or 0 in present:
            return present[0], self.own[present[0]][text]
        self.means.append(tuple((index, self.own[index][text]) for index in present))
        return MEAN_OF_ROWS, len(self.means) - 1

    def _asked(self, text: str, asked: TokenRequest) -> Row:
        if asked.model is None:
            return (ZERO_ROW, 0) if asked.kind == "zero" else (OWN_MEAN, 0)
        place = ("tokens", text, "source")
        index = self._index(asked.model, place)
        if asked.token_id is not None:
            if asked.token_id >= self.sizes[index]:
                raise RecipeError(
                    f"tokenizer.{'.'.join(place)}.token_id: expected a row of {asked.model}, which has "
                    f"{self.sizes[index]}, found {asked.token_id}"
                )
            return index, asked.token_id
        wanted = text if asked.token is None else asked.token
        if wanted not in self.own[index]:
            near = get_close_matches(wanted, self.own[index], 1, 0.0)
            told = f"; the nearest of its tokens is {near[0]!r:.60}" if near else ""
            raise RecipeError(f"tokenizer.{'.'.join(place)}: {asked.model} has no row for token {wanted!r:.60}{told}")
        return index, self.own[index][wanted]

    def _fill_unused(self, source: int, taken: set[int], donors: NDArray[np.int32], places: NDArray[np.int64]) -> None:
        """Rows without a token: the source's own, and those of models whose same row has no token either.

        Rows that only padding adds stay the mean of each model's own.
        """
        own_ids = [set(own.values()) for own in self.own]
        for number in sorted(set(range(self.sizes[source])) - taken):
            for index, size in enumerate(self.sizes):
                own = number < size and number not in own_ids[index]
                donors[index, number], places[index, number] = index if own else source, number


def _told(name: str, pieces: int, plain: int) -> Iterator[str]:
    if pieces:
        ordinary = f", {plain} of them ordinary pieces of its own text" if plain else ""
        yield f"tokenizer: {pieces} tokens that only {name} and later models have were added{ordinary}"
