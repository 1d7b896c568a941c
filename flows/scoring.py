"""Who scores a run's models, and how many at once: this process, its slots, or a cluster's nodes."""

from typing import TYPE_CHECKING

from flows.road import Road
from flows.settings import settings

if TYPE_CHECKING:
    from tasks.side_by_side import Body


def with_scorers(road: Road, body: "Body") -> None:
    """Call `body` with who scores, for as long as it runs.

    Raises what `body` raises, and EnvironmentFault for a cluster that does not answer.
    """
    from tasks.side_by_side import beside, on_cluster
    from tasks.slots import environments

    if road.runner.name == "local":
        beside(environments(slots_of(road), _gpus(road), road.evaluation.gpus), road.call, body)
        return
    from flows.environment import prefect_server
    from flows.quiet import told_once

    with prefect_server(), told_once():
        on_cluster(road.runner, settings().slots, body)


def slots_of(road: Road) -> int:
    """Models that are scored at once on this machine: WIDEN_SLOTS, else one on each GPU, but no less than the recipe's
    `evaluate.parallel`.
    """
    return settings().slots or max(road.recipe.require("evaluate").parallel, len(_gpus(road)) // road.evaluation.gpus)


def _gpus(road: Road) -> tuple[str, ...]:
    from tasks.slots import visible_gpus

    return visible_gpus() if road.evaluation.device != "cpu" else ()
