"""A recipe's `tokenizer_source`, `tokenizer` and `chat_template`, as mergekit writes them: checked, and spelt out."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flows.recipe.faults import Fault, Where, unknown
from flows.recipe.schema import Merge
from widen.vocabulary import chat_templates
from widen.vocabulary.request import BASE, UNION, TokenizerRequest, mistakes

HERE: Where = ("merge", "tokenizer")


def faults(merge: Merge, names: Mapping[str, str]) -> Iterator[Fault]:
    """Everything wrong in them; `names`: the merged models' by how the recipe writes each."""
    if merge.tokenizer_source is not None and merge.tokenizer is not None:
        yield Fault(("merge", "tokenizer_source"), "`tokenizer` has a `source` of its own: write one of the two")
    if merge.chat_template is not None and (told := chat_templates.mistake(merge.chat_template)):
        yield Fault(("merge", "chat_template"), told)
    found = list(mistakes(merge.tokenizer or {}))
    yield from (Fault((*HERE, *where), told) for where, told in found)
    if found:
        return
    for where, model in _models(merge):
        if model not in names and model not in names.values():
            yield Fault(where, unknown("model", model, names))


def spelt_out(merge: Merge, names: Mapping[str, str]) -> Merge:
    """The section with one spelling of what is asked of the tokenizer, models by their names; None where nothing is."""
    asked = _asked(merge)
    if asked is None:
        return merge
    named = _named(asked, {**names, **{name: name for name in names.values()}})
    return replace(merge, tokenizer=TokenizerRequest.of(named).content, tokenizer_source=None)


def _asked(merge: Merge) -> dict[str, Any] | None:
    return {"source": merge.tokenizer_source} if merge.tokenizer_source is not None else merge.tokenizer


def _models(merge: Merge) -> Iterator[tuple[Where, str]]:
    """Every model that is named, and where the recipe names it."""
    asked = _asked(merge)
    for where, model in TokenizerRequest.of(asked).models if asked is not None else ():
        yield (("merge", "tokenizer_source") if merge.tokenizer_source is not None else (*HERE, *where)), model


def _named(asked: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    source = asked.get("source") or UNION
    tokens = {text: _token(one or {}, names) for text, one in (asked.get("tokens") or {}).items()}
    return {**asked, "source": source if source in (BASE, UNION) else names[source], "tokens": tokens}


def _token(one: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    source = one.get("source")
    if isinstance(source, str):
        return {**one, "source": names[source]}
    if isinstance(source, Mapping) and "model" in source:
        return {**one, "source": {**source, "model": names[source["model"]]}}
    return dict(one)
