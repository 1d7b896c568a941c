"""`widen up` and `widen down`: a workspace's services started together, waited for, and ended without a rest."""

import hashlib
import json
import shlex
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from time import monotonic, sleep, time

from flows.environment import prepare
from flows.services import supervisor
from flows.services.credentials import Credentials, credentials, credentials_file
from flows.services.establish import POOL
from flows.services.health import health_address, heartbeat, status, takes
from flows.services.run import client_environment, require_port, worker_name
from flows.services.running import running, services_folder
from flows.settings import Settings, secret, settings
from widen.errors import EnvironmentFault

_PATIENCE = 300.0  # seconds until all must be well; a first start migrates databases
_LAST_LINES = 15


def up(workspace: Path) -> None:
    """Start the services of `workspace` that do not run, wait until each is well, and say where they are.

    Raises EnvironmentFault, with the last lines of its log, for a service that ends at once; what this call started is
    ended again.
    """
    from filelock import FileLock

    from tasks.workspace import require_workspace

    workspace, asked = require_workspace(workspace), settings()
    prepare(workspace)
    known, logs = credentials(workspace), log_folder(asked, workspace)
    logs.mkdir(parents=True, exist_ok=True)
    text = supervisor.configuration(asked.services, workspace, logs, _fingerprint(asked, known))
    with FileLock(services_folder(workspace) / "up.lock"):
        waiting = _Waiting(asked, known, workspace, logs)
        if supervisor.processes(workspace) is None:
            _begin(waiting, text)
        else:
            _again(waiting, text)
    print("\n".join(_where(asked, known, workspace, logs)))


def down(workspace: Path) -> None:
    """End all that `widen up` started for `workspace`, within a minute."""
    workspace = workspace.resolve()
    ended = supervisor.stop(workspace)
    print(f"ended {ended} processes of {workspace}" if ended else f"nothing runs for {workspace}")
    for one in running(workspace).values():
        print(f"{one.name} (process {one.pid}) goes on: `widen up` did not start it")


def log_folder(asked: Settings, workspace: Path) -> Path:
    """Where the logs of a workspace's services are."""
    return (asked.log_folder or services_folder(workspace) / "logs").absolute()


class _Waiting:
    """The services that are not known to be well yet. `began` is the Unix time after which a worker must speak."""

    def __init__(self, asked: Settings, known: Credentials, workspace: Path, logs: Path):
        self.asked, self.known, self.workspace, self.logs = asked, known, workspace, logs
        self.api = client_environment(asked, known)["PREFECT_API_URL"]
        self.left = list(asked.services)

    def wait(self, began: float, ended: float) -> None:
        """Return once all are well, with a line for each; raise EnvironmentFault for one that ended after `ended`."""
        deadline = monotonic() + _PATIENCE
        while True:
            found = {one.name: one for one in supervisor.processes(self.workspace) or ()}
            for name in self.asked.services:  # those that were well already too: one may end after its first seconds
                process = found.get(name)
                if process is None or not process.runs or process.ended > ended:
                    raise EnvironmentFault(self._ended(name))
                if name in self.left and self._well(process, began):
                    self.left.remove(name)
            if not self.left:
                return
            if monotonic() > deadline:
                raise EnvironmentFault(
                    f"{self.left[0]} is not well after {_PATIENCE:.0f} s; {self._last_words(self.left[0])}"
                )
            sleep(0.5)

    def _well(self, process: supervisor.Process, began: float) -> bool:
        name, told = process.name, _CHECKS[process.name](self, process, began)
        if told is not None:
            print(f"  {name:<8} {told}", flush=True)
        return told is not None

    def _server(self, process: supervisor.Process, _: float) -> str | None:
        address = self.asked.prefect_address if process.name == "prefect" else self.asked.mlflow_address
        if status(health_address(process.name, address)) != HTTPStatus.OK:
            return None
        taken = takes(process.name, address, self.known.pair)
        if taken is False:
            raise EnvironmentFault(
                f"{process.name} answers at {address} and refuses our credentials: is it another server? If not, "
                f"{self._last_words(process.name)}"
            )
        return f"answers at {address}" if taken else None

    def _worker(self, _: supervisor.Process, began: float) -> str | None:
        last = heartbeat(self.api, self.known.pair, POOL, worker_name(self.workspace))
        return None if last is None or last < began else f"takes runs from the pool {POOL}"

    def _watch(self, process: supervisor.Process, _: float) -> str | None:
        return f"looks every {self.asked.watch_seconds:g} s" if process.state == "RUNNING" else None

    def _ended(self, name: str) -> str:
        return f"{name} ended as soon as it was started; {self._last_words(name)}"

    def _last_words(self, name: str) -> str:
        path = supervisor.log_file(self.logs, name)
        lines = path.read_text(errors="replace").splitlines()[-_LAST_LINES:] if path.exists() else []
        return f"its log {path} ends:\n" + "\n".join(f"  {line}" for line in lines)


_CHECKS: dict[str, Callable[[_Waiting, supervisor.Process, float], str | None]] = {
    "prefect": _Waiting._server,
    "mlflow": _Waiting._server,
    "worker": _Waiting._worker,
    "watch": _Waiting._watch,
}


def _begin(waiting: _Waiting, text: str) -> None:
    workspace, names = waiting.workspace, waiting.asked.services
    if supervisor.marked(workspace):
        print(f"ended {supervisor.stop(workspace)} processes that a supervisord before left behind")
    others = [f"{one.name} (process {one.pid})" for one in running(workspace).values() if one.name in names]
    if others:
        raise EnvironmentFault(f"{', '.join(others)}: started by other means for {workspace}; end that first")
    for name in names:
        require_port(waiting.asked, name)
    print(f"starting {', '.join(names)} for {workspace}", flush=True)
    began = time()
    try:
        supervisor.start(workspace, text)
        waiting.wait(began, 0)
    except BaseException:
        supervisor.stop(workspace)
        raise


def _again(waiting: _Waiting, text: str) -> None:
    workspace = waiting.workspace
    if (services_folder(workspace) / supervisor.CONFIGURATION).read_text(encoding="utf-8") != text:
        raise EnvironmentFault(
            f"the services of {workspace} run with other settings than the ones asked for now; nothing was changed. "
            "To change them: widen down, then widen up"
        )
    began, stopped = time(), [one.name for one in supervisor.processes(workspace) or () if not one.runs]
    for name in stopped:
        supervisor.start_again(workspace, name)
    waiting.wait(began if "worker" in stopped else 0, began)
    print(f"started again: {', '.join(stopped)}" if stopped else "all of them ran already; nothing was changed")


def _fingerprint(asked: Settings, known: Credentials) -> str:
    """Tells settings apart that services were started with, without telling what they are."""
    plain = {name: secret(value) if hasattr(value, "get_secret_value") else value for name, value in asked}
    text = json.dumps([plain, known.pair, known.key], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _where(asked: Settings, known: Credentials, workspace: Path, logs: Path) -> list[str]:
    lines = []
    if "prefect" in asked.services:
        lines.append(
            f"Prefect   {asked.prefect_address}   runs, schedules, automations (asks for USER:PASSWORD in one)"
        )
    if "mlflow" in asked.services:
        lines.append(f"MLflow    {asked.mlflow_address}   versions, scores, reports")
    place = shlex.quote(str(workspace))
    held = f"in {credentials_file(workspace)}" if asked.password is None else "the one of WIDEN_PASSWORD"
    return [
        *lines,
        f"user      {known.user}; password: {held}",
        f"logs      {logs}",
        f"next      widen status --workspace {place}",
        f"          widen down --workspace {place}",
    ]
