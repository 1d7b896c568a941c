"""Which registry a command asks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.environment import served
from flows.settings import settings

if TYPE_CHECKING:
    from registry.store import Registry

_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


def registry_at(uri: str | None, workspace: Path) -> "Registry":
    """The registry at `uri`, which a recipe or an option named; else that of WIDEN_REGISTRY, else the workspace's own.

    Raises RegistryError for an address that MLflow cannot keep a registry at.
    """
    from registry.store import Registry

    chosen = Registry.at(uri or settings().registry_address, workspace)
    if uri is not None and chosen.database is None:
        _keep_to_ourselves(chosen.uri, workspace)
    return chosen


def _keep_to_ourselves(address: str, workspace: Path) -> None:
    """MLflow shows the login of the environment to any server: ours is not for one that a recipe named elsewhere."""
    from flows.services.running import running

    ours, mine = running(workspace).get("mlflow"), served(workspace)
    if address not in (settings().registry_address, ours and ours.address):
        for name in _LOGIN:
            if name in mine and os.environ.get(name) == mine[name]:
                del os.environ[name]
