"""The user, password and key of a workspace's servers: from the settings, or made once and kept where only we read."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from flows.services.running import services_folder
from flows.settings import SHORTEST, Settings, secret, settings, variable
from widen.errors import EnvironmentFault

FILE = "credentials"
_COMMENT = "# Made by widen for the servers of this workspace. docs/operations.md says how to renew it.\n"


@dataclass(frozen=True)
class Credentials:
    """Who may ask the servers. `password` and `key` are secret and stand in no text about it."""

    user: str
    password: str = field(repr=False)
    key: str = field(repr=False)

    @property
    def pair(self) -> str:
        """USER:PASSWORD, as Prefect takes it and its page asks for it."""
        return f"{self.user}:{self.password}"


def credentials_file(workspace: Path) -> Path:
    """Where a workspace keeps what was made."""
    return services_folder(workspace) / FILE


def credentials(workspace: Path) -> Credentials:
    """The workspace's credentials; what neither the settings nor its file hold is made and kept there."""
    from filelock import FileLock

    asked, path = settings(), credentials_file(workspace)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # several services may start at once
        kept = _read(path)
        made = {name: value for name, value in _missing(asked).items() if name not in kept}
        if made:
            kept |= made
            text = _COMMENT + "".join(f"{name}={value}\n" for name, value in sorted(kept.items()))
            write_privately(path, text.encode())
    return _chosen(asked, kept)


def known_credentials(workspace: Path) -> Credentials | None:
    """The same where they are complete already; nothing is made."""
    asked, kept = settings(), _read(credentials_file(workspace))
    return _chosen(asked, kept) if _missing(asked).keys() <= kept.keys() else None


def write_privately(path: Path, data: bytes) -> None:
    """Write a small file that nobody else can read at any moment, in one step."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _missing(asked: Settings) -> dict[str, str]:
    wanted = {"password": asked.password, "secret_key": asked.secret_key}
    return {variable(name): secrets.token_urlsafe(24) for name, value in wanted.items() if value is None}


def _chosen(asked: Settings, kept: dict[str, str]) -> Credentials:
    password = secret(asked.password) or kept[variable("password")]
    return Credentials(asked.user, password, secret(asked.secret_key) or kept[variable("secret_key")])


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: cannot be read ({error.strerror}); it belongs to who runs the services"
        ) from None
    kept = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    short = [name for name, value in kept.items() if len(value) < SHORTEST]
    if short:
        raise EnvironmentFault(
            f"{path}: {short[0]} has fewer than {SHORTEST} characters; lengthen it, or remove the file"
        )
    return kept
