"""Ray and Dask themselves, by Prefect's task runners: which runner, what a unit takes of it, how much room it has.

The one door to both.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from widen.errors import RecipeError


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


def is_loss(error: Exception) -> bool:
    """Whether this says that a process or a node is gone, and nothing of the work itself."""
    from prefect.exceptions import CrashedRun

    kinds = {(kind.__module__.split(".")[0], kind.__name__) for kind in type(error).__mro__}
    of_ray = ("ray", "RayError") in kinds and ("ray", "RayTaskError") not in kinds
    return isinstance(error, CrashedRun) or of_ray or ("distributed", "KilledWorker") in kinds


def task_runner(runner: Runner) -> Any:
    """Prefect's for it. Raises RecipeError for a package that is not installed."""
    if runner.name == "local":
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=_local_room(runner))
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
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": _local_room(runner), "threads_per_worker": 1, "dashboard_address": None}
    )


def options(runner: Runner) -> Any:
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


def room(runner: Runner) -> int:
    """How many units the cluster does at a time now, at least one."""
    if runner.name == "local":
        return _local_room(runner)
    share, there = runner.share, offered(runner)
    asked = {"CPU": share.cpus, "GPU": share.gpus, **share.placement}
    if runner.name == "dask":  # a worker with a GPU does one unit, any other as many as it has threads
        return max(1, int(there["workers" if share.gpus else "CPU"]))
    return max(1, int(min(there.get(name, 0.0) / amount for name, amount in asked.items() if amount)))


def want(runner: Runner) -> str:
    """What a unit asks for and what the cluster has, for who wonders why nothing goes on."""
    share = runner.share
    asked = {"cpus": share.cpus, "gpus": share.gpus, "memory": share.memory or 0, **share.placement}
    return f"one takes {_amounts(asked)} of a node, and there is in all {_amounts(offered(runner)) or 'no worker'}"


def offered(runner: Runner) -> Mapping[str, float]:
    """What all workers have together: CPU, GPU, bytes of memory, resources by their names. Within a flow on it."""
    if runner.name == "ray":
        import ray

        known: Mapping[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return {name: amount for name, amount in known.items() if ":" not in name}
    if runner.name == "dask":
        from prefect.context import FlowRunContext

        context: Any = FlowRunContext.get()
        workers = context.task_runner.client.scheduler_info(n_workers=-1)["workers"].values()
        counted = {
            "CPU": sum(one["nthreads"] for one in workers),
            "memory": sum(one["memory_limit"] for one in workers),
        }
        return {"workers": len(workers), **counted}
    return {"CPU": len(os.sched_getaffinity(0))}


def _amounts(of: Mapping[str, float]) -> str:
    """`CPU=4, memory=32.0GB`."""
    sized = {name: f"{amount / 1e9:.1f}GB" if "memory" in name else f"{amount:g}" for name, amount in of.items()}
    return ", ".join(f"{name}={told}" for name, told in sorted(sized.items()) if of[name])


def _local_room(runner: Runner) -> int:
    return max(1, len(os.sched_getaffinity(0)) // runner.share.cpus)


def _missing(extra: str, error: ImportError) -> RecipeError:
    return RecipeError(f"--runner {extra}: {error.name} is not installed; install widen[{extra}]")
