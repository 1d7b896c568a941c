"""Ask one checkpoint the questions of some tasks, by lm-eval."""

import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.asked_model import ask_for
from tasks.evaluate_settings import EvaluateSettings
from tasks.hushed import quiet_and_quick, stay_offline
from tasks.split import Part, chosen
from tasks.task_data import Function, anchored
from tasks.task_definitions import Definition
from widen.errors import EnvironmentFault, RecipeError

SEED = 1234  # lm-eval's own default for few-shot sampling

_LOADING = threading.Lock()  # transformers and datasets change process-wide state while they load


def ask(
    model: str, folder: Path, settings: EvaluateSettings, tasks: Sequence[Definition], hub: Path
) -> Mapping[str, Any]:
    """lm-eval's results with samples. Tasks come first: a broken one costs no model.

    Raises RecipeError for a task that lm-eval cannot build or ask, and as `asked_model.ask_for` does.
    """
    stay_offline(hub)
    import torch
    from lm_eval import evaluate as harness_evaluate

    with quiet_and_quick(), _threads(settings.threads):
        with _LOADING:
            built = _build(tasks, settings, hub)
            places = _places(built, settings.part, settings.limit) if settings.part else None
            asked = ask_for(model, folder, settings)
            _seed()
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
            raise RecipeError(f"{model}: lm-eval cannot ask {_names(tasks)}: {_told(error)}") from error
    return results


def count(tasks: Sequence[Definition], settings: EvaluateSettings, hub: Path | None) -> dict[str, int]:
    """How many documents each task has, without a model. Raises RecipeError for a task that lm-eval cannot build."""
    stay_offline(hub)
    with quiet_and_quick(), _LOADING:
        return {name: len(list(one.eval_docs)) for name, one in _build(tasks, settings, hub).items()}


def _places(built: Mapping[str, Any], part: Part, limit: int | None) -> dict[str, list[int]]:
    """The places of a side's documents by task, among the first `limit`."""
    from lm_eval.utils import handle_non_serializable, hash_string

    places = {}
    for name, task in built.items():
        documents = list(task.eval_docs)[:limit]
        # The hash that lm-eval names a document by among its samples, and the scorecard after it.
        texts = (json.dumps(one, indent=2, default=handle_non_serializable, ensure_ascii=False) for one in documents)
        field = (task.get_config("metadata") or {}).get("cluster")
        places[name] = chosen(name, documents, [hash_string(text) for text in texts], field, part)
    return places


def _names(tasks: Sequence[Definition]) -> str:
    return ", ".join(one.task for one in tasks)


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


def _build(tasks: Sequence[Definition], settings: EvaluateSettings, hub: Path | None) -> dict[str, Any]:
    """lm-eval's tasks by name, with their data loaded and their number of examples set."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)  # its index stays empty: the definitions are complete
    built: dict[str, Any] = {}
    for one in tasks:
        built |= _load(manager, one, hub)
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
