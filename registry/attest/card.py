"""The model card of a merge, as the Hugging Face Hub reads one: metadata in YAML, then what a person wants to know.

Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.attest.figures import CONFIDENCE, Figure
from registry.attest.licences import Check
from registry.attest.places import hub_name, uri
from registry.attest.signature import UNSIGNED
from registry.decision import Decision
from registry.lineage import Ancestor, Input, Lineage

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TAGS = ("merge", "widen", "mergekit-compatible")
_TASK = "text-generation"

# Hugging Face's names of licences that have one and are not on our table of permissive ones.
_HUB_LICENCES = frozenset(
    "agpl-3.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m cc-by-nc-2.0 cc-by-nc-3.0 cc-by- "
    "nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-sa-3.0 cc-by-sa-4.0 creativeml-openrail-m "
    "epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 llama2 llama3 "
    "llama3.1 llama3.2 llama3.3 llama4 mpl-2.0 odbl openrail openrail++ osl-3.0".split()
)


@dataclass(frozen=True)
class Told:
    """What a card tells: the registered name, how it was made and judged, and every model's figures by its name.

    `merged` is the merge's name among `figures`; `signature` its key's fingerprint, or "none".
    """

    name: str
    lineage: Lineage
    decision: Decision
    licences: Check
    root: str
    signature: str
    merged: str
    figures: Mapping[str, tuple[Figure, ...]]


def card(told: Told) -> str:
    """The whole card as Markdown."""
    from huggingface_hub import ModelCardData

    from registry.attest.licences import PERMISSIVE

    own = told.licences.licences
    known = bool(own) and all(one in _HUB_LICENCES | PERMISSIVE for one in own)
    data = ModelCardData(
        base_model=[hub_name(entry.source) for entry in told.lineage.inputs],
        base_model_relation="merge",
        library_name="transformers",
        license=_one_or_all(own) if known else "other" if own else None,
        license_name=None if known else told.licences.expression,
        pipeline_tag=_TASK,
        tags=list(TAGS),
        model_name=told.name,
        eval_results=[_result(figure) for figure in told.figures[told.merged]] or None,
    )
    sections = (_intro, _made, _lineage, _scores, _gate, _licence, _check)
    body = "\n\n".join("\n".join(section(told)) for section in sections)
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def _one_or_all(names: Sequence[str]) -> Any:
    return names[0] if len(names) == 1 else list(names)


def _result(figure: Figure) -> "EvalResult":
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=_TASK,
        dataset_type=figure.task,
        dataset_name=figure.task,
        dataset_config=figure.filter if figure.filter not in ("", "none") else None,
        metric_type=figure.metric,
        metric_name=figure.label,
        metric_value=figure.value,
    )


def _intro(told: Told) -> Iterable[str]:
    base, *parents = told.lineage.inputs
    yield f"# {told.name}"
    yield ""
    models = _listed(_code(one.name) for one in parents)
    yield (
        f"A merge, without training, of {models}, which come from {_code(base.name)}, "
        f"by the method {_code(told.lineage.method)} (WIDEN, [arXiv 2408.03092](https://arxiv.org/abs/2408.03092)). "
        f"The gate said **{told.decision.verdict}**."
    )


def _made(told: Told) -> Iterable[str]:
    made, ran = told.lineage, told.lineage.provenance
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", made.recipe_text)), default=0))
    code = (ran.commit or f"version {ran.version}") + (" with local changes" if ran.dirty else "")
    yield "## How it was made"
    yield ""
    yield f"Recipe {_code(made.recipe)}, engine {_code(made.engine)}, code {_code(code)}:"
    yield ""
    yield from (f"{fence}yaml", made.recipe_text.rstrip("\n"), fence)


def _lineage(told: Told) -> Iterable[str]:
    yield "## What it was made from"
    yield ""
    yield from _table(("role", "model", "from", "revision", "digest", "licence"))
    for entry in told.lineage.inputs:
        source = entry.source
        revision = " ".join(part for part in (source.rev, source.commit and f"({source.commit})") if part) or "none"
        licence = source.license or "not stated"
        yield _row(entry.role, entry.name, uri(source), revision, entry.digest, licence)
    yield ""
    digest = _code(told.lineage.merged_digest)
    yield f"In the registry the merge is {digest}; `statement.json` has every input file's SHA-256."
    yield from _generations(told.lineage.inputs)


def _generations(inputs: Iterable[Input]) -> Iterable[str]:
    for entry in inputs:
        if entry.made_from:
            yield ""
            yield f"{_code(entry.name)} is a merge itself, of:"
            yield ""
            yield from _ancestors(entry.made_from, "")


def _ancestors(ancestors: Iterable[Ancestor], indent: str) -> Iterable[str]:
    for one in ancestors:
        yield f"{indent}- {one.role} {_code(one.name)}, {_code(one.digest)}"
        yield from _ancestors(one.inputs, indent + "  ")


def _scores(told: Told) -> Iterable[str]:
    yield "## Scores"
    yield ""
    yield f"On the same documents, with two-sided {CONFIDENCE:.0%} intervals:"
    yield ""
    names = [*(name for name in told.figures if name != told.merged), told.merged]
    yield from _table(("task", "better", "documents", *names))
    by_key = {name: {figure.key: figure for figure in held} for name, held in told.figures.items()}
    for figure in told.figures[told.merged]:
        cells = (_cell(by_key[name].get(figure.key)) for name in names)
        yield _row(figure.label, "higher" if figure.higher_is_better else "lower", str(figure.n), *cells)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "not scored"
    interval = "" if figure.lower is None else f" [{figure.lower:.4f}, {figure.upper:.4f}]"
    return f"{figure.value:.4f}{interval}"


def _gate(told: Told) -> Iterable[str]:
    decision = told.decision
    yield f"## The gate: {decision.verdict}"
    yield ""
    yield from _table(("clause", "verdict"))
    yield from (_row(result.text, result.verdict.value) for result in decision.results)
    if decision.warnings:
        yield ""
        yield from (f"- {_plain(warning)}" for warning in decision.warnings)


def _licence(told: Told) -> Iterable[str]:
    yield "## Licence"
    yield ""
    if told.licences.warning is not None:
        yield f"**{_plain(told.licences.warning)}**"
        return
    stated = _listed(f"{name} {_code(licence or '')}" for name, licence in told.licences.inputs)
    yield f"{_code(told.licences.expression or '')}, from {stated}. Their notices go with the merge. No legal advice."


def _check(told: Told) -> Iterable[str]:
    yield "## How to check it"
    yield ""
    yield f"Root digest of the files: {_code(told.root)}."
    if told.signature == UNSIGNED:
        yield "It is **not signed**."
    else:
        yield f"Signed by the key whose PEM file has the SHA-256 {_code(told.signature)}."
    yield from ("", "```", f"widen verify {told.name}@champion")
    if told.signature != UNSIGNED:
        yield "python -m model_signing verify key FOLDER --signature model.sig --public_key public_key.pem"
    yield "```"


def _table(head: Sequence[str]) -> Iterable[str]:
    yield _row(*head)
    yield "|" + "---|" * len(head)


def _row(*cells: str) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """One line without HTML: names and licences come from files of others."""
    return " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")


def _code(text: str) -> str:
    return "`" + " ".join(text.split()).replace("`", "'") + "`"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
