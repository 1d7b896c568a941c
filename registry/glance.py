"""The champion at a glance: from the registry's own database or its REST interface, without the seconds of MLflow's
import. Reads only, and believes what it finds: `registry.history` is what checks.
"""

import base64
import json
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from registry.entry import Entry
from registry.errors import RegistryError, RegistryUnreachable
from registry.history import HEAD
from registry.store import Registry
from registry.versions import CHAMPION, HISTORY

_SECONDS = 3.0
_API = "/api/2.0/mlflow/"
_ALIAS = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
_HEAD = "SELECT value FROM registered_model_tags WHERE name = ? AND key = ?"
_ENTRY = (
    "SELECT text.version, text.value FROM model_version_tags AS text JOIN model_version_tags AS digest "
    "ON text.name = digest.name AND text.version = digest.version "
    "WHERE text.name = ? AND text.key = 'entry' AND digest.key = 'digest' AND digest.value = ?"
)


@dataclass(frozen=True)
class Glance:
    """The champion's version, and the entry of the history that made it so; None where another means did."""

    version: int
    entry: Entry | None


def champion(registry: Registry, name: str) -> Glance | None:
    """The champion of the model `name`; None where there is none, no such model or no registry yet.

    Raises RegistryUnreachable where no server answers within three seconds, RegistryError where one refuses or the
    database is none of MLflow's.
    """
    return _asked(registry.uri, name) if registry.database is None else _read(registry.database, name)


def _entry(number: int, text: str, version: int) -> Entry | None:
    entry = Entry.from_json(number, text)
    return entry if entry.to_version == version else None


def _read(database: Path, name: str) -> Glance | None:
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=_SECONDS)) as held:
            alias = held.execute(_ALIAS, (name, CHAMPION)).fetchone()
            if alias is None:
                return None
            version = int(alias[0])
            head = held.execute(_HEAD, (name, HEAD)).fetchone()
            found = head and held.execute(_ENTRY, (name + HISTORY, head[0])).fetchone()
    except sqlite3.Error as error:
        raise RegistryError(f"registry {database}: {error}") from error
    return Glance(version, _entry(int(found[0]), found[1], version) if found else None)


def _asked(uri: str, name: str) -> Glance | None:
    ask: Callable[..., Any] = partial(_get, uri)
    model = ask("registered-models/get", name=name)
    held = {} if model is None else model["registered_model"]
    aliases, tags = {one["alias"]: one for one in held.get("aliases", ())}, _tags(held)
    if CHAMPION not in aliases:
        return None
    version = int(aliases[CHAMPION]["version"])
    if HEAD not in tags:
        return Glance(version, None)
    where = f"name = '{name}{HISTORY}' AND tags.digest = '{tags[HEAD]}'"
    found = ask("model-versions/search", filter=where, max_results=1).get("model_versions", ())
    return Glance(version, _entry(int(found[0]["version"]), _tags(found[0])["entry"], version) if found else None)


def _tags(held: Any) -> dict[str, str]:
    return {one["key"]: one.get("value", "") for one in held.get("tags", ())}


def _get(uri: str, what: str, **asked: Any) -> Any:
    """The answer of MLflow's REST interface, None for what does not exist; with the login that MLflow itself takes."""
    request = urllib.request.Request(f"{uri}{_API}{what}?{urlencode(asked)}", headers=_login())  # noqa: S310 - http only
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
        raise RegistryError(f"registry {uri}: it answers {error.code} ({error.reason})") from None
    except (OSError, ValueError) as error:
        raise RegistryUnreachable(f"registry {uri}: no answer ({getattr(error, 'reason', error)})") from None


def _login() -> dict[str, str]:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user is None or password is None:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
