"""How this machine runs Widen: every variable WIDEN_*, read from the environment and from files of secrets.

docs/operations.md holds the same table for people; a test keeps both equal.
"""

import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from widen.errors import RecipeError

PREFIX = "WIDEN_"
Service = Literal["prefect", "mlflow", "worker", "watch"]
SERVICES: tuple[Service, ...] = ("prefect", "mlflow", "worker", "watch")
"""The services, in the order in which they start."""
SHORTEST = 12
"""Characters of a password; MLflow takes none that is shorter."""

Port = Annotated[int, Field(ge=1, le=65535)]

_told: set[str] = set()


class Settings(BaseSettings):
    """Every setting and its default; what each is for, docs/operations.md says. No text about it shows a secret."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    prefect_port: Port = 4200
    mlflow_port: Port = 5000
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    services: Annotated[tuple[Service, ...], NoDecode] = SERVICES
    database: SecretStr | None = None
    artifacts: str | None = None
    registry: str | None = None
    user: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "widen"
    password: SecretStr | None = None
    secret_key: SecretStr | None = None
    webhook_url: SecretStr | None = None
    log_folder: Path | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runner: Literal["local", "ray", "dask"] = "local"
    runner_address: str | None = None
    unit: str | None = None
    slots: PositiveInt | None = None
    remote_cache: Annotated[str, Field(pattern=r"(?i)^\d+(\.\d+)?\s*[KMG]?B?$")] = "20GB"
    watch_seconds: PositiveFloat = 15
    quiet_seconds: NonNegativeFloat = 10
    retry_seconds: PositiveFloat = 60
    backstop_seconds: PositiveFloat = 300
    keep_champions: PositiveInt = 3
    keep_candidates: NonNegativeInt = 5
    keep_days: NonNegativeFloat = 30
    signing_key: SecretStr | None = None
    signing_key_password: SecretStr | None = None
    debug: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no file is read that nobody named
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the files that systemd's LoadCredential and containers give, named as the variables."""
        folders = [os.environ.get("CREDENTIALS_DIRECTORY", ""), "/run/secrets"]
        there = [Path(folder) for folder in folders if folder and Path(folder).is_dir()]
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=list(there))

    @field_validator("services", "allowed_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(filter(None, (one.strip() for one in value.split(",")))) if isinstance(value, str) else value

    @field_validator("services")
    @classmethod
    def _in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"expected some of {', '.join(SERVICES)}")
        return tuple(name for name in SERVICES if name in value)

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        if not value or any(letter in value for letter in "/@ "):
            raise ValueError("expected a host name or an IP address, without scheme and port")
        return value

    @field_validator("password", "secret_key")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SHORTEST:
            raise ValueError(f"expected {SHORTEST} characters or more")
        return value

    @field_validator("database")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in ("postgresql", "postgres"):
            raise ValueError("expected postgresql://USER:PASSWORD@HOST:PORT/")
        return value

    @field_validator("registry")
    @classmethod
    def _registry(cls, value: str | None) -> str | None:
        return None if value is None else _without_credentials(value, ("http", "https", "sqlite")).rstrip("/")

    @field_validator("artifacts")
    @classmethod
    def _artifacts(cls, value: str | None) -> str | None:
        return value if value is None or "://" not in value else _without_credentials(value, ("s3", "file"))

    @property
    def prefect_address(self) -> str:
        """Where Prefect's server answers, as seen from this machine."""
        return f"http://{_reachable(self.host)}:{self.prefect_port}"

    @property
    def mlflow_address(self) -> str:
        """Where MLflow's server answers, as seen from this machine."""
        return f"http://{_reachable(self.host)}:{self.mlflow_port}"

    @property
    def registry_address(self) -> str | None:
        """The registry of recipes that name none; None is the workspace's own database, in direct use.

        A registry on PostgreSQL, or with its files elsewhere, is reached through the MLflow server that knows where.
        """
        through_server = self.database is not None or self.artifacts is not None
        return self.registry or (self.mlflow_address if through_server else None)


def settings() -> Settings:
    """What the environment says now; a variable WIDEN_* that is none of ours is told once, with the nearest that is.

    Raises RecipeError naming each variable that has no good value; the value of a secret is not shown.
    """
    _tell_unknown()
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(map(_fault, error.errors(include_url=False, include_input=False)))
        raise RecipeError(f"{faults}; docs/operations.md lists every setting") from None


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def secret(value: SecretStr | None) -> str | None:
    """A secret's text, for the one call that needs it."""
    return None if value is None else value.get_secret_value()


def _fault(error: Any) -> str:
    name, told = variable(str(error["loc"][0])), str(error["msg"]).removeprefix("Value error, ")
    found, kind = os.environ.get(name, ""), str(Settings.model_fields[str(error["loc"][0])].annotation)
    shown = "" if "Secret" in kind or "@" in found or not found else f", found {found!r}"
    return f"{name}: {told[:1].lower()}{told[1:]}{shown}"


def _tell_unknown() -> None:
    known = [variable(field) for field in Settings.model_fields]
    for name in sorted(set(os.environ) - set(known) - _told):
        if name.startswith(PREFIX):
            _told.add(name)
            near = get_close_matches(name, known, 1, 0.0)[0]
            print(f"widen: {name} is not a setting and does nothing; the nearest is {near}", file=sys.stderr)


def _without_credentials(address: str, schemes: tuple[str, ...]) -> str:
    parts = urlsplit(address)
    if parts.scheme not in schemes:
        raise ValueError(f"expected an address that begins with {' or '.join(f'{one}://' for one in schemes)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected an address without a user and a password, which stand in variables of their own")
    return address


def _reachable(host: str) -> str:
    """The address under which a server that listens at `host` is found on its own machine."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - recognised, not listened at
    return f"[{here}]" if ":" in here else here
