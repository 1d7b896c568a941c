"""The versions of a registered model: found by name, alias or number, with the record of how each was made."""

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from registry.checkpoint import local_path
from registry.decision import Decision
from registry.errors import NotRegistered, RegistryError
from registry.lineage import Lineage
from registry.scorecard import sha256
from registry.store import Registry, asking

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION = "champion"
CANDIDATE = "candidate"
LINEAGE = "lineage.json"
GATE = "gate.json"
HISTORY = ".history"
"""What the name of a model's history ends in: a registered model of its own, one version an entry."""

# Version tags. Inputs are tagged under INPUT + their name.
MERGED, DECISION, VERDICT = "merged_digest", "decision_digest", "verdict"
# Of one whose weights were freed: since when and how many bytes. Of one that got them back: since when.
FREED, RESTORED = "freed", "restored"
# Given when it is promoted: the digest of the history's entry, and of an override the reason and who answers for it.
ENTRY, OVERRIDE, OVERRIDE_BY = "history_entry", "override", "override_by"
# Of `registry.attest`: root digest of the files, fingerprint of the signing key or "none", sha256 of the statement.
ROOT, SIGNATURE, STATEMENT = "root_digest", "signature", "statement_digest"
RECIPE, FLOW_RUN, COMMIT, LINEAGE_DIGEST, INPUT = "recipe_digest", "flow_run", "git_commit", "lineage_digest", "input."


@dataclass(frozen=True)
class Version:
    """One registered version, as the registry held it when asked."""

    name: str
    version: int
    run_id: str
    tags: tuple[tuple[str, str], ...]
    aliases: tuple[str, ...]

    @property
    def uri(self) -> str:
        """What MLflow loads it by."""
        return f"models:/{self.name}/{self.version}"

    def tag(self, key: str) -> str | None:
        """The tag's value, or None."""
        return dict(self.tags).get(key)

    @property
    def freed(self) -> str | None:
        """Since when it has no weights any more, or is about to lose them, and what gives them back; None: it has."""
        held = self.tag(FREED)
        return None if held is None else f"its weights were freed ({held}); widen restore {self.name}/{self.version}"


@dataclass(frozen=True)
class Resolved:
    """The version that a reference meant; `chosen` says in words why this one."""

    version: Version
    chosen: str


@dataclass(frozen=True)
class Recorded:
    """A version's lineage as it was recorded; `chosen` says which version the reference meant and why."""

    lineage: Lineage
    version: Version
    chosen: str


def resolve(registry: Registry, reference: str) -> Resolved:
    """The version meant by NAME@ALIAS, NAME/VERSION, or NAME: its champion if there is one, else its latest version.

    Raises NotRegistered when there is no such model, alias or version or the reference reads otherwise.
    """
    with asking(registry) as client:
        return _resolve(client, registry, reference)


def _resolve(client: "MlflowClient", registry: Registry, reference: str) -> Resolved:
    matched = re.fullmatch(r"([^/@:]+)(?:@([^/@:]+)|/(\d+))?", reference)
    if matched is None:
        raise NotRegistered(f"{reference!r}: expected NAME, NAME@ALIAS or NAME/VERSION")
    name, alias, number = matched.groups()
    if number is not None:
        return Resolved(_by_number(client, registry, name, int(number)), f"{name} version {number}, as asked")
    if alias is not None:
        found = by_alias(client, registry, name, alias)
        if found is None:
            raise NotRegistered(f"registry {registry.uri}: {name!r} has no alias {alias!r}; promote a version first")
        return Resolved(found, f"{name} version {found.version}, the {alias}")
    champion = by_alias(client, registry, name, CHAMPION)
    if champion is not None:
        return Resolved(champion, f"{name} version {champion.version}, the champion")
    latest = _latest(client, registry, name)
    return Resolved(latest, f"{name} version {latest.version}, the latest (there is no champion)")


def by_alias(client: "MlflowClient", registry: Registry, name: str, alias: str) -> Version | None:
    """The version behind an alias, or None when the alias is not set. Raises NotRegistered for an unknown model."""
    aliases = _aliases(client, registry, name)
    return _by_number(client, registry, name, int(aliases[alias])) if alias in aliases else None


def _aliases(client: "MlflowClient", registry: Registry, name: str) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_registered_model(name).aliases)
    except MlflowException as error:
        _raise_unless_missing(error, f"registry {registry.uri}: no model is registered as {name!r}")
        raise


def _by_number(client: "MlflowClient", registry: Registry, name: str, number: int) -> Version:
    from mlflow.exceptions import MlflowException

    try:
        return to_version(client.get_model_version(name, str(number)))
    except MlflowException as error:
        _raise_unless_missing(error, f"registry {registry.uri}: {name!r} has no version {number}")
        raise


def _raise_unless_missing(error: Exception, message: str) -> None:
    if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
        raise NotRegistered(message) from error


def _latest(client: "MlflowClient", registry: Registry, name: str) -> Version:
    found = [to_version(version) for version in client.search_model_versions(f"name = '{name}'")]
    if not found:
        raise NotRegistered(f"registry {registry.uri}: {name!r} has no version")
    latest = max(found, key=lambda version: version.version)
    return _by_number(client, registry, name, latest.version)


def to_version(held: "ModelVersion") -> Version:
    """MLflow's version as a value."""
    return Version(
        name=held.name,
        version=int(held.version),
        run_id=str(held.run_id),
        tags=tuple(sorted((str(key), str(value)) for key, value in held.tags.items())),
        aliases=tuple(sorted(held.aliases)),
    )


def read_lineage(registry: Registry, reference: str) -> Recorded:
    """The lineage of the version that `reference` means (see `resolve`), from the artifacts of its run.

    Raises NotRegistered as `resolve` does, and RegistryError when the record is gone or is not the one registered.
    """
    resolved = resolve(registry, reference)
    return Recorded(lineage_of(registry, resolved.version), resolved.version, resolved.chosen)


def lineage_of(registry: Registry, version: Version) -> Lineage:
    """The lineage that `version` was registered with; RegistryError when it is gone or is not the one registered."""
    with asking(registry):
        text = _artifact(registry, version.run_id, LINEAGE)
    found, expected = sha256(text), version.tag(LINEAGE_DIGEST)
    if found != expected:
        raise RegistryError(
            f"{version.uri}: its lineage is {found}, {expected} was registered; "
            "the record was changed after registration: do not rely on it"
        )
    return Lineage.from_json(text)


def read_decision(registry: Registry, version: Version) -> Decision:
    """The gate's decision that `version` was registered with, from the artifacts of its run.

    Raises RegistryError when the record is gone or is not the one registered.
    """
    with asking(registry):
        text = _artifact(registry, version.run_id, GATE)
    found, expected = sha256(text), version.tag(DECISION)
    if found != expected:
        raise RegistryError(
            f"{version.uri}: its gate.json is {found}, {expected} was registered; "
            "the record was changed after registration: do not rely on it"
        )
    return Decision.from_json(text)


def with_tag(registry: Registry, name: str, key: str, value: str) -> Version | None:
    """The latest version of `name` whose tag `key` is `value`, one that has its weights if there is one, or None."""
    with asking(registry) as client:
        held = [to_version(one) for one in client.search_model_versions(f"name = '{name}' and tags.{key} = '{value}'")]
    return max(held, key=lambda version: (version.freed is None, version.version), default=None)


def _artifact(registry: Registry, run_id: str, path: str) -> str:
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        try:
            found = download_artifacts(run_id=run_id, artifact_path=path, dst_path=folder, tracking_uri=registry.uri)
            return Path(found).read_text(encoding="utf-8")
        except OSError as error:
            raise RegistryError(f"registry {registry.uri}: run {run_id} has no {path} ({error})") from error


def registered_as(registry: Registry, digests: Iterable[str]) -> dict[str, str]:
    """NAME/VERSION by root digest, for those of the merged models in `digests` that this registry holds."""
    found = {}
    with asking(registry) as client:
        for digest in sorted(set(digests)):
            held = client.search_model_versions(f"tags.{MERGED} = '{digest}'")
            if held:
                first = min((to_version(one) for one in held), key=lambda one: (one.name, one.version))
                found[digest] = f"{first.name}/{first.version}"
    return found


def known_digests(registry: Registry) -> frozenset[str]:
    """The digests of every registered merge and of its inputs, of all models: whose scores may be asked for again."""
    found, token = set[str](), None
    with asking(registry) as client:
        while True:
            page = client.search_model_versions(max_results=1000, page_token=token)
            for version in page:
                found |= {value for key, value in version.tags.items() if key == MERGED or key.startswith(INPUT)}
            token = page.token
            if not token:
                return frozenset(found)


def read_artifact(registry: Registry, version: Version, path: str) -> str:
    """A text file among the artifacts of a version's run. Raises RegistryError when it is not there."""
    with asking(registry):
        return _artifact(registry, version.run_id, path)


def held_folder(registry: Registry, reference: str) -> Path | None:
    """The registry's own folder with the checkpoint that `reference` means; None when its files are not on this disk.

    Never write into it: it is the registered model itself. Raises RegistryError when its weights were freed.
    """
    location = _location(registry, reference)
    folder = local_path(location) if registry.database is not None else None
    if folder is not None and not folder.is_dir():
        raise RegistryError(f"{reference}: its files are gone from {folder}; widen restore makes them again")
    return folder


def download(registry: Registry, reference: str, destination: Path | None = None) -> Path:
    """The folder with the checkpoint that `reference` means: the registry's own when local, else a downloaded copy.

    Never write into the folder of a local registry: it is the registered model itself. Raises RegistryError when its
    weights were freed.
    """
    from mlflow.artifacts import download_artifacts

    location = _location(registry, reference)
    with asking(registry):
        target = None if destination is None else str(destination)
        return Path(download_artifacts(location, dst_path=target, tracking_uri=registry.uri))


def _location(registry: Registry, reference: str) -> str:
    with asking(registry) as client:
        version = _resolve(client, registry, reference).version
        if version.freed is not None:
            raise RegistryError(f"{version.uri}: {version.freed} puts them back")
        # Not by version.uri: that is looked up in whatever store the process last chose, and leaves a file behind.
        return str(client.get_model_version_download_uri(version.name, str(version.version)))
