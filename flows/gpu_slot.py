"""One run at a time on the accelerator: Prefect's global concurrency limit `gpu`, around what computes there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from flows.road import Road, orchestrated

SLOT = "gpu"
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def in_gpu_slot(
    station: Callable[Concatenate[Road, Rest], Result],
) -> Callable[Concatenate[Road, Rest], Result]:
    """A station that waits for the slot where Prefect runs it and it computes on a CUDA device."""

    @wraps(station)
    def run(road: Road, /, *arguments: Rest.args, **named: Rest.kwargs) -> Result:
        with gpu_slot(road):
            return station(road, *arguments, **named)

    return run


@contextmanager
def gpu_slot(road: Road) -> Iterator[None]:
    """Hold the slot; a run that dies gives it back when its lease ends, five minutes later."""
    from widen.backend import uses_cuda

    if road.call is not orchestrated or not uses_cuda(road.device):
        yield
        return
    from prefect.concurrency.sync import concurrency

    _make_slot()
    with concurrency(SLOT, occupy=1):
        yield


def _make_slot() -> None:
    """Make the limit where it is missing: Prefect lets everybody through one that is not there. Yours stays."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(SLOT)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=SLOT, limit=1))
