"""The provenance statement of a merge: in-toto Statement v1 with SLSA's provenance predicate v1, as values and as JSON.

It holds no clock and no host name: the same merge, judged the same in the same flow run, gives the same bytes; when a
version was registered stands in the registry. Sources: https://github.com/in-toto/attestation, spec/v1/statement.md;
https://slsa.dev/spec/v1.0/provenance. docs/provenance.md documents the build type.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from registry.attest.places import uri
from registry.errors import RegistryError
from registry.lineage import Ancestor, Digests, Input, Lineage
from registry.provenance import LOCK
from registry.scorecard import canonical

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:widen:build-type:merge:v1"
BUILDER = "urn:widen:builder:self-hosted:v1"

# The names of digests. A model's own is Widen's: of tensors, shapes and companion files, whatever files they lie in.
_SHA256, _COMMIT, _MODEL = "sha256", "gitCommit", "widenModel"


@dataclass(frozen=True)
class Subject:
    """The merged model: `root` is the root digest that its signature is over, `merged` its digest in the registry.

    `signature` is the fingerprint of the key that signed it, or "none".
    """

    name: str
    root: str
    merged: str
    signature: str
    licence: str | None
    licence_warning: str | None


@dataclass(frozen=True)
class Dependency:
    """The base or a parent: where it was fetched from, its commit, digests and licence, and what it was merged from."""

    name: str
    role: str
    uri: str
    commit: str | None
    digest: str
    files: Digests
    licence: str | None
    revision: str | None
    made_from: tuple[Ancestor, ...] = ()


@dataclass(frozen=True)
class Build:
    """What ran: recipe and parameters as asked for, the code and what it ran on."""

    recipe: str
    recipe_digest: str
    recipe_text: str
    method: str
    parameters: Mapping[str, Any]
    engine: str
    platform: str
    commit: str | None
    local_changes: bool
    lock: str | None
    versions: Digests
    flow_run: str | None


@dataclass(frozen=True)
class Statement:
    """Provenance as values. `byproducts` are (name in the registry's run, SHA-256): lineage, gate, scorecards ..."""

    subject: Subject
    dependencies: tuple[Dependency, ...]
    build: Build
    byproducts: Digests

    def to_json(self) -> str:
        """The statement as canonical JSON."""
        predicate = {"buildDefinition": _definition(self), "runDetails": _run_details(self)}
        subject = _descriptor(
            self.subject.name,
            {_SHA256: self.subject.root},
            {
                "mergedDigest": self.subject.merged,
                "signature": self.subject.signature,
                "license": self.subject.licence,
                "licenseWarning": self.subject.licence_warning,
            },
        )
        held = {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE_TYPE, "predicate": predicate}
        return canonical(held)


def from_lineage(lineage: Lineage, subject: Subject, byproducts: Digests) -> Statement:
    """The statement of the merge that `lineage` records; the lineage itself is added to `byproducts`."""
    made, ran = lineage, lineage.provenance
    versions = {**dict(ran.packages), "python": ran.python, **({"widen": ran.version} if ran.version else {})}
    build = Build(
        recipe=made.recipe,
        recipe_digest=made.recipe_digest,
        recipe_text=made.recipe_text,
        method=made.method,
        parameters=dict(made.parameters),
        engine=made.engine,
        platform=ran.platform,
        commit=ran.commit,
        local_changes=ran.dirty,
        lock=ran.lock,
        versions=tuple(sorted(versions.items())),
        flow_run=made.flow_run,
    )
    known = {**dict(byproducts), "lineage.json": made.digest(), "gate.json": made.decision_digest}
    return Statement(subject, tuple(_dependency(one) for one in made.inputs), build, tuple(sorted(known.items())))


def _dependency(entry: Input) -> Dependency:
    source = entry.source
    return Dependency(
        name=entry.name,
        role=entry.role,
        uri=uri(source),
        commit=source.commit,
        digest=entry.digest,
        files=entry.files,
        licence=source.license,
        revision=source.rev,
        made_from=entry.made_from,
    )


def _descriptor(name: str, digest: Mapping[str, str | None], annotations: Mapping[str, Any], **more: str) -> Any:
    """An in-toto ResourceDescriptor, without what is not known."""
    held = {"name": name, "digest": _known(digest), "annotations": _known(annotations), **more}
    return {key: value for key, value in held.items() if value}


def _known(held: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in held.items() if value is not None}


def _definition(statement: Statement) -> dict[str, Any]:
    build = statement.build
    recipe = {"name": build.recipe, "digest": {_SHA256: build.recipe_digest}, "text": build.recipe_text}
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "recipe": recipe,
            "merge": {"method": build.method, "parameters": dict(build.parameters)},
        },
        "internalParameters": {"engine": build.engine, "platform": build.platform},
        "resolvedDependencies": [*_models(statement.dependencies), *_software(build)],
    }


def _models(dependencies: Sequence[Dependency]) -> list[Any]:
    described = []
    for one in dependencies:
        annotations = {
            "role": one.role,
            "license": one.licence,
            "revision": one.revision,
            "madeFrom": [_ancestor_to_json(ancestor) for ancestor in one.made_from] or None,
        }
        digest = {_COMMIT: one.commit, _MODEL: one.digest}
        described.append(_descriptor(one.name, digest, annotations, uri=one.uri))
        for file, sha256 in one.files:
            described.append(_descriptor(f"{one.name}/{file}", {_SHA256: sha256}, {"role": "file", "model": one.name}))
    return described


def _ancestor_to_json(ancestor: Ancestor) -> dict[str, Any]:
    inputs = [_ancestor_to_json(one) for one in ancestor.inputs] or None
    return _known({**asdict(ancestor), "inputs": inputs})


def _software(build: Build) -> list[Any]:
    changes = {"role": "code", "localChanges": build.local_changes}
    code = [_descriptor("widen", {_COMMIT: build.commit}, changes)]
    return code + ([_descriptor(LOCK, {_SHA256: build.lock}, {"role": "lock file"})] if build.lock else [])


def _run_details(statement: Statement) -> dict[str, Any]:
    build = statement.build
    return {
        "builder": {"id": BUILDER, "version": dict(build.versions)},
        "metadata": {"invocationId": build.flow_run} if build.flow_run else {},
        "byproducts": [_descriptor(name, {_SHA256: digest}, {}) for name, digest in statement.byproducts],
    }


def read(text: str) -> Statement:
    """The statement that `to_json` wrote. Raises RegistryError, saying what is wrong, for anything else."""
    try:
        held = json.loads(text)
        for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
            _require(key, expected, held[key])
        definition, run = held["predicate"]["buildDefinition"], held["predicate"]["runDetails"]
        _require("buildType", BUILD_TYPE, definition["buildType"])
        (subject,) = held["subject"]
        found = Statement(
            subject=_read_subject(subject),
            dependencies=_read_models(definition["resolvedDependencies"]),
            build=_read_build(definition, run),
            byproducts=_read_byproducts(run["byproducts"]),
        )
        same = found.to_json() == canonical(held)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RegistryError(f"not a provenance statement: {error!r}") from error
    if not same:
        raise RegistryError("provenance statement: it holds other fields than Widen writes; do not rely on it")
    return found


def _require(key: str, expected: str, found: object) -> None:
    if found != expected:
        raise RegistryError(f"provenance statement: expected {key} {expected}, found {found!r}")


def _read_subject(held: Mapping[str, Any]) -> Subject:
    notes = held["annotations"]
    return Subject(
        name=held["name"],
        root=held["digest"][_SHA256],
        merged=notes["mergedDigest"],
        signature=notes["signature"],
        licence=notes.get("license"),
        licence_warning=notes.get("licenseWarning"),
    )


def _read_models(held: Sequence[Mapping[str, Any]]) -> tuple[Dependency, ...]:
    files: dict[str, list[tuple[str, str]]] = {}
    for one in held:
        if one["annotations"]["role"] == "file":
            model = one["annotations"]["model"]
            files.setdefault(model, []).append((one["name"].removeprefix(f"{model}/"), one["digest"][_SHA256]))
    models = [one for one in held if _MODEL in one.get("digest", {})]
    return tuple(_read_model(one, tuple(files.get(one["name"], ()))) for one in models)


def _read_model(held: Mapping[str, Any], files: Digests) -> Dependency:
    notes = held["annotations"]
    return Dependency(
        name=held["name"],
        role=notes["role"],
        uri=held["uri"],
        commit=held["digest"].get(_COMMIT),
        digest=held["digest"][_MODEL],
        files=files,
        licence=notes.get("license"),
        revision=notes.get("revision"),
        made_from=tuple(_read_ancestor(one) for one in notes.get("madeFrom", ())),
    )


def _read_ancestor(held: Mapping[str, Any]) -> Ancestor:
    return Ancestor(**{**held, "inputs": tuple(_read_ancestor(one) for one in held.get("inputs", ()))})


def _read_build(definition: Mapping[str, Any], run: Mapping[str, Any]) -> Build:
    external, internal = definition["externalParameters"], definition["internalParameters"]
    software = {one["annotations"]["role"]: one for one in definition["resolvedDependencies"]}
    code, lock = software["code"], software.get("lock file", {})
    return Build(
        recipe=external["recipe"]["name"],
        recipe_digest=external["recipe"]["digest"][_SHA256],
        recipe_text=external["recipe"]["text"],
        method=external["merge"]["method"],
        parameters=external["merge"]["parameters"],
        engine=internal["engine"],
        platform=internal["platform"],
        commit=code.get("digest", {}).get(_COMMIT),
        local_changes=code["annotations"]["localChanges"],
        lock=lock.get("digest", {}).get(_SHA256),
        versions=tuple(sorted(run["builder"]["version"].items())),
        flow_run=run["metadata"].get("invocationId"),
    )


def _read_byproducts(held: Sequence[Mapping[str, Any]]) -> Digests:
    return tuple((one["name"], one["digest"][_SHA256]) for one in held)
