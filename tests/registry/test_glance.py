"""The champion at a glance: what MLflow and the history say, without either."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from registry.errors import RegistryError, RegistryUnreachable
from registry.glance import champion
from registry.history import read_history
from registry.promotion import promote, rollback
from registry.registration import register
from registry.store import Registry, asking
from tests.registry.conftest import Make

ROOT = Path(__file__).parents[2]


def test_it_is_what_the_history_says(local: Registry, three: object) -> None:
    found = champion(local, "m")
    last = read_history(local, "m").champion
    assert found is not None
    assert last is not None
    assert (found.version, found.entry) == (3, last)
    rollback(local, "m", 1, by="Ada", reason="complaints")
    found = champion(local, "m")
    assert found is not None
    assert found.entry is not None
    assert (found.version, found.entry.kind, found.entry.by) == (1, "rollback", "Ada")


def test_an_alias_moved_by_other_means_has_no_entry(local: Registry, three: object) -> None:
    rollback(local, "m", 1, by="Ada", reason="complaints")
    with asking(local) as client:
        client.set_registered_model_alias("m", "champion", "2")
    found = champion(local, "m")
    assert found is not None
    assert (found.version, found.entry) == (2, None)


def test_no_registry_no_model_and_no_champion_are_none(local: Registry, tmp_path: Path, evidence: Make) -> None:
    assert champion(Registry.at(None, tmp_path / "elsewhere"), "m") is None
    assert not (tmp_path / "elsewhere").exists()
    assert champion(local, "m") is None
    register(local, "m", evidence())
    assert champion(local, "m") is None


def test_a_server_is_asked_by_its_interface(server: Registry, evidence: Make) -> None:
    name = "seen at a glance"
    assert champion(server, name) is None
    made = evidence()
    register(server, name, made)
    assert champion(server, name) is None
    promote(server, name, 1, made.decision, by="Ada <ada@example.org>", reason="the gate passed")
    found, last = champion(server, name), read_history(server, name).champion
    assert found is not None
    assert last is not None
    assert (found.version, found.entry) == (1, last)


def test_nobody_at_the_address_is_unreachable_and_another_file_an_error(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(RegistryUnreachable, match=address):
        champion(Registry(address), "m")
    database = tmp_path / "mlflow.db"
    database.write_text("no database")
    with pytest.raises(RegistryError, match="not a database"):
        champion(Registry(f"sqlite:///{database}"), "m")


def test_mlflow_is_not_loaded(local: Registry, three: object) -> None:
    code = (
        "import json, sys; from registry.glance import champion; from registry.store import Registry;"
        "found = champion(Registry(sys.argv[1]), 'm'); print(json.dumps([found.version, 'mlflow' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, local.uri], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [3, False]
