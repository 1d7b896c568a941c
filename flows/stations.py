"""The stations of the road, each one call with its inputs taken from the recipe and its record written for the next."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.road import MERGED, Road, orchestrated, side_by_side
from widen.errors import RecipeError
from widen.staging import write_atomically

if TYPE_CHECKING:
    from registry.promotion import Promotion
    from registry.registration import Registered
    from tasks.fetch import Fetched


def fetch(road: Road) -> tuple["Fetched", ...]:
    """Bring every source into the workspace."""
    from tasks import fetch as door

    work = door.fetch_task if road.call is orchestrated else door.fetch
    fetched = tuple(road.call(work, source, road.workspace) for source in road.sources)
    records = [asdict(one) | {"folder": _relative(one.folder, road.workspace)} for one in fetched]
    _write(road.run_folder / "sources.json", records)
    return fetched


def measure(road: Road, sources: tuple["Fetched", ...]) -> Path:
    """Pass 1: what every model changed."""
    from tasks.measure import measure as work

    out = road.run_folder / "measurements.json"
    path: Path = road.call(work, sources, road.allow_config, road.device, road.cache, out)
    return path


def validate(road: Road, measurements: Path) -> Path:
    """Refuse what cannot be merged, by the recipe's bands; returns the result's file."""
    from tasks.validate import validate as work
    from widen.checks import Problem
    from widen.summary import ModelSummary

    bounds = road.recipe.require("validate")
    held = _read(measurements)
    models = tuple(ModelSummary.from_json(model) for model in held["models"])
    problems = tuple(Problem(**problem) for problem in held["problems"])
    path: Path = road.call(work, models, problems, bounds.relative_change, bounds.direction_change_max, road.run_folder)
    return path


def merge(road: Road, sources: tuple["Fetched", ...]) -> Path:
    """Pass 2: the merged checkpoint's folder."""
    from tasks.merge import merge as work

    path: Path = road.call(
        work, sources, road.settings, road.merged_recipe, road.allow_config, road.device, road.cache, road.merged_folder
    )
    return path


def evaluate(road: Road, sources: tuple["Fetched", ...], measurements: Path, merged: Path) -> dict[str, Path]:
    """Score the base, every parent and the merge on the same documents; returns the scorecards' files."""
    from tasks.evaluate import evaluate as work
    from widen import Manifest

    digests = {one["name"]: one["digest"] for one in _read(measurements)["inputs"]}
    candidates = [(source.name, source.folder, digests[source.name]) for source in sources]
    candidates.append((MERGED, merged, Manifest.load(merged).digest))
    folder, kept, settings = road.run_folder / "scorecards", road.cache / "scorecards", road.evaluation
    arguments = [(name, model, digest, settings, kept, folder / f"{name}.json") for name, model, digest in candidates]
    paths = side_by_side(work, road.call, arguments, road.recipe.require("evaluate").parallel)
    return {name: path for (name, *_), path in zip(candidates, paths, strict=True)}


def gate(road: Road, scorecards: Mapping[str, Path]) -> Path:
    """Answer every clause; returns the decision's file."""
    from tasks.gate import gate as work

    recipe, out = road.recipe, road.run_folder / "gate.json"
    alpha = recipe.require("gates").alpha
    path: Path = road.call(work, road.clauses, dict(scorecards), recipe.base, recipe.parents, MERGED, alpha, out)
    return path


def register(
    road: Road,
    sources: tuple["Fetched", ...],
    validation: Path,
    merged: Path,
    scorecards: Mapping[str, Path],
    decision: Path,
) -> "Registered":
    """A version in the registry, whatever the verdict, with the alias `candidate`."""
    from registry.lineage import SourceRecord
    from tasks.register import register as work

    records = tuple(SourceRecord(s.name, s.path, s.repo, s.rev, s.commit, s.content) for s in sources)
    registered: Registered = road.call(
        work, road.registry, road.recipe.require("registry").name, merged, decision, dict(scorecards), records,
        road.recipe.path, MERGED, validation, validation.with_suffix(""), _flow_run(),
    )  # fmt: skip
    _write(road.run_folder / "registered.json", asdict(registered))
    return registered


def promote(road: Road, registered: "Registered", decision: Path) -> "Promotion":
    """Move the alias `champion` if the gate passed. Raises PromotionRefused when it did not."""
    from tasks.promote import promote as work

    promotion: Promotion = road.call(work, road.registry, registered.name, registered.version, decision)
    return promotion


def run_station(name: str, road: Road) -> None:
    """Run one station on what the stations before it recorded. Raises RecipeError when one of them did not run yet."""
    runs = road.run_folder
    measurements, scorecards = runs / "measurements.json", runs / "scorecards"
    match name:
        case "fetch":
            fetch(road)
        case "measure":
            measure(road, _recorded_sources(road))
        case "validate":
            validate(road, _made_by("measure", measurements))
        case "merge":
            _made_by("validate", runs / "validation.json")
            merge(road, _recorded_sources(road))
        case "evaluate":
            merged = _made_by("merge", road.merged_folder)
            evaluate(road, _recorded_sources(road), _made_by("measure", measurements), merged)
        case "gate":
            names = (MERGED, *road.recipe.inputs)
            gate(road, {one: _made_by("evaluate", scorecards / f"{one}.json") for one in names})
        case _:
            known = "fetch, measure, validate, merge, evaluate or gate"
            raise RecipeError(f"station {name!r} is unknown; expected {known}")


def _recorded_sources(road: Road) -> tuple["Fetched", ...]:
    from tasks.fetch import Fetched

    records = _read(_made_by("fetch", road.run_folder / "sources.json"))
    return tuple(Fetched(**record | {"folder": road.workspace / record["folder"]}) for record in records)


def _made_by(station: str, path: Path) -> Path:
    if not path.exists():
        raise RecipeError(f"{path} is not there yet; run `widen station {station} RECIPE` first")
    return path


def _relative(folder: Path, workspace: Path) -> str:
    return str(folder.relative_to(workspace)) if folder.is_relative_to(workspace) else str(folder)


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _write(path: Path, content: object) -> None:
    write_atomically(path, (json.dumps(content, indent=1, default=str) + "\n").encode())


def _flow_run() -> str | None:
    from prefect.runtime import flow_run

    identity = flow_run.get_id()
    return None if identity is None else str(identity)
