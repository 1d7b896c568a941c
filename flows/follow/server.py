"""What is asked of a Prefect server besides running flows: take an event, start a deployment, bury a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

REMERGE = "remerge/remerge"
_CAUSES = (OSError, RuntimeError, ValueError)  # what a client raises beside httpx's and Prefect's own errors


def send_event(event: str, recipe: str, workspace: Path, payload: dict[str, str]) -> None:
    """Have the server take an event about a recipe; it has it when this returns.

    `prefect.events.emit_event` returns before anything is sent, and as well when there is no server; so the event is
    posted, and answered. Raises EnvironmentFault where the server did not take it.
    """
    from prefect.events import Event

    resource = {"prefect.resource.id": f"widen.recipe.{recipe}", "widen.workspace": str(workspace)}
    told = Event.model_validate({"event": event, "resource": resource, "payload": payload})
    with _server() as client:
        client.request("POST", "/events", json=[told.model_dump(mode="json")]).raise_for_status()


def start_remerge(update: str, workspace: Path, key: str) -> None:
    """Start the deployment for an update, once a `key`. Raises EnvironmentFault where that did not happen."""
    from prefect.deployments import run_deployment

    with _server():
        run_deployment(
            REMERGE,
            parameters={"update": update, "workspace": str(workspace)},
            idempotency_key=key,
            timeout=0,
            as_subflow=False,
        )


def bury(flow_run: str, why: str) -> bool:
    """Have a run that died without a word no longer stand as running; True where a person had cancelled it.

    Raises EnvironmentFault where the server does not answer or does not know the run.
    """
    from prefect.states import Crashed

    with _server() as client:
        found: FlowRun = client.read_flow_run(flow_run)  # type: ignore[arg-type]
        if found.state is not None and (found.state.is_cancelled() or found.state.is_cancelling()):
            return True
        if found.state is None or not found.state.is_final():
            client.set_flow_run_state(flow_run, Crashed(message=why), force=True)
    return False


def flow_run_id() -> str | None:
    """The flow run that this is called within."""
    from prefect.runtime import flow_run

    identity = flow_run.get_id()
    return None if identity is None else str(identity)


@contextmanager
def _server() -> Iterator["SyncPrefectClient"]:
    """A client of the server that PREFECT_API_URL names; raises EnvironmentFault for whatever goes wrong with it."""
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL

    address = PREFECT_API_URL.value()
    if address is None:
        raise EnvironmentFault("no Prefect server is named; start one with `widen up`, or set PREFECT_API_URL")
    try:
        with get_client(sync_client=True) as client:
            fault: Any = client.api_healthcheck()
            if fault is None:
                yield client
    except (HTTPError, PrefectException, *_CAUSES) as error:
        fault = error
    if fault is not None:
        raise EnvironmentFault(f"Prefect server {address}: {type(fault).__name__}: {fault}") from None
