"""A machine on which Prefect is operated: processes in groups of their own, a server, its answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.conftest import ROOT

PREFECT = [sys.executable, "-m", "prefect", "--no-prompt"]


def quick(recipe: str) -> dict[str, Any]:
    """The quickstart's recipe with fewer questions, and a gate that so few can decide."""
    asked: dict[str, Any] = yaml.safe_load(recipe)
    asked["evaluate"] |= {"tasks": ["bpb_en"], "limit": 40}
    asked["gates"] = {"absolute": [{"task": "bpb_en", "metric": "bits_per_byte", "ceiling": 4.0}]}
    return asked


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def bare_environment(place: Path) -> dict[str, str]:
    """A machine with an empty HOME where the project is importable, and the address of a server to be started."""
    (port,) = free_ports(1)
    (place / "home").mkdir()
    ours = ("PREFECT_", "WIDEN_", "MLFLOW_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return inherited | {
        "HOME": str(place / "home"),
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(place / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
    }


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own; afterwards the whole group is ended, which may outlive one SIGTERM."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def prefect_server(environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Prefect server at the environment's address, from the moment that it answers."""
    url = environment["PREFECT_API_URL"]
    port = url.split(":")[2].removesuffix("/api")
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port]
    with running(command, environment, log) as server:
        wait_for_health(url, server, log)
        yield server


def wait_for_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers; fails with its log where it does not."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"no server at {url}: {log.read_text()}")


def asked_of(environment: Mapping[str, str], path: str, body: object = None) -> Any:
    """What the server answers; without a body it is asked by GET."""
    data = None if body is None else json.dumps(body).encode()
    url = f"{environment['PREFECT_API_URL']}{path}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
