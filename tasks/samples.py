"""From the harness's logged samples to scores by document, the form that a gate can compare."""

import hashlib
import inspect
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from registry.scorecard import Document, Kind, TaskScores
from widen.errors import InputsRefused, RecipeError

PROPORTIONS = frozenset({"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"})
# where the code and the data lie does not change what a task asks; the documents themselves are hashed instead
PLACES = frozenset({"metadata", "dataset_kwargs"})

log = logging.getLogger(__name__)


def task_scores(model: str, task: str, results: Mapping[str, Any]) -> list[TaskScores]:
    """The scores of one task by metric and filter, from a harness result with its samples.

    A metric is kept where its documents' mean, or its ratio of bits to bytes, is the harness's own figure; the others
    (F1 or BLEU over a whole corpus) have no terms to pair and are left out, with a line in the log. Raises
    InputsRefused naming task and document when a response or a score is not finite, RecipeError when the task has no
    documents, no metric of that form, or a document without the field that the task's clusters are named by.
    """
    samples: Sequence[Mapping[str, Any]] = results["samples"].get(task) or ()
    if not samples:
        raise RecipeError(f"task {task}: no documents were scored; expected at least one, check its data and the limit")
    for sample in samples:
        _require_finite(model, task, sample)
    config = results["configs"][task]
    digest, prompts = _task_hash(config, samples), _prompts_hash(samples)
    kept = []
    for metric, filter_name in dict.fromkeys((m, str(s["filter"])) for s in samples for m in s["metrics"]):
        chosen = [s for s in samples if s["filter"] == filter_name and metric in s]
        kind, documents = _documents(task, metric, chosen, (config.get("metadata") or {}).get("cluster"))
        scores = TaskScores(
            task=task,
            metric=metric,
            filter=filter_name,
            kind=kind,
            higher_is_better=bool(results["higher_is_better"][task].get(metric, True)),
            version=str(results["versions"][task]),
            task_hash=digest,
            documents=tuple(documents),
            prompts_hash=prompts,
        )
        if documents and _agrees(scores.value, results["results"][task].get(f"{metric},{filter_name}")):
            kept.append(scores)
        else:
            log.info("%s: %s of %s is not a mean over documents and is left out of the scorecard", model, metric, task)
    if not kept:
        raise RecipeError(f"task {task}: none of its metrics is a mean or a bits_per_byte; a gate cannot compare it")
    return kept


def _agrees(ours: float, theirs: Any) -> bool:
    return isinstance(theirs, int | float) and math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)


def _documents(
    task: str, metric: str, samples: Sequence[Mapping[str, Any]], cluster: str | None
) -> tuple[Kind, list[Document]]:
    """The metric's documents and their kind; no documents where a value is neither a number nor a (loss, bytes)."""
    values = [sample[metric] for sample in samples]
    groups = [None if cluster is None else _cluster(task, cluster, sample) for sample in samples]
    if all(isinstance(v, bool | int | float) for v in values):
        zero_one = metric in PROPORTIONS and all(v in (0, 1) for v in values)
        return "proportion" if zero_one else "mean", list(_keyed(samples, [(float(v), 1.0) for v in values], groups))
    if all(isinstance(v, list | tuple) and len(v) == 2 and not isinstance(v[0], str) for v in values):
        terms = [(-float(v[0]) / math.log(2), float(v[1])) for v in values]
        return "ratio", list(_keyed(samples, terms, groups))
    return "mean", []


def _cluster(task: str, field: str, sample: Mapping[str, Any]) -> str:
    """The name of the sample's cluster, which its document holds in `field`."""
    document = sample["doc"]
    if not isinstance(document, Mapping) or document.get(field) is None:
        held = ", ".join(map(str, document)) if isinstance(document, Mapping) else type(document).__name__
        raise RecipeError(
            f"task {task}, document {sample['doc_id']}: its clusters are named by the field {field!r} (`cluster` in "
            f"the task's metadata), which this document lacks; it holds {held}: name another field, or fill this one"
        )
    return str(document[field])


def _keyed(
    samples: Sequence[Mapping[str, Any]], terms: Sequence[tuple[float, float]], groups: Sequence[str | None]
) -> Iterator[Document]:
    """One document a sample; the second of two equal documents gets the key `<hash>#2`: keys pair one to one."""
    seen: Counter[tuple[str, str]] = Counter()
    for sample, (score, weight), group in zip(samples, terms, groups, strict=True):
        key = (sample["doc_hash"], sample["target_hash"])
        seen[key] += 1
        doc_hash = key[0] if seen[key] == 1 else f"{key[0]}#{seen[key]}"
        yield Document(doc_hash, key[1], score, weight, group)


def _require_finite(model: str, task: str, sample: Mapping[str, Any]) -> None:
    # the answer with the largest of six NaN is still an answer, right or wrong: look at the responses too
    held = [sample["resps"], [sample[metric] for metric in sample["metrics"] if metric in sample]]
    bad = next((number for number in _numbers(held) if not math.isfinite(number)), None)
    if bad is not None:
        raise InputsRefused(
            f"{model}: task {task}, document {sample['doc_id']} ({sample['doc_hash'][:12]}): expected finite scores, "
            f"found {bad}; the model's arithmetic overflows, score it in another dtype or mend it"
        )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)


def _task_hash(config: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of what was asked: the task's configuration and its documents, wherever they lie."""
    asked = {key: value for key, value in config.items() if key not in PLACES}
    return _hash([asked, sorted({(sample["doc_hash"], sample["target_hash"]) for sample in samples})])


def _prompts_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of how it was asked: each document's requests as the model got them.

    lm-eval's own `prompt_hash` is of the first request's context alone: answers to choose from and settings of a
    generation are not in it. They are here.
    """
    return _hash(sorted({(sample["doc_hash"], _hash(sample["arguments"])) for sample in samples}))


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=_source, ensure_ascii=False)
    return hashlib.sha256(_ADDRESS.sub("", text).encode()).hexdigest()


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def _source(value: Any) -> str:
    """What JSON has no form for, told alike by every process: a function is its source."""
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return str(value)
