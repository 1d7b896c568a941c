"""Registering a merged model: the run that records it, its files, a version with tags and the alias `candidate`."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from registry.checkpoint import link, listed_files, local_path, upload
from registry.decision import Decision
from registry.errors import RegistryError
from registry.lineage import MANIFEST, Input, Lineage
from registry.restoration import refill
from registry.scorecard import Scorecard, canonical, sha256
from registry.store import Registry, asking
from registry.versions import (
    CANDIDATE,
    COMMIT,
    DECISION,
    FLOW_RUN,
    GATE,
    HISTORY,
    INPUT,
    LINEAGE,
    LINEAGE_DIGEST,
    MERGED,
    RECIPE,
    VERDICT,
    Version,
    to_version,
)
from registry.weights import remove_all

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel
    from mlflow.tracking import MlflowClient

# MLflow's limit on a dataset's digest; the whole digest is in the input's tag.
_DATASET_DIGEST = 36
LONGEST_PARAMETER = 6000
"""In characters; MLflow would cut a longer one with no more than a warning."""


@dataclass(frozen=True)
class Evidence:
    """A merged checkpoint and all that is recorded with it.

    `folder` holds the checkpoint and its manifest; `merged` are its own scores; `files` are further files and folders
    to keep, by the name they get in the run ("validation.json", "scorecards/base.json"); `tags` are further tags of the
    version.
    """

    folder: Path
    lineage: Lineage
    decision: Decision
    merged: Scorecard
    files: Mapping[str, Path] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        digests = {self.lineage.merged_digest, self.decision.merged_digest, self.merged.digest}
        judged = {scores for role, _, _, scores in self.decision.models if role == "merged"}
        if len(digests) > 1 or self.lineage.decision_digest != self.decision.digest():
            raise RegistryError(
                f"{self.folder}: lineage, decision and scorecard speak of different models "
                f"({', '.join(sorted(digests))}); evaluate and gate the merge again"
            )
        if judged != {self.merged.digest_of_scores()}:
            raise RegistryError(f"{self.folder}: the scorecard is not the one the gate judged; run the gate again")


@dataclass(frozen=True)
class Registered:
    """A version in the registry; `reused` when it was there already, from the same weights and the same decision."""

    name: str
    version: int
    uri: str
    reused: bool


def register(
    registry: Registry, name: str, evidence: Evidence, complete: Callable[[Evidence], Evidence] | None = None
) -> Registered:
    """Register the merge as a new version of `name` and point the alias `candidate` at it, whatever the verdict.

    A version with the same merged weights and the same decision is returned instead of being made twice, with its files
    put back if they were freed; for one that is new, `complete` first adds to the evidence, and what it raises leaves
    the registry as it was. When anything fails no version is left behind and what was begun is marked FAILED. Raises
    RegistryError (and its subclass RegistryUnreachable), also when the folder does not hold what its manifest lists.
    """
    if name.endswith(HISTORY):
        raise RegistryError(f"cannot register {name}: names that end in {HISTORY} are kept for histories; rename it")
    names = listed_files(evidence.folder)
    missing = [str(path) for path in evidence.files.values() if not path.exists()]
    if missing:
        raise RegistryError(f"cannot register {name}: {', '.join(missing)} not found; run the steps before this one")
    with registry.lock(), asking(registry, create=True) as client:
        known = _known(client, name, evidence)
        if known is not None:
            client.set_registered_model_alias(name, CANDIDATE, str(known.version))
            _refill_if_freed(client, registry, known, evidence.folder)
        if known is None and complete is not None:
            evidence = complete(evidence)
        version = known or _make(client, registry, name, evidence, names)
    return Registered(name, version.version, version.uri, known is not None)


def _refill_if_freed(client: "MlflowClient", registry: Registry, known: Version, folder: Path) -> None:
    """Registered again, a version is wanted again; asked once its alias is set, which no collection overlooks."""
    now = to_version(client.get_model_version(known.name, str(known.version)))
    if now.freed is not None:
        refill(client, registry, now, folder)


def _known(client: "MlflowClient", name: str, evidence: Evidence) -> Version | None:
    wanted = {MERGED: evidence.lineage.merged_digest, DECISION: evidence.decision.digest()}
    query = " and ".join([f"name = '{name}'", *(f"tags.{key} = '{value}'" for key, value in wanted.items())])
    found = [to_version(version) for version in client.search_model_versions(query)]
    return max(found, key=lambda version: version.version, default=None)


def _make(
    client: "MlflowClient", registry: Registry, name: str, evidence: Evidence, names: tuple[PurePosixPath, ...]
) -> Version:
    experiment = experiment_of(client, registry, name)
    if registry.database is not None:  # only under the lock is an unfinished model known to be nobody's
        _fail_abandoned(client, registry, experiment, evidence)
    with _run(client, experiment, evidence) as run_id:
        _record(client, run_id, evidence)
        with _model(client, registry, experiment, run_id, evidence) as model:
            _fill(client, registry, model, evidence.folder, names)
            client.finalize_logged_model(model.model_id, "READY")
            return _version(client, registry, name, run_id, model, evidence)


def experiment_of(client: "MlflowClient", registry: Registry, name: str) -> str:
    """The experiment of that name, made where it is missing, with its files where the registry keeps them."""
    held = client.get_experiment_by_name(name)
    if held is not None:
        if held.lifecycle_stage != "active":
            raise RegistryError(f"registry {registry.uri}: the experiment {name!r} was deleted; restore it")
        if registry.bucket is not None and held.artifact_location.rstrip("/") != registry.bucket:
            raise RegistryError(
                f"registry {registry.uri}: {name} keeps its files at {held.artifact_location}, which cannot change to "
                f"{registry.bucket}; register under another name, or set the place of artifacts back"
            )
        return str(held.experiment_id)
    root = registry.artifact_root
    location = registry.bucket or (None if root is None else root.resolve().as_uri())
    return str(client.create_experiment(name, artifact_location=location))


@contextmanager
def _run(client: "MlflowClient", experiment: str, evidence: Evidence) -> Iterator[str]:
    tags = {MERGED: evidence.lineage.merged_digest, FLOW_RUN: evidence.lineage.flow_run or ""}
    run_id = str(client.create_run(experiment, run_name=evidence.lineage.recipe, tags=tags).info.run_id)
    try:
        yield run_id
    except BaseException:
        client.set_terminated(run_id, "FAILED")
        raise
    client.set_terminated(run_id, "FINISHED")


def _record(client: "MlflowClient", run_id: str, evidence: Evidence) -> None:
    from mlflow.entities import Metric, Param

    made = evidence.lineage
    params = {"method": made.method, **{key: parameter_text(_plain(value)) for key, value in made.parameters.items()}}
    metrics = [Metric(key, value, 0, 0) for key, value in scores(evidence.merged).items()]
    client.log_batch(run_id, metrics=metrics, params=[Param(key, value) for key, value in params.items()])
    client.log_inputs(run_id, [_dataset(entry) for entry in made.inputs])
    with tempfile.TemporaryDirectory() as folder:
        for name, text in _texts(evidence).items():
            written = Path(folder, name)
            written.write_text(text, encoding="utf-8")
            client.log_artifact(run_id, str(written))
    client.log_artifact(run_id, str(evidence.folder / MANIFEST))
    for name, path in evidence.files.items():
        _log(client, run_id, name, path)


def parameter_text(value: str) -> str:
    """A parameter as MLflow keeps it: a template or a list of tokens or slices that is longer goes by its digest."""
    return value if len(value) <= LONGEST_PARAMETER else f"sha256:{sha256(value)}, whole in {LINEAGE}"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else canonical(value)


def _texts(evidence: Evidence) -> dict[str, str]:
    return {
        LINEAGE: evidence.lineage.to_json(),
        GATE: evidence.decision.to_json(),
        "recipe.yaml": evidence.lineage.recipe_text,
    }


def _log(client: "MlflowClient", run_id: str, name: str, path: Path) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), name)
        return
    wanted = Path(name)
    with tempfile.TemporaryDirectory() as folder:  # MLflow keeps a file's own name; ours may differ
        copied = shutil.copyfile(path, Path(folder, wanted.name))
        client.log_artifact(run_id, str(copied), None if wanted.parent == Path() else str(wanted.parent))


def scores(card: Scorecard) -> dict[str, float]:
    """The metrics of a model by the names MLflow allows: TASK/METRIC, with /FILTER where a filter was used."""
    return {metric_name(task.task, task.metric, task.filter): task.value for task in card.tasks}


def metric_name(task: str, metric: str, filter_name: str) -> str:
    """The name of one score among a run's metrics."""
    parts = [task, metric] + ([filter_name] if filter_name not in ("", "none") else [])
    return re.sub(r"[^\w\-./ :]", "_", "/".join(parts))


def _dataset(entry: Input) -> "DatasetInput":
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = entry.source
    where = {"path": source.path, "repo": source.repo, "rev": source.rev, "commit": source.commit}
    known = {key: value for key, value in where.items() if value is not None}
    held = Dataset(entry.name, entry.digest[:_DATASET_DIGEST], "code", CodeDatasetSource(known).to_json())
    tags = {"mlflow.data.context": entry.role, "name": entry.name, "digest": entry.digest, **known}
    return DatasetInput(held, [InputTag(k, v[:500]) for k, v in tags.items()])


@contextmanager
def _model(
    client: "MlflowClient", registry: Registry, experiment: str, run_id: str, evidence: Evidence
) -> Iterator["LoggedModel"]:
    tags = {MERGED: evidence.lineage.merged_digest, DECISION: evidence.decision.digest()}
    model = client.create_logged_model(experiment, name=evidence.lineage.recipe, source_run_id=run_id, tags=tags)
    try:
        yield model
    except BaseException:
        _fail(client, registry, model)
        raise


def _fail(client: "MlflowClient", registry: Registry, model: "LoggedModel") -> None:
    # They would keep the bytes of a model that nobody can name; a storage that fails now may be why all this fails.
    with suppress(Exception):
        remove_all(registry, model.artifact_location)
    client.finalize_logged_model(model.model_id, "FAILED")


def _fail_abandoned(client: "MlflowClient", registry: Registry, experiment: str, evidence: Evidence) -> None:
    """Mark what a killed registration of these very weights left behind; no version refers to it."""
    query = f"tags.{MERGED} = '{evidence.lineage.merged_digest}' and tags.{DECISION} = '{evidence.decision.digest()}'"
    for model in client.search_logged_models([experiment], filter_string=query):
        if str(model.status) != "FAILED":
            _fail(client, registry, model)


def _fill(
    client: "MlflowClient", registry: Registry, model: "LoggedModel", folder: Path, names: tuple[PurePosixPath, ...]
) -> None:
    target = local_path(model.artifact_location) if registry.database is not None else None
    if target is not None:
        link(folder, names, target)
    else:  # a server's local path may be another machine's: let MLflow carry the files
        upload(folder, names, lambda path, inside: client.log_model_artifact(model.model_id, str(path), inside))


def _version(
    client: "MlflowClient", registry: Registry, name: str, run_id: str, model: "LoggedModel", evidence: Evidence
) -> Version:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A local store would look models:/ID up in whatever store the process last chose; a server refuses plain paths.
    source = f"models:/{model.model_id}" if registry.database is None else model.artifact_location
    tags = version_tags(evidence)
    # Created with its tags in one call: a version without them could not be told from another merge's.
    made = to_version(client.create_model_version(name, source, run_id=run_id, tags=tags, model_id=model.model_id))
    try:
        client.set_registered_model_alias(name, CANDIDATE, str(made.version))
    except BaseException:
        client.delete_model_version(name, str(made.version))
        raise
    return made


def version_tags(evidence: Evidence) -> dict[str, str]:
    """The tags of a version: what it is, what it was made from and what the gate said."""
    made = evidence.lineage
    tags = {
        MERGED: made.merged_digest,
        DECISION: evidence.decision.digest(),
        VERDICT: evidence.decision.verdict.value,
        RECIPE: made.recipe_digest,
        LINEAGE_DIGEST: made.digest(),
        FLOW_RUN: made.flow_run,
        COMMIT: made.provenance.commit,
        **{INPUT + entry.name: entry.digest for entry in made.inputs},
        **evidence.tags,
    }
    return {key: value for key, value in tags.items() if value}
