"""What every dependency is told before it is imported: no telemetry, no host that the user did not name, quiet.

What the user has set is kept.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from flows.services.credentials import known_credentials
from flows.services.running import running
from flows.settings import settings
from widen.errors import EnvironmentFault

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_WAIT_POLICY": "passive",  # threads of small models would burn a core each while they wait for the other
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,registry",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "TOKENIZERS_PARALLELISM": "false",
}


def prepare(workspace: Path) -> None:
    """Set the defaults; Prefect's and Hugging Face's own files go into the workspace unless told otherwise.

    Where services of the workspace run, commands find them: their addresses and credentials are set as well.
    """
    homes = {"PREFECT_HOME": workspace / ".widen" / "prefect", "HF_HOME": workspace / ".widen" / "huggingface"}
    for name, value in {**_DEFAULTS, **{name: str(home) for name, home in homes.items()}}.items():
        os.environ.setdefault(name, value)
    for name, value in served(workspace.resolve()).items():
        os.environ.setdefault(name, value)


def served(workspace: Path) -> dict[str, str]:
    """What a command must know to ask the services of `workspace` that run; nothing where none does.

    A password that was set explicitly is for the servers that were named as explicitly. One of ours goes to no server
    but ours: where PREFECT_API_URL or WIDEN_REGISTRY names another, it is left out.
    """
    asked, found = settings(), running(workspace)
    prefect, mlflow = found.get("prefect"), found.get("mlflow")
    if prefect is None and mlflow is None and asked.password is None:
        return {}
    known = known_credentials(workspace)
    if known is None:
        return {}
    told: dict[str, str] = {}
    named = os.environ.get("PREFECT_API_URL")
    if prefect is not None and named in (None, f"{prefect.address}/api"):
        told |= {"PREFECT_API_URL": f"{prefect.address}/api", "PREFECT_API_AUTH_STRING": known.pair}
    elif named is not None and asked.password is not None:
        told |= {"PREFECT_API_AUTH_STRING": known.pair}
    if mlflow is not None and asked.registry in (None, mlflow.address):
        told |= {} if mlflow.registry is None else {"WIDEN_REGISTRY": mlflow.registry}
        told |= {"MLFLOW_TRACKING_USERNAME": known.user, "MLFLOW_TRACKING_PASSWORD": known.password}
    elif asked.registry is not None and asked.password is not None:
        told |= {"MLFLOW_TRACKING_USERNAME": known.user, "MLFLOW_TRACKING_PASSWORD": known.password}
    return told


def database_template() -> Path:
    """Where `flows.warm` leaves an empty database of the installed Prefect: its migrations take longer than a merge."""
    return Path(sys.prefix) / "share" / "widen" / f"prefect-{version('prefect')}.db"


def seed_prefect() -> None:
    """Give a new PREFECT_HOME the template's database, where there is one; Prefect migrates its own where not."""
    template, home = database_template(), Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)  # Prefect makes no folders above it
    if template.is_file() and not (home / "prefect.db").exists():
        partial = home / f"prefect.db.{os.getpid()}"
        shutil.copyfile(template, partial)
        partial.replace(home / "prefect.db")


def start_prefect() -> None:
    """Start Prefect's temporary server, unless the user named a server; the flow then finds it running.

    On a fresh machine it needs longer than everything before the flow: this lets both go on at once.
    """
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() is None:
        from prefect.server.api.server import SubprocessASGIServer

        SubprocessASGIServer().start()


@contextmanager
def prefect_server() -> Iterator[None]:
    """For the block, a Prefect server that processes of this machine find by its address: the user's, or a temporary
    one. Raises EnvironmentFault where it does not answer.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, temporary_settings

    seed_prefect()
    start_prefect()
    require_prefect()
    named = PREFECT_API_URL.value()
    with temporary_settings({PREFECT_API_URL: named or SubprocessASGIServer().api_url}):
        yield


def require_prefect() -> None:
    """Raise EnvironmentFault unless a Prefect server answers: the one the user named, or a temporary one of ours."""
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            fault, address = client.api_healthcheck(), client.api_url
    except RuntimeError as error:
        raise EnvironmentFault(f"Prefect's temporary server did not start: {error}") from error
    if fault is not None:
        raise EnvironmentFault(
            f"Prefect server {address} does not answer ({fault}); start it, or unset PREFECT_API_URL"
        )
