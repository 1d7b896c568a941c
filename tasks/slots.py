"""Processes of this machine that score side by side, each with GPUs of its own, or a share of the processor.

A process that dies is told, and its unit done once more in a fresh one. None outlives the block that opened them, nor
this process, however it ends.
"""

import gc
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

from tasks.scoring import Unit, score
from widen.errors import EnvironmentFault, WidenError

ATTEMPTS = 2
VISIBLE = "CUDA_VISIBLE_DEVICES"

log = logging.getLogger(__name__)


class Slots:
    """As many units at a time as there are `environments`, the variables that each process has beside this one's."""

    def __init__(self, environments: Sequence[Mapping[str, str]]) -> None:
        self._children = [_Child(one) for one in environments]
        self._free: SimpleQueue[_Child] = SimpleQueue()
        for one in self._children:
            self._free.put(one)

    def run(self, unit: Unit) -> None:
        """Have the unit done by the next process that is free.

        Raises what the unit raised, and EnvironmentFault where its process died ATTEMPTS times.
        """
        child = self._free.get()
        try:
            for attempt in range(ATTEMPTS):
                if child.do(unit):
                    return
                if attempt + 1 < ATTEMPTS:
                    log.warning("%s: its process %s; it is done again in a fresh one", unit, child.told)
        finally:
            self._free.put(child)
        raise EnvironmentFault(
            f"{unit}: its process {child.told}, {ATTEMPTS} times; if memory is short, lower evaluate.batch_size, "
            "evaluate.parallel or WIDEN_SLOTS"
        )

    def close(self) -> None:
        """End every process, whatever it does."""
        for child in self._children:
            child.end()


@contextmanager
def opened(environments: Sequence[Mapping[str, str]]) -> Iterator[Slots]:
    """Slots for a block; each process begins with its first unit."""
    slots = Slots(environments)
    try:
        yield slots
    finally:
        slots.close()


def environments(slots: int, gpus: Sequence[str], each: int) -> list[dict[str, str]]:
    """The variables of each slot's process: `each` of the GPUs, in turn; nothing where there is none."""
    if not gpus:
        return [{} for _ in range(slots)]
    groups = [gpus[start : start + each] for start in range(0, max(1, len(gpus) - each + 1), each)]
    return [{VISIBLE: ",".join(groups[place % len(groups)])} for place in range(slots)]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [one.strip() for one in os.environ.get(VISIBLE, "").split(",") if one.strip()]
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


class _Child:
    """One process at a time, a fresh one after a death. A unit's log is told by the thread that waits for it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._running: tuple[BaseProcess, Connection] | None = None
        self._lock = threading.Lock()
        self._ended = False
        self.told = ""

    def do(self, unit: Unit) -> bool:
        """Whether the unit was done; False where the process died. Raises what the unit raised."""
        process, pipe = self._started(unit)
        try:
            pipe.send(unit)
            while isinstance(answer := _heard(process, pipe), logging.LogRecord):
                _tell(answer)
        except (EOFError, OSError):
            self._bury(unit, process)
            return False
        if answer is not None:
            raise answer
        if unit.settings.backend == "vllm":
            self._forget(process)  # its engine gives memory back only as it ends
        return True

    def end(self) -> None:
        """Kill the process with all that it started; no other begins."""
        with self._lock:
            self._ended = True
            if self._running is not None:
                _kill(self._running[0])

    def _started(self, unit: Unit) -> tuple[BaseProcess, Connection]:
        with self._lock:
            if self._ended:
                raise _stopped(unit)
            if self._running is None:
                context = get_context("spawn")
                pipe, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, dict(self._environment), _levels()))
                process.start()
                theirs.close()
                self._running = process, pipe
            return self._running

    def _bury(self, unit: Unit, process: BaseProcess) -> None:
        self._forget(process)
        if self._ended:
            raise _stopped(unit)
        code = process.exitcode or 0
        died = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self.told = died + (" (out of memory?)" if code == -signal.SIGKILL else "")

    def _forget(self, process: BaseProcess) -> None:
        with self._lock:
            self._running = None
        _kill(process)


def _heard(process: BaseProcess, pipe: Connection) -> Any:
    """The next message. Raises EOFError for a process that is gone, whoever else holds its end of the pipe."""
    if pipe not in wait((pipe, process.sentinel)):
        raise EOFError
    return pipe.recv()


def _kill(process: BaseProcess) -> None:
    """With its group, in which is what it started."""
    with suppress(ProcessLookupError, PermissionError):
        if process.pid is not None:
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # one that has no group yet
    process.join()


def _stopped(unit: Unit) -> EnvironmentFault:
    return EnvironmentFault(f"{unit}: stopped with the others")


def _tell(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _levels() -> dict[str, int]:
    """The levels that were set for what a unit logs."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("tasks", "widen", "registry")]
    return {"": logging.root.level} | {name: logging.getLogger(name).level for name in names}


# ---------------------------------------------------------------- in the process


def _serve(pipe: Connection, environment: Mapping[str, str], levels: Mapping[str, int]) -> None:
    """Do units until the parent is gone. A group of its own: Ctrl-C is the parent's to answer."""
    os.setpgid(0, 0)
    os.environ.update(environment)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a killed process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    voice = _Voice(pipe)
    logging.root.addHandler(voice)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    with suppress(EOFError):
        while True:
            voice.say(_done(pipe.recv()))


def _done(unit: Unit) -> Exception | None:
    """None, or what the unit raised, such that the parent can raise it."""
    try:
        score(unit)
    except WidenError as error:
        return type(error)(str(error))
    except Exception as error:  # noqa: BLE001 - handed to the parent
        if hasattr(error, "exit_code"):
            return type(error)(str(error))
        return RuntimeError("".join(traceback.format_exception(error)))
    finally:
        _give_back()
    return None


def _give_back() -> None:
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os.killpg(0, signal.SIGKILL)


class _Voice(QueueHandler):
    """Log records as they can be sent, and answers, one at a time on one pipe."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(SimpleQueue())
        self._pipe, self._speaking = pipe, threading.Lock()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Sent to the parent."""
        self.say(record)

    def say(self, content: object) -> None:
        """One message."""
        with self._speaking:
            self._pipe.send(content)
