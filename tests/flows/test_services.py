"""The services of a workspace: their parts, and all of them for real, from `widen up` to `widen down`."""

import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

import tests.registry.conftest as registered
from flows import environment
from flows.assets import workspace_files
from flows.cli import app
from flows.environment import served
from flows.registries import registry_at
from flows.services import supervisor
from flows.services.credentials import credentials, credentials_file, known_credentials
from flows.services.databases import databases
from flows.services.establish import GPU_SLOT, POOL
from flows.services.health import health_address, status, takes
from flows.services.run import require_port, watch_plan, worker_name
from flows.services.running import Running, hold, running, services_folder
from flows.settings import SERVICES, Settings, settings
from registry.registration import Evidence, register
from tasks.workspace import create_workspace
from tests.flows.conftest import ROOT
from tests.flows.machine import free_ports
from widen.errors import EnvironmentFault

evidence = registered.evidence
COMMANDS = {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
STARTED = tuple(name for name in SERVICES if name in ("prefect", "mlflow", "worker") or name in COMMANDS)
PASSWORD = "a-password-of-ours"


@pytest.fixture(autouse=True)
def bare() -> Iterator[None]:
    """None of this machine's own settings and servers; afterwards the environment as it was, whatever was set in it."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(("WIDEN_", "PREFECT_", "MLFLOW_TRACKING_")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(kept)


# Credentials


def test_credentials_are_made_once_and_only_for_their_owner(tmp_path: Path) -> None:
    assert known_credentials(tmp_path) is None
    made = credentials(tmp_path)
    path = credentials_file(tmp_path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert made.password in path.read_text()
    assert made.password not in repr(made)
    assert credentials(tmp_path) == made == known_credentials(tmp_path)


def test_a_password_that_was_set_is_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDEN_PASSWORD", PASSWORD)
    assert credentials(tmp_path).pair == f"widen:{PASSWORD}"
    assert PASSWORD not in credentials_file(tmp_path).read_text()


def test_a_short_password_in_the_file_is_told(tmp_path: Path) -> None:
    credentials(tmp_path)
    credentials_file(tmp_path).write_text("WIDEN_PASSWORD=short\n")
    with pytest.raises(EnvironmentFault, match="WIDEN_PASSWORD has fewer than 12 characters"):
        credentials(tmp_path)


# Which services run

HOLDER = """
import os, sys
from pathlib import Path
from flows.services.running import Running, hold
hold(Path(sys.argv[1]), Running("mlflow", os.getpid(), sys.argv[2], sys.argv[3] or None))
os.execv(sys.executable, [sys.executable, "-c", "print('held', flush=True); input()"])
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(address, registry="") -> a process that holds MLflow's lock through an exec."""
    started = []

    def run(address: str, registry: str = "") -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLDER, str(tmp_path), address, registry]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield run
    for one in started:
        one.kill()
        one.communicate()


def test_a_service_runs_until_its_process_ends_however_it_ends(tmp_path: Path, start: Start) -> None:
    assert running(tmp_path) == {}
    process = start("http://127.0.0.1:5")
    assert running(tmp_path) == {"mlflow": Running("mlflow", process.pid, "http://127.0.0.1:5")}
    with pytest.raises(EnvironmentFault, match=f"runs already for .* as process {process.pid}"):
        hold(tmp_path, Running("mlflow", os.getpid()))
    process.kill()
    process.wait()
    assert running(tmp_path) == {}


def test_commands_find_what_runs_and_nothing_otherwise(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = credentials(tmp_path)
    assert served(tmp_path) == {}
    start("http://127.0.0.1:5", "http://127.0.0.1:5")
    login = {"MLFLOW_TRACKING_USERNAME": "widen", "MLFLOW_TRACKING_PASSWORD": known.password}
    assert served(tmp_path) == {"WIDEN_REGISTRY": "http://127.0.0.1:5", **login}
    monkeypatch.setattr(environment, "running", lambda _: {"prefect": Running("prefect", 1, "http://127.0.0.1:4")})
    address = {"PREFECT_API_URL": "http://127.0.0.1:4/api"}
    assert served(tmp_path) == {**address, "PREFECT_API_AUTH_STRING": known.pair}
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.org/api")
    assert served(tmp_path) == {}
    monkeypatch.setenv("WIDEN_PASSWORD", PASSWORD)
    assert served(tmp_path) == {"PREFECT_API_AUTH_STRING": f"widen:{PASSWORD}"}


def test_our_login_goes_to_no_registry_elsewhere(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials(tmp_path)
    start("http://127.0.0.1:5")
    for name, value in served(tmp_path).items():
        monkeypatch.setenv(name, value)
    registry_at("http://127.0.0.1:5", tmp_path)
    assert "MLFLOW_TRACKING_PASSWORD" in os.environ
    registry_at("https://registry.example.org", tmp_path)
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ


def test_a_recipe_without_an_address_uses_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry_at(None, tmp_path).database == tmp_path / ".widen" / "registry" / "mlflow.db"
    monkeypatch.setenv("WIDEN_REGISTRY", "http://127.0.0.1:5000")
    assert registry_at(None, tmp_path).uri == "http://127.0.0.1:5000"
    assert registry_at("sqlite:///other.db", tmp_path).database == tmp_path / "other.db"


# What is started, and how


def test_supervisord_reads_the_configuration_as_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = tmp_path / "100% of it" / "it's"
    logs = workspace / "logs"
    logs.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    (workspace / "supervisord.conf").write_text(supervisor.configuration(SERVICES, workspace, logs, "0" * 64))
    options = ServerOptions()
    options.realize(["-c", "supervisord.conf"])
    programs = {one.name: one.process_configs[0] for one in options.process_group_configs}
    assert set(programs) == set(SERVICES)
    for name, program in programs.items():
        assert program.directory == str(workspace)
        assert program.stdout_logfile == str(logs / f"{name}.log")
        assert program.autorestart
        assert (program.stopasgroup, program.killasgroup) == (True, True)
        assert shlex.split(program.command) == supervisor.command(name, workspace)


@pytest.mark.parametrize("name", ["a ; b", "a # b", "a\nb"])
def test_a_path_that_supervisord_would_cut_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="move the workspace"):
        supervisor.configuration(("worker",), tmp_path / name, tmp_path, "")


def test_the_watch_is_this_workspaces_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDEN_PASSWORD", PASSWORD)
    monkeypatch.setenv("WIDEN_DATABASE", "postgresql://u:p@h/")
    plan = watch_plan(settings(), credentials(tmp_path), tmp_path)
    assert plan.command[-3:] == ("watch", "--workspace", str(tmp_path))
    assert os.environ["PREFECT_API_AUTH_STRING"] == f"widen:{PASSWORD}"
    assert os.environ["WIDEN_REGISTRY"] == "http://127.0.0.1:5000"
    assert not {"WIDEN_DATABASE", "WIDEN_PASSWORD"} & set(os.environ)


def test_a_port_in_use_is_told_with_its_variable() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"port {port} .*WIDEN_PREFECT_PORT"):
            require_port(Settings(prefect_port=port), "prefect")
    require_port(Settings(prefect_port=port), "prefect")


def test_each_server_gets_its_database_under_its_own_names(tmp_path: Path) -> None:
    asked = Settings.model_validate({"database": "postgres://ada:p%40ss@machine:5433/?sslmode=require"})
    found = databases(asked, tmp_path)
    assert found.prefect == "postgresql+asyncpg://ada:p%40ss@machine:5433/widen_prefect?ssl=require"
    assert found.mlflow == "postgresql://ada:p%40ss@machine:5433/widen_mlflow?sslmode=require"
    assert "p%40ss" not in repr(found)
    assert databases(Settings(), tmp_path).prefect is None


# For real

Widen = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def widen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Widen]:
    """widen(*arguments) in a deep workspace whose name needs quoting, with ports of its own; `down` at the end."""
    place = tmp_path / "a-folder-so-deep-that-no-socket-could-be-bound-in-it" / "and-one-more-folder" / "my 100% work"
    create_workspace(place, workspace_files())
    prefect, mlflow = free_ports(2)
    (tmp_path / "home").mkdir()
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
        "WIDEN_PREFECT_PORT": str(prefect),
        "WIDEN_MLFLOW_PORT": str(mlflow),
        "WIDEN_SERVICES": ",".join(STARTED),
    }.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-P", "-m", "flows", *arguments, "--workspace", str(place)]
        return subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=240, check=False)

    run.workspace = place  # type: ignore[attr-defined]
    yield run
    run("down")
    assert supervisor.marked(place) == set()


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def require_logins(asked: Settings, pair: str) -> None:
    """Both servers are well, refuse whoever has no password or a wrong one, and take ours."""
    for name, address in (("prefect", asked.prefect_address), ("mlflow", asked.mlflow_address)):
        assert status(health_address(name, address)) == 200
        assert takes(name, address, pair)
        assert takes(name, address, f"{pair}x") is False
    assert status(f"{asked.prefect_address}/api/flows/filter", None, {}) == 401
    assert status(f"{asked.mlflow_address}/api/2.0/mlflow/experiments/search?max_results=1") == 401


def prefect_says(*arguments: str) -> str:
    """What Prefect's own command says to who knows only what `served` tells."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout


@pytest.mark.slow
def test_the_services_from_up_to_down(widen: Widen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace: Path = widen.workspace  # type: ignore[attr-defined]
    first = widen("up")
    assert first.returncode == 0, first.stdout + first.stderr
    known, asked, before = known_credentials(workspace), settings(), running(workspace)
    assert known is not None
    assert known.password not in first.stdout + first.stderr
    assert set(before) == set(STARTED)
    assert asked.prefect_address in first.stdout
    assert asked.mlflow_address in first.stdout
    require_logins(asked, known.pair)

    for name, value in served(workspace).items():
        monkeypatch.setenv(name, value)
    deployed = json.loads(prefect_says("deployment", "inspect", "merge/merge", "-o", "json"))
    assert deployed["parameters"]["workspace"] == str(workspace)
    assert json.loads(prefect_says("gcl", "inspect", GPU_SLOT, "-o", "json"))["limit"] == 1
    assert POOL in prefect_says("work-pool", "ls")

    second = create_workspace(tmp_path / "second", workspace_files())
    code = "from pathlib import Path; from flows.services.establish import establish; establish(Path())"
    command = [sys.executable, "-c", code]
    refused = subprocess.run(command, cwd=second, text=True, capture_output=True, check=False)
    assert f"serves {workspace} already, and one server serves one workspace" in refused.stderr
    after = json.loads(prefect_says("deployment", "inspect", "merge/merge", "-o", "json"))
    assert (after["id"], after["parameters"]) == (deployed["id"], deployed["parameters"])

    again = widen("up")
    assert again.returncode == 0, again.stderr
    assert "nothing was changed" in again.stdout
    assert running(workspace) == before
    monkeypatch.setenv("WIDEN_WATCH_SECONDS", "7")
    other = widen("up")
    assert (other.returncode, running(workspace)) == (5, before)
    assert "run with other settings" in other.stderr
    monkeypatch.delenv("WIDEN_WATCH_SECONDS")

    os.kill(before["prefect"].pid, signal.SIGKILL)
    wait_for(lambda: running(workspace).get("prefect", before["prefect"]).pid != before["prefect"].pid)
    wait_for(lambda: takes("prefect", asked.prefect_address, known.pair))

    ended = widen("down")
    assert ended.returncode == 0, ended.stderr
    assert supervisor.marked(workspace) == set()
    assert running(workspace) == {}
    for name in ("prefect", "mlflow"):
        require_port(asked, name)
    assert "nothing runs" in widen("down").stdout
    logs = services_folder(workspace) / "logs"
    assert {path.stem for path in logs.glob("*.log")} == set(STARTED)
    assert not [path for path in logs.iterdir() if known.password in path.read_text()]


@pytest.mark.slow
def test_a_service_that_ends_at_once_is_told_and_what_a_crash_left_is_ended(
    widen: Widen, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace: Path = widen.workspace  # type: ignore[attr-defined]
    monkeypatch.setenv("WIDEN_SERVICES", "prefect")
    monkeypatch.setenv("WIDEN_DATABASE", f"postgresql://ada:{PASSWORD}@127.0.0.1:{free_ports(1)[0]}/")
    failed = widen("up")
    assert failed.returncode == 5
    assert "prefect ended as soon as it was started" in failed.stderr
    assert "see WIDEN_DATABASE" in failed.stderr
    assert PASSWORD not in failed.stdout + failed.stderr
    assert supervisor.marked(workspace) == set()
    monkeypatch.delenv("WIDEN_DATABASE")

    with socket.socket() as other:
        other.bind(("127.0.0.1", settings().prefect_port))
        other.listen()
        busy = widen("up")
    assert busy.returncode == 5
    assert "WIDEN_PREFECT_PORT" in busy.stderr

    assert widen("up").returncode == 0
    left = running(workspace)["prefect"].pid
    os.kill(int((services_folder(workspace) / "supervisord.pid").read_text()), signal.SIGKILL)
    assert left in supervisor.marked(workspace)
    assert "ended" in widen("down").stdout
    assert supervisor.marked(workspace) == set()


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL with its contrib modules, which Prefect needs and no Python package brings."""
    found = shutil.which("initdb") or next(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
    user = "postgres" if os.geteuid() == 0 else None
    if found is None or (user is not None and user not in {one.pw_name for one in pwd.getpwall()}):
        pytest.skip("no PostgreSQL is installed here, or nobody to run it as")
    folder = Path(tempfile.mkdtemp(prefix="widen-postgresql-"))  # outside of pytest's folders, which are only for us
    (port,) = free_ports(1)
    (folder / "password").write_text(PASSWORD)
    if user is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    data, tools = folder / "data", Path(found).resolve().parent
    setup = [tools / "initdb", "-D", data, "-U", "ada", "-A", "scram-sha-256", "--no-sync"]
    subprocess.run([*setup, "--pwfile", folder / "password"], user=user, check=True, capture_output=True)
    serve = [tools / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(serve, user=user, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(lambda: b"ready to accept connections" in (folder / "log").read_bytes())
        yield f"postgresql://ada:{PASSWORD}@127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGINT)  # does not wait for who is connected
        server.wait(30)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_both_servers_and_a_registration_on_postgresql(
    widen: Widen, postgresql: str, evidence: Callable[..., Evidence], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace: Path = widen.workspace  # type: ignore[attr-defined]
    monkeypatch.setenv("WIDEN_SERVICES", "prefect,mlflow")
    monkeypatch.setenv("WIDEN_DATABASE", postgresql)
    done = widen("up")
    assert done.returncode == 0, done.stdout + done.stderr
    known, asked = known_credentials(workspace), settings()
    assert known is not None
    require_logins(asked, known.pair)
    monkeypatch.delenv("WIDEN_DATABASE")  # a command in the workspace finds the registry all the same
    for name, value in served(workspace).items():
        monkeypatch.setenv(name, value)
    registry = registry_at(None, workspace)
    assert registry.uri == asked.mlflow_address
    proof = evidence()
    made = register(registry, "quickstart", proof)
    assert (made.version, register(registry, "quickstart", proof).reused) == (1, True)
    texts = [path.read_text() for path in (services_folder(workspace) / "logs").iterdir()]
    assert not [text for text in texts if PASSWORD in text or known.password in text]
    assert worker_name(workspace).isascii()
