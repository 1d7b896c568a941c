"""Ask one checkpoint the questions of some tasks, by lm-eval."""

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tasks.asked_model import ask_for
from tasks.evaluate_settings import EvaluateSettings
from tasks.hushed import quiet_and_quick, stay_offline
from tasks.split import chosen
from tasks.task_data import Function, anchored
from tasks.task_definitions import Definition
from widen.errors import EnvironmentFault, RecipeError

SEED = 1234  # lm-eval's own default for few-shot sampling

Done = Callable[[Definition, Mapping[str, Any], float], None]
_LOADING = threading.Lock()  # transformers and datasets change process-wide state while they load


def ask(
    model: str, folder: Path, settings: EvaluateSettings, tasks: Sequence[Definition], hub: Path | None, done: Done
) -> None:
    """Load the model once and ask it each task alone; `done` is told its results, with samples, and the seconds
    they took.

    Alone, so that no batch holds requests of two tasks: scores do not depend on which other tasks are asked. All tasks
    are built before the model is loaded: a broken one costs no model.

    Raises RecipeError for a task that lm-eval cannot build or ask, and as `asked_model.ask_for` does.
    """
    stay_offline(hub)
    with quiet_and_quick(), _threads(settings.threads):
        with _LOADING:
            built = {one.task: _build(one, settings, hub) for one in tasks}
            places = {one.task: _places(built[one.task], settings) for one in tasks}
            asked = ask_for(model, folder, settings)
        for one in tasks:
            began = monotonic()
            results = _answers(model, asked, built[one.task], places[one.task], settings)
            done(one, results, monotonic() - began)


def _answers(
    model: str, asked: Any, built: Mapping[str, Any], places: dict[str, list[int]] | None, settings: EvaluateSettings
) -> Mapping[str, Any]:
    """lm-eval's results of one task, from whatever state the one before it left."""
    import torch
    from lm_eval import evaluate as harness_evaluate

    _seed()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()  # `auto` measures the batch that fits into what is free
    try:
        results: Mapping[str, Any] = harness_evaluate(
            asked,
            {"tasks": built, "groups": {}},
            limit=None if settings.part else settings.limit,
            samples=places,
            bootstrap_iters=0,
            system_instruction=settings.system_instruction,
            apply_chat_template=bool(settings.apply_chat_template),
            fewshot_as_multiturn=settings.multiturn,
        )
    except torch.OutOfMemoryError as error:
        raise EnvironmentFault(
            f"{model}: the device's memory is too small for a batch of {settings.batch_size}; lower "
            "evaluate.batch_size, or write `auto`"
        ) from error
    except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise RecipeError(f"{model}: lm-eval cannot ask {', '.join(built)}: {_told(error)}") from error
    return results


def count(tasks: Sequence[Definition], settings: EvaluateSettings, hub: Path | None) -> dict[str, int]:
    """How many documents each task has, without a model. Raises RecipeError for a task that lm-eval cannot build."""
    stay_offline(hub)
    with quiet_and_quick(), _LOADING:
        built = [_build(one, settings, hub) for one in tasks]
        return {name: len(list(task.eval_docs)) for one in built for name, task in one.items()}


def _places(built: Mapping[str, Any], settings: EvaluateSettings) -> dict[str, list[int]] | None:
    """The places of a side's documents by task, among the first `limit`; None where all documents are asked."""
    from lm_eval.utils import handle_non_serializable, hash_string

    if settings.part is None:
        return None
    places = {}
    for name, task in built.items():
        documents = list(task.eval_docs)[: settings.limit]
        # The hash that lm-eval names a document by among its samples, and the scorecard after it.
        texts = (json.dumps(one, indent=2, default=handle_non_serializable, ensure_ascii=False) for one in documents)
        field = (task.get_config("metadata") or {}).get("cluster")
        places[name] = chosen(name, documents, [hash_string(text) for text in texts], field, settings.part)
    return places


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no text'}"


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


# ---------------------------------------------------------------- tasks


def _build(one: Definition, settings: EvaluateSettings, hub: Path | None) -> dict[str, Any]:
    """lm-eval's task under its name, with its data loaded and its number of examples set."""
    from lm_eval.tasks import TaskManager

    _seed()  # a task's own code may draw
    built = dict(_load(TaskManager(include_defaults=False), one, hub))  # its index is empty: definitions are complete
    for name, task in built.items():
        _require_answerable(name, task)
        default = task.get_config("num_fewshot")
        if default is None or (settings.num_fewshot is not None and default != 0):
            task.set_config(key="num_fewshot", value=settings.num_fewshot or 0)
        task.set_fewshot_seed(seed=SEED)
    return built


def _load(manager: Any, definition: Definition, hub: Path | None) -> Mapping[str, Any]:
    from datasets.exceptions import DatasetsError

    try:
        loaded: Mapping[str, Any] = manager.load([_config(definition, hub)])["tasks"]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ImportError, DatasetsError) as error:
        raise RecipeError(
            f"task {definition.task}: lm-eval cannot build it ({_told(error)}); mend its YAML or its data"
        ) from error
    return loaded


def _config(definition: Definition, hub: Path | None) -> dict[str, Any]:
    """The definition as lm-eval takes it: functions imported, data files by their absolute paths."""
    config: dict[str, Any] = _imported(definition.config)
    keywords = dict(config.get("dataset_kwargs") or {})
    if definition.folder is not None and "data_files" in keywords:
        keywords["data_files"] = anchored(definition.task, keywords["data_files"], definition.beside, definition.folder)
        if hub is not None:
            keywords.setdefault("cache_dir", str(hub / "datasets"))
        config["dataset_kwargs"] = keywords
    return config


def _imported(value: Any) -> Any:
    if isinstance(value, Function):
        from lm_eval.tasks._yaml_loader import _import_func_in_yml

        return _import_func_in_yml(value.name, value.folder)
    if isinstance(value, Mapping):
        return {key: _imported(one) for key, one in value.items()}
    return [_imported(one) for one in value] if isinstance(value, list) else value


def _require_answerable(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise RecipeError(f"task {name}: it runs code that the models write, on this machine; leave it out")
    if getattr(task, "MULTIMODAL", False):
        raise RecipeError(
            f"task {name}: it asks about images or sound, and a causal language model reads text; leave it out"
        )
