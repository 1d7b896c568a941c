"""The settings: one class and one documented table; wrong values, unknown names and secrets."""

import re
from pathlib import Path

import pytest

from flows import settings as module
from flows.settings import Settings, settings, variable
from widen.errors import RecipeError

ROOT = Path(__file__).parents[2]
SECRET = "geheim-und-lang-genug"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine, and nothing told before."""
    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(module, "_told", set())


def shown(default: object) -> str:
    """A default as the table writes it."""
    if default in (None, (), False):
        return "unset"
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_the_documented_table_is_the_class() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| `(WIDEN_\w+)` \| (.*?) \|", text, re.MULTILINE))
    assert rows == {variable(name): shown(field.default) for name, field in Settings.model_fields.items()}


def test_nothing_set_is_the_defaults() -> None:
    assert settings() == Settings.model_construct()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WIDEN_PREFECT_PORT", "70000", "65535, found '70000'"),
        ("WIDEN_MLFLOW_PORT", "http", "integer"),
        ("WIDEN_HOST", "http://machine", "without scheme"),
        ("WIDEN_WATCH_SECONDS", "0", "greater than 0"),
        ("WIDEN_QUIET_SECONDS", "-1", "greater than or equal to 0"),
        ("WIDEN_DEVICE", "tpu", "'auto', 'cpu' or 'cuda'"),
        ("WIDEN_SERVICES", "worker,web", "'worker' or 'watch'"),
        ("WIDEN_SERVICES", ",", "expected some of"),
        ("WIDEN_REGISTRY", "ftp://machine", "http:// or https:// or sqlite://"),
        ("WIDEN_ARTIFACTS", "gopher://x", "s3://"),
        ("WIDEN_DATABASE", f"mysql://u:{SECRET}@h/", "postgresql://"),
        ("WIDEN_REGISTRY", f"http://u:{SECRET}@h/", "without a user"),
        ("WIDEN_ARTIFACTS", f"s3://u:{SECRET}@h/", "without a user"),
        ("WIDEN_PASSWORD", SECRET[:6], "12 characters"),
    ],
)
def test_a_wrong_value_is_told_by_name_and_no_secret_is(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError) as refused:
        settings()
    assert str(refused.value).startswith(f"{name}: ")
    assert told in str(refused.value)
    assert SECRET[:6] not in str(refused.value)


def test_secrets_are_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDEN_DATABASE", f"postgresql://u:{SECRET}@h/")
    for name in ("PASSWORD", "SECRET_KEY", "SIGNING_KEY", "SIGNING_KEY_PASSWORD"):
        monkeypatch.setenv(f"WIDEN_{name}", SECRET)
    found = settings()
    assert SECRET not in repr(found) + str(found) + found.model_dump_json()
    assert found.password is not None
    assert found.password.get_secret_value() == SECRET


def test_an_unknown_name_is_told_once_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WIDEN_PREFECT_PROT", SECRET)
    settings()
    settings()
    told = capsys.readouterr().err
    assert told.count("WIDEN_PREFECT_PROT") == 1
    assert "the nearest is WIDEN_PREFECT_PORT" in told
    assert SECRET not in told


def test_secrets_come_as_files_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "widen_password").write_text(f"{SECRET}\n")
    (tmp_path / "widen_user").write_text("ada")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("WIDEN_USER", "bob")
    found = settings()
    assert (found.user, found.password and found.password.get_secret_value()) == ("bob", SECRET)


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:4200"), ("0.0.0.0", "http://127.0.0.1:4200"), ("::", "http://[::1]:4200")],
)
def test_an_address_that_this_machine_can_ask(host: str, address: str) -> None:
    assert Settings(host=host).prefect_address == address


def test_the_registry_is_the_servers_where_only_it_knows_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().registry_address is None
    monkeypatch.setenv("WIDEN_ARTIFACTS", "s3://bucket/folder")
    assert settings().registry_address == "http://127.0.0.1:5000"
    monkeypatch.setenv("WIDEN_DATABASE", "postgresql://u:p@h/")
    monkeypatch.setenv("WIDEN_ARTIFACTS", "")
    assert settings().registry_address == "http://127.0.0.1:5000"
    monkeypatch.setenv("WIDEN_REGISTRY", "https://registry.example.org/")
    assert settings().registry_address == "https://registry.example.org"
