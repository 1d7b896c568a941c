"""Prefect's log, with our own errors told once and without the traceback that Prefect prints for any error."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _OursWithoutTraceback(logging.Filter):
    """Drops the traceback of an error that carries an exit code: it was raised on purpose and is told at the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if hasattr(error, "exit_code"):
            record.exc_info = record.exc_text = None
            record.msg, record.args = f"{type(error).__name__}, told below", ()
        return True


def tell_tasks() -> None:
    """Have what the tasks say of their work shown, where PREFECT_LOGGING_EXTRA_LOGGERS names them."""
    logging.getLogger("tasks").setLevel(logging.INFO)


@contextmanager
def told_once() -> Iterator[None]:
    """Within, the tasks' own lines are shown, and Prefect's handlers print no traceback for our own errors."""
    from prefect.logging.configuration import setup_logging

    setup_logging()
    tell_tasks()
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    ours = _OursWithoutTraceback()
    for handler in handlers:
        handler.addFilter(ours)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(ours)
