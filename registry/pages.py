"""What a person sees who opens only the registry's page: descriptions, tags, charts, a run for every scored model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from registry.errors import RegistryError
from registry.registration import metric_name
from registry.report import Event, Override, Report, Scored, describe, describe_model, render, scores_picture
from registry.scorecard import canonical
from registry.store import Registry, asking
from registry.versions import CANDIDATE, CHAMPION, Version, read_artifact, resolve

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PAGE, VALUES, CHART = "report.html", "report.json", "charts/scores.svg"

# Tags: of a version where its report lies; of a run its note, and of a scored model's run what it is a run of.
REPORT = "report"
NOTE, PARENT, SCORED, ROLE, DIGEST = "mlflow.note.content", "mlflow.parentRunId", "scored_model", "role", "model_digest"
_NOTE_START = "Merges of "


def publish(registry: Registry, report: Report) -> Report:
    """Log the report with its version's run, and describe version, run and registered model by it.

    Returns what was logged: an override and a history that were told before are told again.

    Every scored model gets a run below the version's, with metrics of the same names, so that the registry's own charts
    lay them side by side. May be repeated: what is there is replaced, never doubled. Takes the registry's lock, so call
    it without. Raises NotRegistered without such a version, RegistryError as every call to a registry.
    """
    version = resolve(registry, f"{report.name}/{report.version}").version
    report = _with_what_was_told(registry, version, report)
    page, picture = render(report), scores_picture(report)
    with registry.lock(), asking(registry) as client:
        run_id = version.run_id
        for path, text in ((PAGE, page), (VALUES, report.to_json()), (CHART, picture)):
            client.log_text(run_id, text, path)
        experiment = str(client.get_run(run_id).info.experiment_id)
        runs = _log_models(client, experiment, run_id, report)
        text = describe(report, _links(experiment, run_id, runs))
        client.set_tag(run_id, NOTE, text)
        client.update_model_version(version.name, str(version.version), text)
        client.set_model_version_tag(version.name, str(version.version), REPORT, f"runs:/{run_id}/{PAGE}")
        _describe_model(client, report)
    return report


def _with_what_was_told(registry: Registry, version: Version, report: Report) -> Report:
    if version.tag(REPORT) is None:
        return report
    held = Report.from_json(read_artifact(registry, version, VALUES))
    return replace(report, override=report.override or held.override, history=report.history or held.history)


def refresh(
    registry: Registry,
    name: str,
    version: int,
    override: Override | None = None,
    history: Sequence[Event] = (),
) -> None:
    """Draw and describe a version again from what the registry holds, with its standing now and an override, if any.

    What is not given stays as it was told before. Takes the registry's lock, so call it without. Raises RegistryError
    when the version has no stored report.
    """
    held = resolve(registry, f"{name}/{version}").version
    report = Report.from_json(_logged(registry, held, VALUES))
    publish(registry, replace(report, standing=standing(held), override=override, history=tuple(history)))


def read_page(registry: Registry, reference: str) -> tuple[str, str]:
    """In words which version `reference` means, and its report as it was logged.

    Raises NotRegistered for no such version, RegistryError for one without a report.
    """
    resolved = resolve(registry, reference)
    return resolved.chosen, _logged(registry, resolved.version, PAGE)


def _logged(registry: Registry, version: Version, path: str) -> str:
    if version.tag(REPORT) is None:
        raise RegistryError(f"{version.uri}: no report was logged with it; run its recipe again")
    return read_artifact(registry, version, path)


def standing(version: Version) -> str:
    """What a version is to its model, by its aliases, and whether it still has its weights."""
    gone = "" if version.freed is None else f"; {version.freed} puts them back"
    if CHAMPION in version.aliases:
        return f"the champion{gone}"
    return (
        f"{'a candidate, not the champion' if CANDIDATE in version.aliases else 'neither champion nor candidate'}{gone}"
    )


def served(registry: Registry, report: Report) -> str | None:
    """The address of a version's page on the registry's server; None for a local registry, which serves none."""
    return None if registry.database is not None else f"{registry.uri}/#/models/{report.name}/versions/{report.version}"


def _links(experiment: str, run_id: str, runs: Sequence[str]) -> str:
    """Markdown that leads on from a description, by the addresses of the registry's own page."""
    run = f"#/experiments/{experiment}/runs/{run_id}"
    side_by_side = f"#/compare-runs?runs={quote(canonical(list(runs)))}&experiments={quote(canonical([experiment]))}"
    return (
        f"[The report]({run}/artifacts/{PAGE}) draws this with what changed in each model, whose weight won where and "
        f"the lineage. [All artifacts]({run}/artifacts), [scores as a chart]({run}/artifacts/{CHART}), "
        f"[the scored models side by side]({side_by_side})."
    )


def _describe_model(client: "MlflowClient", report: Report) -> None:
    """Say what the registered model is, unless somebody wrote a description of their own."""
    held = client.get_registered_model(report.name).description
    if not held or held.startswith(_NOTE_START):
        client.update_registered_model(report.name, describe_model(report))


def _log_models(client: "MlflowClient", experiment: str, parent: str, report: Report) -> list[str]:
    """A run for every model that was scored; returns their ids in the report's order."""
    known = {run.data.tags.get(SCORED): run for run in _children(client, experiment, parent)}
    runs = []
    for model in report.models:
        if scores := _scores(report, model):
            run = known.get(_key(model))
            run_id = str(run.info.run_id) if run is not None else _new_run(client, experiment, parent, report, model)
            if run is None or run.info.status != "FINISHED" or run.data.metrics != scores:
                _log_scores(client, run_id, scores)
            runs.append(run_id)
    return runs


def _log_scores(client: "MlflowClient", run_id: str, scores: dict[str, float]) -> None:
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(name, value, 0, 0) for name, value in scores.items()])
    client.set_terminated(run_id, "FINISHED")


def _key(model: Scored) -> str:
    return f"{model.role} {model.name}"


def _new_run(client: "MlflowClient", experiment: str, parent: str, report: Report, model: Scored) -> str:
    told = f"Scores of {model.name}, {model.role} of {report.name} version {report.version}, on the same documents."
    tags = {PARENT: parent, SCORED: _key(model), ROLE: model.role, DIGEST: model.digest, NOTE: told}
    name = model.name if model.name == model.role else f"{model.name} ({model.role})"
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _children(client: "MlflowClient", experiment: str, parent: str) -> Iterator["Run"]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _scores(report: Report, model: Scored) -> dict[str, float]:
    return {
        metric_name(row.task, row.metric, row.filter): one.value
        for row in report.scores
        for one in row.scores
        if (one.role, one.model) == (model.role, model.name)
    }
