"""The stations of the road, each one call with its inputs taken from the recipe and its record written for the next."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.gpu_slot import in_gpu_slot
from flows.road import CHAMPION, MERGED, REPORT, Road, orchestrated, timed
from flows.scoring import with_scorers
from widen.adapter import JOIN
from widen.errors import RecipeError
from widen.staging import write_atomically

COMPOSED = "composed"
"""Where models with adapters on them lie whole, while they are scored."""

if TYPE_CHECKING:
    from registry.lineage import SourceRecord
    from registry.promotion import Promotion
    from registry.reference import Incumbent
    from registry.registration import Registered
    from tasks.fetch import Fetched
    from tasks.scoring import Unit


@timed
def fetch(road: Road) -> tuple["Fetched", ...]:
    """Bring every source into the workspace, and commit its pin there unless it was chosen before."""
    from tasks import fetch as door

    work = door.fetch_task if road.call is orchestrated else door.fetch
    record = not road.pins
    fetched = tuple(road.call(work, source, road.workspace, record=record) for source in road.sources)
    records = [asdict(one) | {"folder": _relative(one.folder, road.workspace)} for one in fetched]
    _write(road.run_folder / "sources.json", records)
    return fetched


@in_gpu_slot
@timed
def measure(road: Road, sources: tuple["Fetched", ...]) -> Path:
    """Pass 1: what every model changed."""
    from tasks.measure import measure as work

    out = road.run_folder / "measurements.json"
    path: Path = road.call(work, sources, road.settings, road.allow_config, road.device, road.cache, out)
    return path


@timed
def validate(road: Road, measurements: Path) -> Path:
    """Refuse what cannot be merged, by the recipe's bands; returns the result's file."""
    from tasks.validate import validate as work
    from widen.checks import Problem
    from widen.summary import ModelSummary

    bounds = road.recipe.require("validate")
    held = _read(measurements)
    models = tuple(ModelSummary.from_json(model) for model in held["models"])
    problems = tuple(Problem(**problem) for problem in held["problems"])
    # Layers that are stacked as they are change nothing: there may be nothing to measure.
    least = 0 if road.settings.slices else 1
    bands, most = bounds.relative_change, bounds.direction_change_max
    path: Path = road.call(work, models, problems, bands, most, road.run_folder, least)
    return path


@in_gpu_slot
@timed
def merge(road: Road, sources: tuple["Fetched", ...]) -> Path:
    """Pass 2: the merged checkpoint's folder."""
    from tasks.merge import merge as work

    path: Path = road.call(
        work, sources, road.settings, road.merged_recipe, road.allow_config, road.device, road.cache,
        road.merged_folder, road.runner,
    )  # fmt: skip
    return path


@in_gpu_slot
@timed
def evaluate(road: Road, sources: tuple["Fetched", ...], measurements: Path, merged: Path) -> dict[str, Path]:
    """Score the base, every parent, the merge and, if the gate asks, the champion on the same documents.

    Returns the scorecards' files. Without a champion to compare with, none of an earlier run is left.
    """
    from tasks.evaluate import evaluate as work
    from tasks.scoring import Unit

    digests = {one["name"]: one["digest"] for one in _read(measurements)["inputs"]}
    candidates = [*_participants(road, sources, digests), (MERGED, merged, _digest(merged))]
    _warn_of_power(road, candidates)
    folder, kept, settings = road.run_folder / "scorecards", road.cache / "scorecards", road.evaluation
    for stale in folder.glob(f"{CHAMPION}.*"):
        stale.unlink()
    try:
        candidates = [_composed(road, sources, one) for one in candidates] + _champion(road, merged)
        _score(road, [Unit(name, at, digest, settings, kept) for name, at, digest in candidates])
        return {
            name: road.call(work, name, at, digest, settings, kept, folder / f"{name}.json")
            for name, at, digest in candidates
        }
    finally:
        for temporary in (CHAMPION, COMPOSED):
            shutil.rmtree(road.cache / temporary, ignore_errors=True)


def _participants(
    road: Road, sources: tuple["Fetched", ...], digests: Mapping[str, str]
) -> Iterator[tuple[str, Path, str]]:
    """The base and every model with its digest; one with an adapter lies in a folder that `_composed` makes."""
    from tasks.compose import digest_of_participant, sides_of

    folders = {source.name: source.folder for source in sources}
    base = road.recipe.base.split(JOIN)
    for name in road.recipe.participants:
        sides = sides_of(name.split(JOIN), base, sources)
        folder = folders[name] if len(sides) == 1 else road.cache / COMPOSED / name
        yield name, folder, digest_of_participant(sides, digests)


def _composed(road: Road, sources: tuple["Fetched", ...], candidate: tuple[str, Path, str]) -> tuple[str, Path, str]:
    """The same, once its folder is there if it must be scored."""
    from tasks.compose import compose
    from tasks.evaluate import is_scored

    name, folder, digest = candidate
    if folder.parent == road.cache / COMPOSED and not is_scored(digest, road.evaluation, road.cache / "scorecards"):
        road.call(compose, sources, road.settings, name, road.cache, folder)
    return candidate


def _score(road: Road, models: Sequence["Unit"]) -> None:
    """Have every score of every model at hand, side by side, with how many are asked on the flow run's page."""
    from tasks.artifacts import key_of
    from tasks.flow_progress import flow_progress
    from tasks.side_by_side import Scorers, all_scored, divided

    if not any(one.missing() for one in models):
        return

    def body(scorers: Scorers) -> None:
        units = divided(models, scorers.slots)
        with progress.stage("scored", sum(len(one.tasks) for one in units)) as advance:
            all_scored(scorers, units, lambda unit: advance(len(unit.tasks)))

    with flow_progress(key_of(road.recipe.name, "evaluation"), _tasks_of_models) as progress:
        with_scorers(road, body)


def _tasks_of_models(done: int, total: int) -> str:
    return f"{done} of {total} tasks of all models"


def _warn_of_power(road: Road, candidates: Sequence[tuple[str, Path, str]]) -> None:
    """Before anything is scored; with all scores at hand it is too late, and the gate gives warnings of its own."""
    from tasks.evaluate import count_documents, is_scored
    from tasks.power import outlook, warn

    settings, kept = road.evaluation, road.cache / "scorecards"
    if not all(is_scored(digest, settings, kept) for _, _, digest in candidates):
        alpha = road.recipe.require("gates").alpha
        warn(outlook(road.clauses, count_documents(settings, kept), road.run_folder / "gate.json", alpha))


def _champion(road: Road, merged: Path) -> list[tuple[str, Path, str]]:
    """The champion as a further candidate, if there is one to compare with; its files only where it must be scored."""
    from tasks.champion import fetch_champion
    from tasks.evaluate import is_scored

    found, folder = _incumbent(road, merged), road.cache / CHAMPION
    if found is None:
        return []
    if not is_scored(found.digest, road.evaluation, road.cache / "scorecards"):
        folder = road.call(fetch_champion, road.registry, found, folder)
    return [(CHAMPION, folder, found.digest)]


def _incumbent(road: Road, merged: Path) -> "Incumbent | None":
    from tasks.champion import find_champion

    if not road.asks_champion:
        return None
    name = road.recipe.require("registry").name
    found: Incumbent | None = road.call(find_champion, road.registry, name, _digest(merged))
    return found


@timed
def gate(road: Road, merged: Path, scorecards: Mapping[str, Path]) -> Path:
    """Answer every clause; returns the decision's file.

    Raises GateError when the champion moved after the scores were taken: it is asked for again, here.
    """
    from tasks.gate import gate as work

    recipe, out, found = road.recipe, road.run_folder / "gate.json", _incumbent(road, merged)
    champion = None if found is None else (CHAMPION, found.digest)
    alpha = recipe.require("gates").alpha
    path: Path = road.call(
        work, road.clauses, dict(scorecards), recipe.base, recipe.parents, MERGED, alpha, out, champion
    )
    return path


@timed
def register(
    road: Road,
    sources: tuple["Fetched", ...],
    validation: Path,
    merged: Path,
    scorecards: Mapping[str, Path],
    decision: Path,
) -> "Registered":
    """A version in the registry, whatever the verdict, with the alias `candidate`."""
    from tasks.register import register as work

    records = tuple(source_record(road, source) for source in sources)
    registered: Registered = road.call(
        work, road.registry, road.recipe.require("registry").name, merged, decision, dict(scorecards), records,
        road.recipe.path, MERGED, validation, validation.with_suffix(""), _flow_run(), road.signing_key,
    )  # fmt: skip
    _write(road.run_folder / "registered.json", asdict(registered))
    return registered


def source_record(road: Road, source: "Fetched") -> "SourceRecord":
    """Where a source was fetched from, under the licence that the recipe gives it or its own files state."""
    from registry.attest.stated import stated_licence
    from registry.lineage import SourceRecord

    licence = road.recipe.inputs[source.name].license or stated_licence(source.folder)
    return SourceRecord(source.name, source.path, source.repo, source.rev, source.commit, source.content, licence)


@timed
def promote(road: Road, registered: "Registered", decision: Path) -> "Promotion":
    """Move the alias `champion` if the gate passed. Raises PromotionRefused when it did not."""
    from flows.promotion import person
    from tasks.promote import promote as work

    name, version, by = registered.name, registered.version, person(road.workspace)
    promotion: Promotion = road.call(work, road.registry, name, version, decision, by, _flow_run())
    return promotion


def report(
    road: Road, sources: tuple["Fetched", ...], registered: "Registered", measurements: Path, decision: Path
) -> Path:
    """Draw the version's page, log it with the version and describe that by it; returns the page."""
    from tasks.report import report as work

    files = {
        "decision": decision,
        "measurements": measurements,
        "merged": road.merged_folder,
        "scorecards": road.run_folder / "scorecards",
    }
    page: Path = road.call(
        work, road.registry, registered.name, registered.version, sources, road.settings, road.allow_config,
        road.cache, files, dict(road.seconds), road.run_folder / REPORT,
    )  # fmt: skip
    return page


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
            names = (MERGED, *road.recipe.participants)
            files = {one: _made_by("evaluate", scorecards / f"{one}.json") for one in names}
            champion = scorecards / f"{CHAMPION}.json"
            gate(
                road, _made_by("merge", road.merged_folder), files | ({CHAMPION: champion} if champion.exists() else {})
            )
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


def _digest(merged: Path) -> str:
    from widen import Manifest

    return Manifest.load(merged).digest


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
