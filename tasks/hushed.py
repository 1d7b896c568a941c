"""lm-eval and the libraries below it, quiet, offline, and compiling each template once."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache as cached
from functools import partial
from pathlib import Path
from typing import Any


def stay_offline(hub: Path | None) -> None:
    """Before the first import of the Hugging Face libraries: no network, and their files in `hub`.

    Only defaults: an environment that sets HF_HUB_OFFLINE=0 or HF_HOME, to fetch lm-eval's own data sets, is obeyed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if hub is not None:
        os.environ.setdefault("HF_HOME", str(hub))


_QUIET = threading.Lock()
_quiet_users = 0
_loud: tuple[Any, ...] = ()


@contextmanager
def quiet_and_quick() -> Iterator[None]:
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
    import lm_eval.models.huggingface
    import lm_eval.utils
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    harness, bar, templates = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm, lm_eval.utils.env
    level = harness.level
    harness.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = partial(bar, disable=True)  # its only switch
    lm_eval.models.huggingface.print = _say_nothing  # of batch sizes found, on standard output
    templates.from_string = cached(templates.from_string)
    return level, bar, templates


def _unhush(level: int, bar: Any, templates: Any) -> None:
    import lm_eval.api.task
    import lm_eval.models.huggingface

    del templates.from_string, lm_eval.models.huggingface.print
    lm_eval.api.task.tqdm = bar
    logging.getLogger("lm_eval").setLevel(level)


def _say_nothing(*_: Any, **__: Any) -> None:
    """In place of `print`."""
