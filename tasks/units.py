"""The units of a merge as Prefect tasks, on whatever runner was asked for."""

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.cluster import Runner
from tasks.spread import spread
from widen import Resources
from widen.dispatched import Dispatch, Done
from widen.units import Fragment, Unit, do_unit


@task(name="unit", cache_policy=NO_CACHE)
def run_unit(unit: Unit) -> Fragment:
    """One output file. Raises as `widen.units.do_unit` does."""
    return do_unit(unit)


def resources_of(runner: Runner, device: str, cache: Path) -> Resources:
    """What a merge may use by `runner`: all of this machine, or on each node a unit's share."""
    if runner.name == "local":
        return Resources(device, cache=cache)
    return Resources(device, runner.share.cpus, runner.share.memory and runner.share.memory // 2, cache)


def dispatch_to(runner: Runner) -> Dispatch | None:
    """How a merge hands its units to `runner`; None for the local one, whose lanes need no units."""
    if runner.name == "local":
        return None

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        names = [str(unit) for unit in units]
        spread(run_unit, [(unit,) for unit in units], names, runner, lambda place, made: done(units[place], made))

    return dispatch
