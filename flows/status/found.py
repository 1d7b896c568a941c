"""What `widen status` reads: ledgers, run folders, the champion, and which services answer. Writes nothing."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.follow.followed import can_run
from flows.recipe import Recipe, load_recipe
from flows.registries import registry_at
from flows.services.health import health_address, status
from flows.services.running import running
from flows.settings import SERVICES, settings
from flows.status.values import Found, LastRun
from registry.errors import RegistryError
from registry.glance import Glance, champion
from tasks.ledger import read_ledger, read_ledgers
from tasks.sources import Source
from tasks.updates import Ledger
from tasks.upstream import Pin
from widen.errors import EnvironmentFault, RecipeError


@dataclass(frozen=True)
class Service:
    """One service of the workspace. `state`: well, silent (it should answer and does not) or stopped."""

    name: str
    state: str
    words: str


def recipes(workspace: Path, asked: Sequence[str]) -> list[Found]:
    """What is known of the recipes `asked`, by file or name; of all that can run or have a ledger, by default.

    Raises RecipeError for one that is not there.
    """
    files = sorted((workspace / "recipes").glob("*.yaml"))
    found: dict[str, Found] = {}
    for one in (_of_file(file, workspace, False) for file in files):
        if one is not None and one.name in found:  # as the watch has it: the first of a name is followed
            taken = f"the name `{one.name}` belongs to {found[one.name].path}; choose another"
            found[one.path] = Found(one.path, one.path, Ledger(one.path), fault=taken)
        elif one is not None:
            found[one.name] = one
    for ledger in _ledgers(workspace):
        gone = f"{ledger.path} is not there any more, or not complete"
        found.setdefault(ledger.name, Found(ledger.name, ledger.path, ledger, fault=gone))
    if not asked:
        return [found[name] for name in sorted(found)]
    return [_named(one, found, workspace) for one in asked]


def _named(asked: str, found: dict[str, Found], workspace: Path) -> Found:
    if asked in found:
        return found[asked]
    for place in (Path(asked), workspace / asked):
        if place.is_file() and (one := _of_file(place, workspace, True)) is not None:
            return one
    known = ", ".join(sorted(found)) or "none"
    raise RecipeError(f"recipe {asked}: neither a file nor one of {known}; see {workspace / 'recipes'}")


def _ledgers(workspace: Path) -> tuple[Ledger, ...]:
    try:
        return read_ledgers(workspace)
    except EnvironmentFault:  # one is damaged: told where its recipe is
        return ()


def _of_file(file: Path, workspace: Path, named: bool) -> Found | None:
    """A recipe's file; None where it cannot run and was not named."""
    file = file.resolve()
    path = str(file.relative_to(workspace)) if file.is_relative_to(workspace) else str(file)
    try:
        recipe = load_recipe(file)
    except RecipeError as error:
        own = next((one for one in _ledgers(workspace) if one.path == path), Ledger(file.stem))
        return Found(own.name, path, own, fault=str(error))
    if not named and not can_run(recipe):
        return None
    ledger, fault = _ledger(workspace, recipe.name)
    model, address = _model(recipe)
    return Found(
        recipe.name, path, ledger, _sources(recipe), fault, model, _last_run(workspace, recipe.name),
        _champion(address, model, workspace), _options(address, workspace), recipe.follow,
    )  # fmt: skip


def _ledger(workspace: Path, name: str) -> tuple[Ledger, str]:
    try:
        return read_ledger(workspace, name), ""
    except EnvironmentFault as fault:
        return Ledger(name), str(fault)


def _sources(recipe: Recipe) -> tuple[Source, ...]:
    return tuple(Source(name, spec.path, spec.repo, spec.rev) for name, spec in recipe.inputs.items())


def _model(recipe: Recipe) -> tuple[str | None, str | None]:
    """The registered model's name, and the registry that the recipe names."""
    return (None, None) if recipe.registry is None else (recipe.registry.name, recipe.registry.uri)


def _options(address: str | None, workspace: Path) -> str:
    named = address or settings().registry_address
    return f"--workspace {workspace}" + ("" if named is None else f" --registry {named}")


def _champion(address: str | None, model: str | None, workspace: Path) -> Glance | str | None:
    if model is None:
        return None
    try:
        return champion(registry_at(address, workspace), model)
    except RegistryError as error:
        return str(error)


def _last_run(workspace: Path, name: str) -> LastRun | None:
    folder = workspace / "runs" / name
    sources, registered = _json(folder / "sources.json"), _json(folder / "registered.json")
    if sources is None and registered is None:
        return None
    pins = {one["name"]: _pin(one) for one in sources or ()}
    files = [folder / one for one in ("sources.json", "gate.json", "registered.json")]
    at = max((file.stat().st_mtime for file in files if file.is_file()), default=None)
    if registered is None:
        return LastRun(pins, at)
    gate, report = _json(folder / "gate.json"), folder / "report.html"
    verdict = gate.get("verdict") if isinstance(gate, dict) else None
    page = str(report) if report.is_file() else None
    return LastRun(pins, at, registered["name"], int(registered["version"]), verdict, page)


def _pin(record: dict[str, Any]) -> Pin:
    return Pin(record.get("rev"), record.get("commit"), record.get("upstream") or "")


def _json(file: Path) -> Any:
    """A run's record; None where there is none, or a run is writing one of another kind."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def services(workspace: Path) -> list[Service]:
    """Which of the services answer, all asked at the same time; none of them is waited for longer than five seconds."""
    asked, here, named = settings(), running(workspace), _named_elsewhere()
    usual = {"prefect": asked.prefect_address, "mlflow": asked.mlflow_address}

    def told(name: str) -> Service:
        held = here.get(name)
        if held is not None and held.address is None:
            return Service(name, "well", f"runs, process {held.pid}")
        address = named.get(name, usual.get(name)) if held is None else held.address
        if address is None:
            return Service(name, "stopped", "not running")
        if status(health_address(name, address)) is not None:
            return Service(name, "well", f"answers at {address}")
        if held is not None:
            return Service(name, "silent", f"process {held.pid} does not answer at {address}")
        return Service(name, "silent" if name in named else "stopped", f"nobody answers at {address}")

    with ThreadPoolExecutor(len(SERVICES)) as pool:
        return list(pool.map(told, SERVICES))


def _named_elsewhere() -> dict[str, str]:
    """The servers that the environment names explicitly."""
    prefect, registry = os.environ.get("PREFECT_API_URL"), settings().registry
    named = {} if prefect is None else {"prefect": prefect.removesuffix("/").removesuffix("/api")}
    return named | ({"mlflow": registry} if registry is not None and registry.startswith("http") else {})


def silent(found: Sequence[Service]) -> Iterator[str]:
    """What a monitor should hear of."""
    for one in found:
        if one.state == "silent":
            yield f"{one.name}: {one.words}"
