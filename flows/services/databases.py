"""The databases behind both servers: files of the workspace, or PostgreSQL by one address."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import Settings, secret
from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

PREFECT, MLFLOW, USERS = "widen_prefect", "widen_mlflow", "widen_mlflow_users"
"""The databases on PostgreSQL: the flow runs, the registry, and who may ask it."""

USERS_FILE = "users.db"
"""The last of them without PostgreSQL, beside the services' other files."""

_EXTENSION = "pg_trgm"
_DATABASES = "SELECT datname FROM pg_database"
_SECONDS = 10  # to wait for a connection


@dataclass(frozen=True)
class Databases:
    """Addresses as each server takes them; secret, because they may hold a password. None: the server's own choice."""

    prefect: str | None = field(repr=False)
    mlflow: str = field(repr=False)
    users: str = field(repr=False)


def databases(asked: Settings, workspace: Path) -> Databases:
    """Where the servers of `workspace` keep their data."""
    address = secret(asked.database)
    if address is None:
        registry, services = workspace / ".widen" / "registry", workspace / ".widen" / "services"
        return Databases(None, _sqlite(registry / "mlflow.db"), _sqlite(services / USERS_FILE))
    url = _url(address)
    prefect, mlflow, users = (url.set(database=name) for name in (PREFECT, MLFLOW, USERS))
    return Databases(_for_asyncpg(prefect), _text(mlflow), _text(users))


def require_databases(asked: Settings, *names: str) -> None:
    """See that PostgreSQL has the databases `names`, making those that are missing; nothing to do for files.

    Raises EnvironmentFault, without the password, where the server does not answer, does not allow it, or lacks the
    extension that Prefect needs.
    """
    address = secret(asked.database)
    if address is None:
        return
    import sqlalchemy as sql

    url = _url(address)
    shown = url.render_as_string(hide_password=True)
    engine = sql.create_engine(
        url.set(database=url.database or "postgres"),
        isolation_level="AUTOCOMMIT",
        poolclass=sql.pool.NullPool,
        connect_args={"connect_timeout": _SECONDS},
    )
    try:
        with engine.connect() as connection:
            if PREFECT in names and _EXTENSION not in _column(connection, "SELECT name FROM pg_available_extensions"):
                raise EnvironmentFault(
                    f"PostgreSQL {shown}: expected the extension {_EXTENSION}, which Prefect needs, found none; "
                    "install PostgreSQL's contrib package there"
                )
            for name in sorted(set(names) - _column(connection, _DATABASES)):
                _create(connection, name)
    except sql.exc.SQLAlchemyError as error:
        told = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise EnvironmentFault(
            f"PostgreSQL {shown}: {told}; see WIDEN_DATABASE, or have said there: "
            + " ".join(f"CREATE DATABASE {name};" for name in names)
        ) from None


def _create(connection: "Connection", name: str) -> None:
    import sqlalchemy as sql

    try:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    except (sql.exc.ProgrammingError, sql.exc.IntegrityError):  # the other server's start may have made it in between
        if name not in _column(connection, _DATABASES):
            raise


def _column(connection: "Connection", query: str) -> set[str]:
    from sqlalchemy import text

    return set(connection.execute(text(query)).scalars())


def _url(address: str) -> "URL":
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address).set(drivername="postgresql")
    except (ArgumentError, ValueError):
        raise EnvironmentFault("WIDEN_DATABASE: expected postgresql://USER:PASSWORD@HOST:PORT/ (not shown)") from None


def _for_asyncpg(url: "URL") -> str:
    """Prefect's driver calls the same option by another name."""
    mode = url.query.get("sslmode")
    if mode is not None:
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": mode})
    return _text(url.set(drivername="postgresql+asyncpg"))


def _text(url: "URL") -> str:
    return url.render_as_string(hide_password=False)


def _sqlite(path: Path) -> str:
    return f"sqlite:///{path}"
