"""One task on many arguments, by Prefect's task runners: in this process, or on the nodes of a Ray or a Dask cluster.

A unit whose process or node is lost is done again elsewhere, one that is far slower than all
others a second time; a unit must therefore be such that done twice is done once.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from uuid import uuid4

from tasks.cluster import Runner, is_loss, options, room, task_runner, want
from widen.errors import EnvironmentFault, WidenError

ATTEMPTS = 3
SILENCE_S, SILENCES = 60.0, 3.0
"""Units still out are done a second time where none ended for so long, and for so many times the longest pause yet."""

_OF_A_NODE = {
    "Failed to reach API": (
        "{name}: its node does not reach Prefect's server; name one that every node reaches: "
        "PREFECT_API_URL=http://HOST:4200/api"
    ),
    "No module named": "{name}: its node lacks a package; install this version of widen on every node, with its extras",
}
"""What an error says of the node on which a unit was begun, and not of the unit."""
_WAITING: dict[str, Callable[[], None]] = {}

log = logging.getLogger(__name__)
Arguments = tuple[Any, ...]
Done = Callable[[int, Any], None]


def spread(work: Any, arguments: Sequence[Arguments], names: Sequence[str], runner: Runner, done: Done) -> None:
    """Run the Prefect task `work` on each of `arguments`, as many at a time as there is room for, in a flow of its own.

    done: told the position of each and its result, in the order in which they end. Raises what a unit raised, with the
    unit's name before it, and EnvironmentFault for one that was lost ATTEMPTS times, for a cluster that does not
    answer and for a package that is not installed.
    """

    def all_of(units: Units) -> None:
        for one, name in zip(arguments, names, strict=True):
            units.submit(one, name)
        units.finish()

    hand_out(work, runner, all_of, done)


def hand_out(work: Any, runner: Runner, body: Callable[["Units"], None], done: Done, twice: bool = True) -> None:
    """Call `body` with units of the Prefect task `work` to submit, in a flow of its own on `runner`.

    twice: one that takes far longer than all others is done elsewhere as well. Raises as `spread` does.
    """
    key, units = uuid4().hex, Units(work, done, twice)
    _WAITING[key] = partial(_run, runner, units, body)
    try:
        _flow(f"{work.name} on {runner.name}", task_runner(runner))(key)
    except (OSError, RuntimeError) as error:
        if units.begun:
            raise
        where = f"the cluster at {runner.address}" if runner.address else "a cluster of this machine"
        raise EnvironmentFault(f"--runner {runner.name}: {where} does not answer: {error}; is it running?") from error
    finally:
        del _WAITING[key]


def run_waiting(key: str) -> None:
    """Run what this process put there; the flow holds its name only, since Ray sends the flow to every node."""
    _WAITING[key]()


def _flow(name: str, task_runner: Any) -> Any:
    from prefect import flow

    @flow(name=name, task_runner=task_runner, validate_parameters=False)
    def units(key: str) -> None:
        run_waiting(key)

    return units


def _run(runner: Runner, units: "Units", body: Callable[["Units"], None]) -> None:
    with options(runner):
        units.begun, units.room, units.want = True, room(runner), partial(want, runner)
        body(units)


class Units:
    """The units that are out, and those that are done, by position in the order submitted.

    room: how many the cluster does at a time, as far as it is known.
    """

    def __init__(self, work: Any, done: Done, twice: bool = True) -> None:
        self._work, self._done, self._twice = work, done, twice
        self._asked: list[tuple[Arguments, str]] = []
        self._left: set[int] = set()
        self._failed: dict[int, WidenError] = {}
        self._out: dict[Any, int] = {}
        self._tries = Counter[int]()
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._pause, self._last, self._silent = SILENCE_S, monotonic(), False
        self.begun, self.room = False, 1
        self.want: Callable[[], str] = str

    def submit(self, arguments: Arguments, name: str) -> int:
        """Send a unit off; returns its position."""
        self._asked.append((arguments, name))
        position = len(self._asked) - 1
        self._left.add(position)
        self._submit(position)
        return position

    def first(self, positions: Sequence[int]) -> int:
        """Until one of these units has ended; returns its position. Raises what it raised."""
        while not (ended := [one for one in positions if one not in self._left]):
            self._next()
        self._raise(ended[0])
        return ended[0]

    def finish(self) -> None:
        """Until every unit is done. Raises what the first of them raised."""
        while self._left:
            self._next()
            for position in tuple(self._failed):
                self._raise(position)

    def _raise(self, position: int) -> None:
        if (error := self._failed.get(position)) is not None:
            raise type(error)(f"{self._asked[position][1]}: {error}") from error

    def _next(self) -> None:
        try:
            future = self._ended.get(timeout=self._pause)
        except Empty:
            if not self._silent:
                log.warning("no unit ended for %.0f s, %d are out; %s", self._pause, len(self._left), self.want())
            self._silent = True
            if self._twice:
                self._repeat()
            return
        self._silent = False
        self._pause, self._last = max(self._pause, SILENCES * (monotonic() - self._last)), monotonic()
        self._take(future)

    def _submit(self, position: int) -> None:
        self._tries[position] += 1
        arguments, name = self._asked[position]
        future = self._work.with_options(task_run_name=name).submit(*arguments)
        self._out[future] = position
        future.add_done_callback(self._ended.put)

    def _take(self, future: Any) -> None:
        position = self._out.pop(future)
        if position not in self._left:
            return
        name = self._asked[position][1]
        try:
            result = future.result()
        except WidenError as error:
            self._left.discard(position)
            self._failed[position] = error
            return
        except Exception as error:
            for sign, told in _OF_A_NODE.items():
                if sign in str(error):
                    raise EnvironmentFault(told.format(name=name)) from error
            if not is_loss(error):
                raise
            self._lost(position, error)
            return
        self._left.discard(position)
        self._done(position, result)

    def _lost(self, position: int, error: Exception) -> None:
        name = self._asked[position][1]
        if self._tries[position] >= ATTEMPTS:
            raise EnvironmentFault(
                f"{name}: its process was lost {ATTEMPTS} times, last with {type(error).__name__}: {error}; "
                "give a unit more memory, or look at the logs"
            ) from error
        log.warning("%s was lost (%s); it is done again", name, type(error).__name__)
        self._submit(position)

    def _repeat(self) -> None:
        """Those that are out for long a second time, once most are done: theirs may be a slow or a silent node."""
        if 2 * len(self._left) > len(self._asked):
            return
        for position in sorted(self._left):
            if self._tries[position] == 1:
                log.warning("%s takes long; it is done elsewhere as well", self._asked[position][1])
                self._submit(position)
