"""The report as a task: what a run recorded becomes the version's page, logged with it and told on the flow's page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.decision import Decision
from registry.errors import RegistryError
from registry.history import History, read_history
from registry.lineage import MANIFEST, Lineage, read_manifest
from registry.pages import publish, served, standing
from registry.report import (
    ModelChange,
    Report,
    Stage,
    Standing,
    TensorChange,
    build,
    render,
    reuse_of,
)
from registry.retelling import events, override_of, retell
from registry.scorecard import Scorecard
from registry.store import Registry
from registry.versions import read_lineage
from tasks.artifacts import key_of, tell_link, tell_markdown, tell_table, within_flow
from tasks.fetch import Fetched
from tasks.register import is_unreachable
from tasks.run_story import tell
from tasks.run_tables import clause_rows, score_rows
from widen import Checkpoint, Resources, Settings, influence
from widen.staging import write_atomically
from widen.summary import ModelSummary


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 8], retry_condition_fn=is_unreachable)
def report(
    registry: Registry,
    name: str,
    version: int,
    sources: Sequence[Fetched],
    settings: Settings,
    allow_config: Sequence[str],
    cache: Path,
    files: Mapping[str, Path],
    seconds: Mapping[str, float],
    out: Path,
) -> Path:
    """Draw the report of `version` of `name` into the file `out`, log it with the version, and describe that by it.

    `sources` are the merge's inputs, the base first. `files`: decision, measurements, merged (the merge's folder) and
    scorecards (a folder) of the run. `seconds` is how long each station took. Raises RegistryError when one of them is
    missing.
    """
    recorded = read_lineage(registry, f"{name}/{version}")
    drawn = build(
        name,
        version,
        Decision.from_json(_text(files["decision"])),
        recorded.lineage,
        [Scorecard.from_json(_text(path)) for path in sorted(files["scorecards"].glob("*.json"))],
        _changes(json.loads(_text(files["measurements"]))),
        _standings(sources, settings, allow_config, cache),
        reuse_of(read_manifest(files["merged"] / MANIFEST)),
        tuple(Stage(station, taken) for station, taken in seconds.items()),
        standing(recorded.version),
    )
    history = read_history(registry, name)
    told = publish(registry, replace(drawn, override=override_of(history, version), history=events(history)))
    write_atomically(out, render(told).encode())
    if history.champion is not None and history.champion.to_version == version:
        retell(registry, history, [history.champion.from_version])
    if within_flow():
        _tell_flow(registry, told, _before(registry, history, version), out)
    return out


def _changes(measured: Mapping[str, Any]) -> tuple[ModelChange, ...]:
    return tuple(_change(ModelSummary.from_json(held)) for held in measured["models"])


def _change(model: ModelSummary) -> ModelChange:
    tensors = tuple(
        TensorChange(
            one.tensor, one.layer, one.elements, one.changed, _finite(one.relative_change), one.direction_change
        )
        for one in model.tensors
    )
    elements = sum(one.elements for one in tensors)
    relative = _finite(model.relative_change)
    return ModelChange(model.model, elements, model.changed, relative, model.direction_change, tensors)


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value


def _standings(
    sources: Sequence[Fetched], settings: Settings, allow_config: Sequence[str], cache: Path
) -> tuple[Standing, ...]:
    base, *models = (Checkpoint.open(source.folder, source.name) for source in sources)
    # On the processors: what the merge measured is at hand, and weighing it is light.
    found = influence(base, models, settings, allow_config, Resources("cpu", cache=cache))
    return tuple(
        Standing(row.model, one.tensor, one.layer, one.columns, row.mean_score, row.share_above, row.share_won)
        for one in found
        for row in one.models
    )


def _tell_flow(registry: Registry, drawn: Report, before: tuple[int, Lineage | None] | None, page: Path) -> None:
    """Leave the run's story on the flow run's page: tables of scores and clauses, what moved, where to look."""
    recipe, title = drawn.lineage.recipe, f"{drawn.name} version {drawn.version}"
    link = served(registry, drawn)
    tell_table(key_of(recipe, "scores"), score_rows(drawn), f"Scores of {title}, with one-sided bounds")
    tell_table(key_of(recipe, "gate"), clause_rows(drawn.decision), f"{drawn.decision.verdict}: {title}")
    tell_markdown(
        key_of(recipe, "verdict"),
        tell(drawn, before, _places(drawn, page, link)),
        f"Verdict, scores and inputs of {title}",
    )
    tell_link(key_of(recipe, "report"), link or page.resolve().as_uri(), f"Report of {title}")


def _places(drawn: Report, page: Path, link: str | None) -> list[tuple[str, str]]:
    name = f"{drawn.name}/{drawn.version}"
    found = [("report", f"`{page}`, or `widen report {name}`")]
    if link is not None:
        found.append(("registry", f"[{name}]({link})"))
    if not drawn.decision.passed and drawn.override is None:
        found.append(("promote it on your own word", f"`widen promote {name} --override 'WHY'`"))
    return found


def _before(registry: Registry, history: History, version: int) -> tuple[int, Lineage | None] | None:
    """The champion that `version` followed, or is held against, with its lineage where that can still be read."""
    last = history.champion
    number = None if last is None else (last.from_version if last.to_version == version else last.to_version)
    if number is None:
        return None
    try:
        return number, read_lineage(registry, f"{history.name}/{number}").lineage
    except RegistryError:
        return number, None


def _text(path: Path) -> str:
    if not path.is_file():
        raise RegistryError(f"{path}: not found; run the step that writes it first")
    return path.read_text(encoding="utf-8")
