"""Score one checkpoint with lm-eval: the only door to that library.

lm-eval reads the task definitions, builds the prompts and asks the model; this file decides what it may load, hands
it a model that was checked, keeps it off the network, and turns its logged samples into a scorecard.
"""

import difflib
import importlib.metadata
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as cached
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.scorecard import Scorecard, TaskScores, canonical, sha256
from tasks.checked_model import load_checked
from tasks.kept_scores import at_hand, folder_digest, keep, publish
from tasks.samples import task_scores
from tasks.sooner import Sooner
from widen.errors import RecipeError

SEED = 1234  # lm-eval's own default for few-shot sampling
KEPT_FORMAT = 1  # raise it when the same samples would give another scorecard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluateSettings:
    """What to ask and how. `include_path` holds lm-eval task YAML with its data; without it, lm-eval's own tasks.

    `threads` are the processor's, for this one model; None leaves PyTorch's own choice.

    Raises RecipeError for no task, or a limit, batch size or number of examples out of range.
    """

    tasks: tuple[str, ...]
    include_path: Path | None = None
    dtype: str = "float32"
    batch_size: int = 64
    limit: int | None = None
    num_fewshot: int | None = None
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise RecipeError("evaluate.tasks: expected at least one task, found none")
        if self.limit is not None and self.limit < 1:  # lm-eval reads 0 as "all"
            raise RecipeError(f"evaluate.limit: expected null or at least 1, found {self.limit}")
        if self.batch_size < 1:
            raise RecipeError(f"evaluate.batch_size: expected at least 1, found {self.batch_size}")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise RecipeError(f"evaluate.num_fewshot: expected null or at least 0, found {self.num_fewshot}")


@task(name="evaluate", cache_policy=NO_CACHE)
def evaluate(model: str, folder: Path, digest: str, settings: EvaluateSettings, cache: Path, out: Path) -> Path:
    """Score the checkpoint in `folder` and return `out`, its scorecard as JSON; samples lie beside it as JSON lines.

    Scores are kept in `cache` by the model's `digest`, the tasks, the harness's version, dtype, limit and number of
    examples: a second call with the same answers from there, without `folder` and without loading lm-eval. Raises
    InputsRefused for a checkpoint with a missing, misshapen or non-finite tensor, or a score that is not finite;
    RecipeError for a task that does not exist or has no documents; EnvironmentFault for a device that is not there.
    """
    harness = "lm-eval " + importlib.metadata.version("lm_eval")
    kept = cache / _key(digest, harness, settings)
    if at_hand(kept):
        log.info("%s: scores for %s are at hand, nothing to evaluate", model, ", ".join(settings.tasks))
    else:
        log.info("%s: evaluating %s", model, ", ".join(settings.tasks))
        _score(model, folder, settings, kept, partial(Scorecard, model, digest, harness))
    card = publish(model, kept, out)
    for scores in card.tasks:
        log.info("%s: %s %.4f (%d documents)", model, scores.label, scores.value, len(scores.documents))
    return out


def _score(
    model: str,
    folder: Path,
    settings: EvaluateSettings,
    kept: Path,
    card: Callable[[tuple[TaskScores, ...]], Scorecard],
) -> None:
    results = _ask(model, folder, settings, kept.parent.parent / "huggingface")
    from lm_eval.utils import handle_non_serializable

    scores = (one for name in results["samples"] for one in task_scores(model, name, results))
    keep(kept, card(tuple(scores)), results["samples"], handle_non_serializable)


def _key(digest: str, harness: str, settings: EvaluateSettings) -> str:
    """The name of these scores among the kept: everything that can change them (batches and devices do not)."""
    asked = {
        "format": KEPT_FORMAT,
        "model": digest,
        "harness": harness,
        "tasks": sorted(set(settings.tasks)),
        "definitions": settings.include_path and folder_digest(settings.include_path),
        "dtype": settings.dtype,
        "limit": settings.limit,
        "num_fewshot": settings.num_fewshot,
    }
    return sha256(canonical(asked))


# ---------------------------------------------------------------- asking the model


def _ask(model: str, folder: Path, settings: EvaluateSettings, hub: Path) -> Mapping[str, Any]:
    """lm-eval's results with samples. Task definitions first: a misnamed task costs no model."""
    _stay_offline(hub)
    from lm_eval import evaluate as harness_evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet_and_quick(), _threads(settings.threads):
        with _LOADING:
            asked = _build_tasks(settings, hub)
            loaded, tokenizer = load_checked(model, folder, settings.dtype, settings.device)
            _seed()
        results: Mapping[str, Any] = harness_evaluate(
            type("Model", (Sooner, HFLM), {})(pretrained=loaded, tokenizer=tokenizer, batch_size=settings.batch_size),
            asked,
            limit=settings.limit,
            bootstrap_iters=0,
        )
    return results


def _stay_offline(hub: Path) -> None:
    """Before the first import of the Hugging Face libraries: no network, and their files in the workspace.

    Only defaults: an environment that sets HF_HUB_OFFLINE=0 or HF_HOME, to fetch lm-eval's own data sets, is obeyed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HOME", str(hub))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


_LOADING = threading.Lock()  # transformers and datasets change process-wide state while they load
_QUIET = threading.Lock()
_quiet_users = 0
_loud: tuple[Any, ...] = ()


@contextmanager
def _quiet_and_quick() -> Iterator[None]:
    """Silence what is not progress: loading bars, the bars of prompt building, and notes below an error.

    Quick, because lm-eval compiles a task's templates anew for every document: here each is compiled once. These are
    switches of the whole process: the first to enter throws them, the last to leave throws them back.
    """
    global _quiet_users, _loud  # noqa: PLW0603 - counts the models being scored side by side
    with _QUIET:
        _loud = _loud or _hush()
        _quiet_users += 1
    try:
        yield
    finally:
        with _QUIET:
            _quiet_users -= 1
            if not _quiet_users:
                _unhush(*_loud)
                _loud = ()


def _hush() -> tuple[Any, ...]:
    import datasets
    import lm_eval.api.task
    import lm_eval.utils
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    harness, bar, templates = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm, lm_eval.utils.env
    level = harness.level
    harness.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(bar, disable=True)  # its only switch
    templates.from_string = cached(templates.from_string)
    return level, bar, templates


def _unhush(level: int, bar: Any, templates: Any) -> None:
    import lm_eval.api.task

    del templates.from_string
    lm_eval.api.task.tqdm = bar
    logging.getLogger("lm_eval").setLevel(level)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """PyTorch's threads for what this thread asks of it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seed() -> None:
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


# ---------------------------------------------------------------- task definitions


def _build_tasks(settings: EvaluateSettings, hub: Path) -> dict[str, Any]:
    """The named tasks, groups and tags as lm-eval's `{"tasks", "groups"}`, with their data loaded."""
    from lm_eval.tasks import TaskManager

    folder = settings.include_path
    manager = TaskManager() if folder is None else TaskManager(include_path=folder, include_defaults=False)
    built: dict[str, Any] = {"tasks": {}, "groups": {}}
    for name in dict.fromkeys(settings.tasks):
        if name not in manager.task_index:
            raise RecipeError(_unknown(name, manager.all_tasks, folder))
        if folder is not None:
            for entry in _leaves(name, manager.task_index):
                _anchor(entry, folder, hub)
        loaded = _load(manager, name)
        built["tasks"].update(loaded["tasks"])
        built["groups"].update(loaded.get("groups", {}))
    for one in built["tasks"].values():
        default = one.get_config("num_fewshot")
        if default is None or (settings.num_fewshot is not None and default != 0):
            one.set_config(key="num_fewshot", value=settings.num_fewshot or 0)
        one.set_fewshot_seed(seed=SEED)
    return built


def _load(manager: Any, name: str) -> Mapping[str, Any]:
    from datasets.exceptions import DatasetsError

    try:
        loaded: Mapping[str, Any] = manager.load([name])
    except (OSError, ValueError, KeyError, IndexError, TypeError, ImportError, DatasetsError) as error:
        raise RecipeError(
            f"task {name}: lm-eval cannot build it ({type(error).__name__}: {str(error).strip() or 'no text'}); "
            "mend its YAML or its data"
        ) from error
    return loaded


def _unknown(name: str, known: Sequence[str], folder: Path | None) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known[:10]) or 'none'}"
    return f"evaluate.tasks: {name!r} is not a task of {folder or 'lm-eval'}; {hint}"


def _leaves(name: str, index: Mapping[str, Any]) -> Iterator[Any]:
    """The index entries of the tasks that a task, group or tag stands for."""
    entry = index.get(name)
    if entry is None:
        return
    if entry.kind.name == "TAG":
        children: Sequence[Any] = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        listed = entry.cfg.get("task") or ()
        children = [listed] if isinstance(listed, str) else listed
    else:
        yield entry
        return
    for child in children:
        yield from _leaves(child if isinstance(child, str) else child.get("task") or child.get("group"), index)


def _anchor(entry: Any, folder: Path, hub: Path) -> None:
    """Give the entry its data as absolute paths: lm-eval would look for them in the current folder."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if entry.yaml_path is None:
        return
    config = load_yaml(entry.yaml_path)
    keywords = dict(config.get("dataset_kwargs") or {})
    if "data_files" in keywords:
        keywords["data_files"] = _absolute(keywords["data_files"], entry.name, entry.yaml_path.parent, folder)
        keywords.setdefault("cache_dir", str(hub / "datasets"))
        config["dataset_kwargs"] = keywords
    entry.cfg, entry.yaml_path = config, None


def _absolute(files: Any, name: str, beside: Path, folder: Path) -> Any:
    """`files` (a path, a list or a mapping of them) resolved beside the task's YAML; they must lie in `folder`."""
    if isinstance(files, Mapping):
        return {split: _absolute(one, name, beside, folder) for split, one in files.items()}
    if isinstance(files, list | tuple):
        return [_absolute(one, name, beside, folder) for one in files]
    path = (beside / str(files)).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise RecipeError(
            f"task {name}: expected its data file {str(files)!r} beside its YAML in {folder}, found none there; "
            "scores are kept by that folder's content"
        )
    if path.stat().st_size == 0:
        raise RecipeError(f"task {name}: its data file {path} is empty; expected at least one document")
    return str(path)
