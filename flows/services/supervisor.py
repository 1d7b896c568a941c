"""supervisord around a workspace's services: its configuration, its start, what it says, and the end of all of it."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from flows.services.running import running, services_folder
from widen.errors import EnvironmentFault
from widen.staging import write_atomically

CONFIGURATION, SOCKET, OWN_LOG = "supervisord.conf", "supervisor.sock", "supervisord.log"
MARK = "_WIDEN_SERVICES"
"""In the environment of whatever `widen up` started, and of all that this starts: the workspace it is for."""

STOP_SECONDS = 10
"""What a service has to end by itself before it is killed."""
_START_SECONDS = 30.0
_LAST_FIRST = (
    ("watch", "worker"),
    ("prefect", "mlflow"),
)  # what a run has to say when it is ended, a server should hear

# A socket's path may have 107 characters, a workspace's may have more: seen from supervisord's own folder, it is short.
_HEAD = """; Written by `widen up`. See what runs: cd here, supervisorctl status
; settings {settings}
[supervisord]
nodaemon = true
silent = true
logfile = {own_log}
logfile_maxbytes = 5MB
logfile_backups = 2
pidfile = supervisord.pid
childlogdir = {logs}
identifier = widen
{user}
[unix_http_server]
file = /proc/self/cwd/{socket}
chmod = 0600

[supervisorctl]
serverurl = unix:///proc/self/cwd/{socket}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
_SERVICE = """
[program:{name}]
command = {command}
directory = {directory}
autostart = true
autorestart = true
startsecs = 5
startretries = 1000
stopasgroup = true
killasgroup = true
stopwaitsecs = {stop}
redirect_stderr = true
stdout_logfile = {log}
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 5
"""


@dataclass(frozen=True)
class Process:
    """A service as supervisord sees it. `began` and `ended` are Unix times, 0 where it never did."""

    name: str
    state: str
    pid: int
    began: int
    ended: int
    told: str

    @property
    def runs(self) -> bool:
        """Whether it is up, or on the way."""
        return self.state in ("STARTING", "RUNNING")


def log_file(logs: Path, name: str) -> Path:
    """Where a service's words go."""
    return logs / f"{name}.log"


def configuration(names: Sequence[str], workspace: Path, logs: Path, settings: str) -> str:
    """supervisord's configuration for the services `names` of `workspace`; `settings` tells theirs from others."""
    import getpass

    # Started by root, it must hear that root was meant.
    user = f"user = {getpass.getuser()}\n" if os.geteuid() == 0 else ""
    head = _HEAD.format(own_log=OWN_LOG, logs=_plain(logs), socket=SOCKET, user=user, settings=settings)
    services = (
        _SERVICE.format(
            name=name,
            command=_plain(shlex.join(command(name, workspace))),
            directory=_plain(workspace),
            stop=STOP_SECONDS,
            log=_plain(_plain(log_file(logs, name))),  # it expands this one twice
        )
        for name in names
    )
    return head + "".join(services)


def command(name: str, workspace: Path) -> list[str]:
    """How a service of `workspace` is run. -P: nothing is imported from the folder it starts in."""
    return [sys.executable, "-P", "-m", "flows", "service", name, "--workspace", str(workspace)]


def start(workspace: Path, text: str) -> None:
    """Start a supervisord that outlives us, with the configuration `text`; returns once it can be asked.

    Raises EnvironmentFault with its last words when it cannot start.
    """
    folder = services_folder(workspace)
    write_atomically(folder / CONFIGURATION, text.encode())
    with (folder / "supervisord.out").open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", CONFIGURATION],
            cwd=folder,
            env={**os.environ, MARK: str(workspace)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = monotonic() + _START_SECONDS
    while processes(workspace) is None:
        if started.poll() is not None or monotonic() > deadline:
            said = (folder / "supervisord.out").read_text(errors="replace").strip()
            raise EnvironmentFault(f"supervisord did not start: {said or 'it said nothing'}; see {folder / OWN_LOG}")
        sleep(0.1)


def processes(workspace: Path) -> tuple[Process, ...] | None:
    """What supervisord says of its services; None where none answers for this workspace."""
    with _asking(workspace) as server:
        found = None if server is None else _quietly(server.supervisor.getAllProcessInfo)
    if found is None:
        return None
    one = ((p["name"], p["statename"], p["pid"], p["start"], p["stop"], p["spawnerr"]) for p in found)
    return tuple(Process(*values) for values in one)


def start_again(workspace: Path, name: str) -> None:
    """Ask for a service that supervisord has given up, or that was stopped."""
    with _asking(workspace) as server:
        if server is not None:
            _quietly(lambda: server.supervisor.startProcess(name, False))


def stop(workspace: Path) -> int:
    """End supervisord, its services and all that these started, also where supervisord itself is gone.

    Each has ten seconds to end by itself; then it is killed. Returns how many processes there were.
    """
    before = marked(workspace)
    with _asking(workspace) as server:
        if server is not None:
            for names in _LAST_FIRST:
                _stop(server, workspace, names)
            _quietly(server.supervisor.shutdown)
            _until(lambda: processes(workspace) is None, 5)
    _end(workspace, signal.SIGTERM, STOP_SECONDS if server is None else 3)
    _end(workspace, signal.SIGKILL, 5)
    # A process gives up its memory, and the mark in it, a blink before its locks.
    _until(lambda: not any(one.pid in before for one in running(workspace).values()), 5)
    left = marked(workspace)
    if left:
        raise EnvironmentFault(f"{len(left)} processes cannot be ended: {', '.join(map(str, sorted(left)))}")
    return len(before)


def _stop(server: Any, workspace: Path, names: Sequence[str]) -> None:
    for name in names:
        _quietly(partial(server.supervisor.stopProcess, name, False))
    _until(lambda: not any(one.pid and one.name in names for one in processes(workspace) or ()), STOP_SECONDS + 2)


def marked(workspace: Path) -> set[int]:
    """The processes that `widen up` started for `workspace`, whatever they have become and whoever their parent is."""
    mark, found = f"{MARK}={workspace}".encode(), set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it ended meanwhile, or is somebody else's
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
    return found - {os.getpid()}


def _end(workspace: Path, how: signal.Signals, seconds: float) -> None:
    for pid in marked(workspace):
        with suppress(ProcessLookupError):
            os.kill(pid, how)
    _until(lambda: not marked(workspace), seconds)


def _until(done: Any, seconds: float) -> None:
    deadline = monotonic() + seconds
    while not done() and monotonic() < deadline:
        sleep(0.1)


@contextmanager
def _asking(workspace: Path) -> Iterator[Any]:
    """supervisord's remote interface; None where there is no folder for one."""
    from xmlrpc.client import ServerProxy

    from supervisor.xmlrpc import SupervisorTransport

    try:
        folder = os.open(services_folder(workspace), os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        # By way of the open folder, the socket's path is short however deep it lies.
        transport = SupervisorTransport(None, None, f"unix:///proc/self/fd/{folder}/{SOCKET}")
        server = ServerProxy("http://127.0.0.1", transport=transport)
        yield server if _quietly(server.supervisor.getPID) is not None else None
        transport.close()
    finally:
        os.close(folder)


def _quietly(call: Any) -> Any:
    """What a call answers; None where nobody does, or the answer is a refusal."""
    from http.client import HTTPException
    from xmlrpc.client import Error

    try:
        return call()
    except (OSError, Error, HTTPException):
        return None


def _plain(value: object) -> str:
    """For supervisord, which expands %(names)s and takes ` ;` and ` #` for the beginning of a comment."""
    text = str(value).replace("%", "%%")
    if any(mark in text for mark in (" ;", " #", "\n")):
        raise EnvironmentFault(
            f"{value}: supervisord takes no path with ` ;`, ` #` or a line break; move the workspace"
        )
    return text
