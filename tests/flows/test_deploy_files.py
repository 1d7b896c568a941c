"""What deploy/ ships: every unit, container and health check names a command and an address that exist."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli import app
from flows.services.health import health_address
from flows.settings import SERVICES, Settings, variable

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
COMMANDS = {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
INSTALLED = "/opt/widen/.venv/bin/widen"


def unit(path: Path) -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser(strict=True)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(path.read_text())
    return parsed


def test_there_is_a_unit_for_each_service_and_each_runs_it() -> None:
    services = {path.stem.removeprefix("widen-"): unit(path) for path in UNITS if path.suffix == ".service"}
    assert set(services) == set(SERVICES)
    assert "service" in COMMANDS
    for name, parsed in services.items():
        assert parsed["Service"]["ExecStart"] == f"{INSTALLED} service {name}"
        assert parsed["Service"]["Restart"] == "on-failure"
        assert parsed["Service"]["NoNewPrivileges"] == "yes"
        assert parsed["Service"]["ProtectSystem"] == "strict"
        assert parsed["Service"]["WorkingDirectory"].startswith(parsed["Service"]["ReadWritePaths"])
        assert "EnvironmentFile" in parsed["Service"]
    wanted = unit(DEPLOY / "systemd" / "widen.target")["Unit"]["Wants"].split()
    assert set(wanted) == {path.name for path in UNITS if path.suffix == ".service"}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for path in UNITS:
        # It asks that the command is there, which on this machine is Python.
        (tmp_path / path.name).write_text(path.read_text().replace(INSTALLED, sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    told = [line for line in done.stderr.splitlines() if "widen" in line]
    assert (done.returncode, told) == (0, []), done.stderr


def compose() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return found


def test_compose_takes_the_file() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(DEPLOY / "compose.yaml")], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_container_runs_a_command_that_exists() -> None:
    services = compose()
    ours = {name: one for name, one in services.items() if one["image"] == "widen"}
    assert {name: one["command"] for name, one in ours.items() if name in SERVICES} == {
        name: ["service", name] for name in SERVICES
    }
    assert {one["command"][0] for one in ours.values()} <= COMMANDS  # type: ignore[index]
    for one in services.values():
        assert set(one.get("depends_on", {})) <= set(services)  # type: ignore[call-overload]
    assert 'ENTRYPOINT ["widen"]' in (DEPLOY / "Dockerfile").read_text()


def test_each_health_check_asks_an_address_that_answers_everybody() -> None:
    plain, services = Settings.model_construct(), compose()
    for name, address in (("prefect", plain.prefect_address), ("mlflow", plain.mlflow_address)):
        test = services[name]["healthcheck"]["test"]  # type: ignore[index]
        assert re.findall(r"urlopen\('(.*?)'\)", test[-1]) == [health_address(name, address)]
        assert services[name]["ports"] == [f"127.0.0.1:{address.rpartition(':')[2]}:{address.rpartition(':')[2]}"]
    worker = services["worker"]["environment"]
    assert worker == {"PREFECT_API_URL": f"http://prefect:{plain.prefect_port}/api"}


def test_the_image_is_built_from_files_that_are_there_and_all_of_the_code() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)", text, re.MULTILINE) for word in line.split()[:-1]]
    assert [path for path in copied if not (ROOT / path).exists()] == []
    packed = yaml.safe_load(
        "[" + re.findall(r"^packages = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0] + "]"
    )
    assert set(packed) <= set(copied)


def test_no_file_holds_a_secret_or_a_setting_that_is_none() -> None:
    known = {variable(name) for name in Settings.model_fields}
    for path in (*UNITS, DEPLOY / "compose.yaml", DEPLOY / "Dockerfile", DEPLOY / "widen.env.example"):
        text = path.read_text()
        assert set(re.findall(r"\bWIDEN_[A-Z_]+", text)) <= known, path
        held = re.findall(r"(?:PASSWORD|SECRET_KEY|SIGNING_KEY)[=:] *(\S+)", text)
        assert all(value.startswith(("...", "${", "#")) for value in held), (path, held)
