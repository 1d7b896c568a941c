"""`widen service NAME`: one service of a workspace in the foreground, as supervisord, systemd and containers run it."""

import hashlib
import os
import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.environment import prepare, seed_prefect
from flows.services.credentials import Credentials, credentials, write_privately
from flows.services.databases import MLFLOW, PREFECT, USERS, USERS_FILE, Databases, databases, require_databases
from flows.services.establish import POOL
from flows.services.running import Running, hold, services_folder
from flows.settings import SERVICES, Settings, secret, settings, variable
from widen.errors import EnvironmentFault, RecipeError

_MLFLOW_PROCESSES = 2  # on PostgreSQL; a file has one writer anyway
_REMEMBERED = 60  # seconds for which a login is taken again unhashed: a hash costs each request half a second
_SECRET = ("DATABASE", "PASSWORD", "SECRET_KEY", "WEBHOOK_URL")  # no business of the worker and its runs


@dataclass(frozen=True)
class Plan:
    """What a service becomes: a command, and what its environment gets beside this process's own."""

    command: tuple[str, ...]
    environment: dict[str, str]


def run_service(name: str, workspace: Path) -> None:
    """Become the service `name` of `workspace`: set up what it needs, then exec; returns only by an error.

    Raises RecipeError for a name that is none, EnvironmentFault where its port is taken, its database is out of reach,
    or it runs already.
    """
    from tasks.workspace import require_workspace

    if name not in SERVICES:
        raise RecipeError(f"{name} is no service; expected one of {', '.join(SERVICES)}")
    workspace, asked = require_workspace(workspace), settings()
    prepare(workspace)
    address = {"prefect": asked.prefect_address, "mlflow": asked.mlflow_address}.get(name)
    served = asked.registry_address if name == "mlflow" else None
    hold(workspace, Running(name, os.getpid(), address, served))
    plan = _PLANS[name](asked, credentials(workspace), workspace)
    sys.stdout.flush()
    os.chdir(workspace)
    os.execve(plan.command[0], plan.command, {**os.environ, **plan.environment})  # noqa: S606 - a list, no shell


def require_port(asked: Settings, name: str) -> None:
    """Raise EnvironmentFault, naming the variable to change, unless the service `name` can listen at its port."""
    ports = {"prefect": asked.prefect_port, "mlflow": asked.mlflow_port}
    if name not in ports:
        return
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(asked.host, ports[name], type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    except OSError as error:
        raise EnvironmentFault(
            f"{name} cannot listen at {asked.host}, port {ports[name]} ({error.strerror or error}): is another program "
            f"there? End it, or set {variable(f'{name}_port')} to a free port ({variable('host')} is the address)"
        ) from None


def client_environment(asked: Settings, known: Credentials) -> dict[str, str]:
    """What a service that asks both servers is told."""
    told = {
        "PREFECT_API_URL": os.environ.get("PREFECT_API_URL", f"{asked.prefect_address}/api"),
        "PREFECT_API_AUTH_STRING": known.pair,
        "MLFLOW_TRACKING_USERNAME": known.user,
        "MLFLOW_TRACKING_PASSWORD": known.password,
    }
    return told | ({} if asked.registry_address is None else {variable("registry"): asked.registry_address})


def prefect_plan(asked: Settings, known: Credentials, workspace: Path) -> Plan:
    """Prefect's server: API, page, scheduler and automations in one process."""
    require_port(asked, "prefect")
    require_databases(asked, PREFECT)
    database = databases(asked, workspace).prefect
    if database is None:
        seed_prefect()
    environment = {
        "PREFECT_API_URL": f"{asked.prefect_address}/api",
        "PREFECT_API_AUTH_STRING": known.pair,
        "PREFECT_SERVER_API_AUTH_STRING": known.pair,
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    if database is not None:
        environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    serve = ("server", "start", "--host", asked.host, "--port", str(asked.prefect_port), "--analytics-off")
    return Plan(_python("-m", "prefect", "--no-prompt", *serve), environment)


def mlflow_plan(asked: Settings, known: Credentials, workspace: Path) -> Plan:
    """MLflow's server with its basic authentication; addresses with passwords go by the environment, not by `ps`."""
    require_port(asked, "mlflow")
    require_databases(asked, MLFLOW, USERS)
    found = databases(asked, workspace)
    registry = workspace / ".widen" / "registry"
    registry.mkdir(parents=True, exist_ok=True)
    artifacts = asked.artifacts or str(registry / "artifacts")
    environment = {
        "MLFLOW_BACKEND_STORE_URI": found.mlflow,
        "MLFLOW_REGISTRY_STORE_URI": found.mlflow,
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts if "://" in artifacts else str(workspace / artifacts),
        "MLFLOW_AUTH_CONFIG_PATH": str(_configure_users(found, known, workspace)),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": known.key,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    if asked.allowed_hosts:
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(asked.allowed_hosts)
        origins = (f"{scheme}://{host}" for host in asked.allowed_hosts for scheme in ("https", "http"))
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(origins)
    processes = 1 if asked.database is None else _MLFLOW_PROCESSES
    serve = ("server", "--app-name", "basic-auth", "--host", asked.host, "--port", str(asked.mlflow_port))
    return Plan(_python("-m", "mlflow", *serve, "--workers", str(processes)), environment)


def worker_plan(asked: Settings, known: Credentials, workspace: Path) -> Plan:
    """Prefect's worker, once the server knows the pool, the deployments and the automations."""
    from flows.services.establish import establish

    environment = {"PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2")}
    _become_client(client_environment(asked, known))
    establish(workspace, secret(asked.webhook_url))
    start = ("worker", "start", "--pool", POOL, "--type", "process", "--install-policy", "never")
    return Plan(_python("-m", "prefect", "--no-prompt", *start, "--name", worker_name(workspace)), environment)


def watch_plan(asked: Settings, known: Credentials, workspace: Path) -> Plan:
    """The watch over the sources, which asks the server for runs."""
    _become_client(client_environment(asked, known))
    return Plan(_python("-P", "-m", "flows", "watch", "--workspace", str(workspace)), {})


def worker_name(workspace: Path) -> str:
    """The same after every restart, so that the server's page shows one worker and not a row of dead ones."""
    place = hashlib.sha256(str(workspace).encode()).hexdigest()[:6]
    return re.sub(r"[^\w.-]+", "-", f"{socket.gethostname()}-{workspace.name}-{place}")


def _become_client(environment: dict[str, str]) -> None:
    os.environ.update(environment)
    for name in _SECRET:
        with suppress(KeyError):
            del os.environ[variable(name)]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def _configure_users(found: Databases, known: Credentials, workspace: Path) -> Path:
    """The file by which MLflow's server finds its users; a password that is new is set before anybody asks."""
    from registry.access import set_administrator

    path, database = services_folder(workspace) / "mlflow-users.ini", found.users
    users_exist = found.prefect is not None or (services_folder(workspace) / USERS_FILE).exists()
    escaped = {name: value.replace("%", "%%") for name, value in (("database", database), ("password", known.password))}
    text = (
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = {escaped['database']}\nadmin_username = {known.user}\nadmin_password = {escaped['password']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        f"auth_cache_ttl_seconds = {_REMEMBERED}\n"
    ).encode()
    if not path.exists() or path.read_bytes() != text:
        if users_exist:  # where there are none, MLflow makes this one itself
            set_administrator(database, known.user, known.password)
        write_privately(path, text)
    return path


_PLANS: dict[str, Callable[[Settings, Credentials, Path], Plan]] = {
    "prefect": prefect_plan,
    "mlflow": mlflow_plan,
    "worker": worker_plan,
    "watch": watch_plan,
}
