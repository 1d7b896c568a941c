"""One task on many arguments, by Prefect's task runners: in this process, or on the nodes of a Ray or a Dask cluster.

The one door to both. A unit whose process or node is lost is done again elsewhere, one that is far slower than all
others a second time; a unit must therefore be such that done twice is done once.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from types import MappingProxyType
from typing import Any, Literal
from uuid import uuid4

from widen.errors import EnvironmentFault, RecipeError, WidenError

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


@dataclass(frozen=True)
class Share:
    """What one unit takes of its node: processors, GPUs, bytes of memory, and of `placement`, resources that nodes of
    the cluster offer under names of their own.
    """

    cpus: int = 2
    gpus: float = 0
    memory: int | None = None
    placement: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Runner:
    """Who does the units. address: of a cluster that runs, as Ray or Dask write it; None starts one on this machine."""

    name: Literal["local", "ray", "dask"] = "local"
    address: str | None = None
    share: Share = field(default_factory=Share)


LOCAL = Runner()


def spread(work: Any, arguments: Sequence[Arguments], names: Sequence[str], runner: Runner, done: Done) -> None:
    """Run the Prefect task `work` on each of `arguments`, as many at a time as there is room for, in a flow of its own.

    done: told the position of each and its result, in the order in which they end. Raises what a unit raised, with the
    unit's name before it, and EnvironmentFault for one that was lost ATTEMPTS times, for a cluster that does not
    answer and for a package that is not installed.
    """
    key, units = uuid4().hex, _Spread(work, arguments, names, done, partial(_told_of, runner))
    _WAITING[key] = partial(_run, runner, units)
    try:
        _flow(f"{work.name} on {runner.name}", _task_runner(runner))(key)
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


def _run(runner: Runner, units: "_Spread") -> None:
    with _options(runner):
        units.run()


class _Spread:
    """The units that are out, and those that are done."""

    def __init__(
        self, work: Any, arguments: Sequence[Arguments], names: Sequence[str], done: Done, room: Callable[[], str]
    ) -> None:
        self._work, self._arguments, self._names, self._done, self._room = work, arguments, names, done, room
        self._left = set(range(len(arguments)))
        self._out: dict[Any, int] = {}
        self._tries = Counter[int]()
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self.begun = False

    def run(self) -> None:
        """Until every unit is done."""
        self.begun = True
        for position in sorted(self._left):
            self._submit(position)
        pause, last = SILENCE_S, monotonic()
        while self._left:
            try:
                future = self._ended.get(timeout=pause)
            except Empty:
                log.warning("no unit ended for %.0f s, %d are still out; %s", pause, len(self._left), self._room())
                self._repeat()
                continue
            pause, last = max(pause, SILENCES * (monotonic() - last)), monotonic()
            self._take(future)

    def _submit(self, position: int) -> None:
        self._tries[position] += 1
        named = self._work.with_options(task_run_name=self._names[position])
        future = named.submit(*self._arguments[position])
        self._out[future] = position
        future.add_done_callback(self._ended.put)

    def _take(self, future: Any) -> None:
        position = self._out.pop(future)
        if position not in self._left:
            return
        name = self._names[position]
        try:
            result = future.result()
        except WidenError as error:
            raise type(error)(f"{name}: {error}") from error
        except Exception as error:
            for sign, told in _OF_A_NODE.items():
                if sign in str(error):
                    raise EnvironmentFault(told.format(name=name)) from error
            if not _is_loss(error):
                raise
            self._lost(position, error)
            return
        self._left.discard(position)
        self._done(position, result)

    def _lost(self, position: int, error: Exception) -> None:
        name = self._names[position]
        if self._tries[position] >= ATTEMPTS:
            raise EnvironmentFault(
                f"{name}: its process was lost {ATTEMPTS} times, last with {type(error).__name__}: {error}; "
                "give a unit more memory, or look at the logs"
            ) from error
        log.warning("%s was lost (%s); it is done again", name, type(error).__name__)
        self._submit(position)

    def _repeat(self) -> None:
        """Those that are out for long a second time, once most are done: theirs may be a slow or a silent node."""
        if 2 * len(self._left) > len(self._arguments):
            return
        for position in sorted(self._left):
            if self._tries[position] == 1:
                log.warning("%s takes long; it is done elsewhere as well", self._names[position])
                self._submit(position)


def _is_loss(error: Exception) -> bool:
    """Whether this says that a process or a node is gone, and nothing of the work itself."""
    from prefect.exceptions import CrashedRun

    kinds = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(error).__mro__}
    of_ray = ("ray", "RayError") in kinds and ("ray", "RayTaskError") not in kinds
    return isinstance(error, CrashedRun) or of_ray or ("distributed", "KilledWorker") in kinds


def _task_runner(runner: Runner) -> Any:
    if runner.name == "local":
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=max(1, len(os.sched_getaffinity(0)) // runner.share.cpus))
    return _ray(runner) if runner.name == "ray" else _dask(runner)


def _ray(runner: Runner) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise _missing("ray", error) from error
    own = {} if runner.address else {"include_dashboard": False}
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    return RayTaskRunner(runner.address or "local", init_kwargs=quiet | own)


def _dask(runner: Runner) -> Any:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise _missing("dask", error) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its workers say farewell with tracebacks
    if runner.address:
        return DaskTaskRunner(address=runner.address)
    workers = max(1, len(os.sched_getaffinity(0)) // runner.share.cpus)
    return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None})


def _options(runner: Runner) -> Any:
    """A context: what a unit takes of a node, in the cluster's words, for all that is submitted within."""
    share = runner.share
    if runner.name == "ray":
        from prefect_ray.context import remote_options

        asked = {"num_cpus": share.cpus, "num_gpus": share.gpus, "resources": dict(share.placement)}
        return remote_options(
            scheduling_strategy="SPREAD", **asked, **({"memory": share.memory} if share.memory else {})
        )
    if runner.name == "dask":
        from dask.base import annotate

        needs = {**({"GPU": share.gpus} if share.gpus else {}), **share.placement}
        return annotate(resources=needs) if needs else nullcontext()
    return nullcontext()


def _told_of(runner: Runner) -> str:
    """What a unit asks for and what the cluster has, for who wonders why nothing goes on."""
    asked = {"cpus": runner.share.cpus, "gpus": runner.share.gpus, "memory": runner.share.memory or 0}
    wanted = {name: amount for name, amount in (asked | dict(runner.share.placement)).items() if amount}
    return f"one takes {_amounts(wanted)} of a node, and there is in all {_amounts(_room_of(runner)) or 'no worker'}"


def _room_of(runner: Runner) -> Mapping[str, float]:
    if runner.name == "ray":
        import ray

        known = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return {name: amount for name, amount in known.items() if ":" not in name}
    if runner.name == "dask":
        from distributed import default_client

        known = default_client().scheduler_info(n_workers=-1)  # type: ignore[no-untyped-call]
        workers = known["workers"]
        return {"workers": len(workers), "memory": sum(one["memory_limit"] for one in workers.values())}
    return {"CPU": len(os.sched_getaffinity(0))}


def _amounts(of: Mapping[str, float]) -> str:
    """`CPU=4, memory=32.0GB`."""
    sized = {name: f"{amount / 1e9:.1f}GB" if "memory" in name else f"{amount:g}" for name, amount in of.items()}
    return ", ".join(f"{name}={amount}" for name, amount in sorted(sized.items()) if of[name])


def _missing(extra: str, error: ImportError) -> RecipeError:
    return RecipeError(f"--runner {extra}: {error.name} is not installed; install widen[{extra}]")
