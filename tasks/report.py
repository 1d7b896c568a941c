"""The report as a task: what a run recorded becomes the version's page, logged with it and told on the flow's page."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.decision import Decision
from registry.errors import RegistryError
from registry.history import read_history
from registry.lineage import MANIFEST, read_manifest
from registry.pages import publish, standing
from registry.report import (
    ModelChange,
    Report,
    Stage,
    Standing,
    TensorChange,
    build,
    render,
    reuse_of,
    summarise,
)
from registry.retelling import events, override_of, retell
from registry.scorecard import Scorecard
from registry.store import Registry
from registry.versions import read_lineage
from tasks.fetch import Fetched
from tasks.register import is_unreachable
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
    _tell_flow(registry, told, out)
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


def _tell_flow(registry: Registry, drawn: Report, page: Path) -> None:
    """Leave verdict, scores and a link on the flow run's page; without a flow there is none."""
    from prefect.artifacts import create_link_artifact, create_markdown_artifact
    from prefect.runtime import flow_run

    if flow_run.get_id() is None:
        return
    key = re.sub(r"[^a-z0-9]+", "-", drawn.name.lower()).strip("-") or "model"
    title = f"{drawn.name} version {drawn.version}"
    create_markdown_artifact(summarise(drawn), key=f"{key}-verdict", description=f"Verdict and scores of {title}")
    served = f"{registry.uri}/#/models/{drawn.name}/versions/{drawn.version}"
    link = page.resolve().as_uri() if registry.database is not None else served
    create_link_artifact(link, link_text=f"Report of {title}", key=f"{key}-report", description=f"Report of {title}")


def _text(path: Path) -> str:
    if not path.is_file():
        raise RegistryError(f"{path}: not found; run the step that writes it first")
    return path.read_text(encoding="utf-8")
