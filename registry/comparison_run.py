"""A comparison in the registry: one run for all of it, one below it for each candidate; taken up where it was left."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import RegistryError
from registry.registration import experiment_of, metric_name
from registry.scorecard import Scorecard, TaskScores
from registry.store import Registry, asking
from registry.versions import MERGED

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

COMPARISON, CANDIDATE, SETTINGS = "widen.comparison", "widen.candidate", "widen.settings"
_PARENT = "mlflow.parentRunId"
_LONGEST = 6000
_PAGE = 1000


@dataclass(frozen=True)
class Entry:
    """A candidate for the record: `key` names it within its comparison; digests of what was merged, and of how."""

    key: str
    name: str
    digest: str
    settings: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class ComparisonRun:
    """The open run of a comparison. `recorded` are its candidates' runs that are complete, by key."""

    registry: Registry
    experiment: str
    run_id: str
    recorded: dict[str, str] = field(default_factory=dict)

    def record(self, entry: Entry) -> None:
        """Keep a candidate as a run below; one that is complete stays, one that a kill cut short is made good."""
        if entry.key in self.recorded:
            return
        with self.registry.lock(), asking(self.registry) as client:
            held = _children(client, self.experiment, self.run_id, entry.key)
            tags = {_PARENT: self.run_id, CANDIDATE: entry.key, MERGED: entry.digest, SETTINGS: entry.settings}
            child = held[0] if held else client.create_run(self.experiment, run_name=entry.name, tags=tags).info.run_id
            _log(client, child, entry.params, entry.metrics)
            client.set_terminated(child, "FINISHED")
        self.recorded[entry.key] = child

    def judged(self, key: str, metrics: Mapping[str, float]) -> None:
        """Add further metrics of a recorded candidate, such as the winner's on the gate's documents."""
        with self.registry.lock(), asking(self.registry) as client:
            _log(client, self.recorded[key], {}, metrics)

    def finish(self, metrics: Mapping[str, float], files: Mapping[str, Path], texts: Mapping[str, str]) -> None:
        """Keep what the whole came to: figures, files by name, and texts as files."""
        with self.registry.lock(), asking(self.registry) as client, tempfile.TemporaryDirectory() as folder:
            _log(client, self.run_id, {}, metrics)
            for name, text in texts.items():
                Path(folder, name).write_text(text, encoding="utf-8")
                client.log_artifact(self.run_id, str(Path(folder, name)))
            for path in files.values():
                client.log_artifact(self.run_id, str(path))


@contextmanager
def comparison_run(
    registry: Registry, name: str, key: str, params: Mapping[str, str], inputs: Mapping[str, str]
) -> Iterator[ComparisonRun]:
    """The run of the comparison `key` of the model `name`, which is made where there is none; ended with the block.

    It lies in the experiment `NAME.compare`. inputs: their digests by name. An error ends the run as FAILED, Ctrl-C as
    KILLED; the next block with the same key goes on with it. Raises RegistryError as `asking` does.
    """
    run = _opened(registry, name, key, params, inputs)
    try:
        yield run
    except BaseException as error:
        with suppress(RegistryError):  # what ended the block is told, not what that then did to the registry
            _end(run, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    _end(run, "FINISHED")


def scores_of(card: Scorecard, side: str) -> dict[str, float]:
    """A model's scores on one side of the split, by the names that MLflow allows."""
    return {name_of_score(one, side): one.value for one in card.tasks}


def name_of_score(scores: TaskScores, side: str) -> str:
    """What a metric on one side of the split is called in a run: equal for both sides but for the side."""
    return f"{side}/{metric_name(scores.task, scores.metric, scores.filter)}"


def _opened(
    registry: Registry, name: str, key: str, params: Mapping[str, str], inputs: Mapping[str, str]
) -> ComparisonRun:
    with registry.lock(), asking(registry, create=True) as client:
        experiment = experiment_of(client, registry, f"{name}.compare")
        found = client.search_runs([experiment], filter_string=f"tags.`{COMPARISON}` = '{key}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
            done = _finished(client, experiment, run_id)
            return ComparisonRun(registry, experiment, run_id, done)
        tags = {COMPARISON: key, **{f"widen.input.{one}": digest for one, digest in inputs.items()}}
        run_id = str(client.create_run(experiment, run_name=f"compare {name}", tags=tags).info.run_id)
        _log(client, run_id, params, {})
        return ComparisonRun(registry, experiment, run_id)


def _finished(client: "MlflowClient", experiment: str, run_id: str) -> dict[str, str]:
    found: dict[str, str] = {}
    token = None
    while True:
        query = f"tags.`{_PARENT}` = '{run_id}' and attributes.status = 'FINISHED'"
        page = client.search_runs([experiment], filter_string=query, max_results=_PAGE, page_token=token)
        found |= {one.data.tags[CANDIDATE]: str(one.info.run_id) for one in page}
        token = page.token
        if not token:
            return found


def _children(client: "MlflowClient", experiment: str, run_id: str, key: str) -> list[str]:
    query = f"tags.`{_PARENT}` = '{run_id}' and tags.`{CANDIDATE}` = '{key}'"
    return [str(one.info.run_id) for one in client.search_runs([experiment], filter_string=query, max_results=1)]


def _log(client: "MlflowClient", run_id: str, params: Mapping[str, str], metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric, Param

    long = [key for key, value in params.items() if len(value) > _LONGEST]
    if long:  # MLflow would cut them with no more than a warning
        raise RegistryError(f"parameters {', '.join(long)}: longer than the {_LONGEST:,} characters a registry keeps")
    measured = [Metric(key, value, 0, 0) for key, value in metrics.items()]
    for start in range(0, max(len(measured), 1), _PAGE):  # MLflow's limit a call
        given = [Param(key, value) for key, value in params.items()] if start == 0 else []
        client.log_batch(run_id, metrics=measured[start : start + _PAGE], params=given)


def _end(run: ComparisonRun, status: str) -> None:
    with run.registry.lock(), asking(run.registry) as client:
        client.set_terminated(run.run_id, status)
