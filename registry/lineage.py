"""Where a merged model comes from, as one record: written when it is registered, read back from any version of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from registry.decision import Decision
from registry.errors import RegistryError
from registry.provenance import Provenance
from registry.scorecard import canonical, sha256

SCHEMA = "widen-lineage/2"
READABLE = ("widen-lineage/1", SCHEMA)
MANIFEST = "widen-manifest.json"

Digests = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SourceRecord:
    """Where an input was fetched from; without `repo`, `path` is a local folder, or a URL of one in a storage.

    `license` is what the recipe or the checkpoint's own card says: an SPDX identifier, or a name of Hugging Face's.
    """

    name: str
    path: str
    repo: str | None = None
    rev: str | None = None
    commit: str | None = None
    content: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint that went into an input's own merge; one that is a merge itself has `inputs` again.

    `digest` is the checkpoint's. `merged_digest`, `recipe` and `method` are those of the merge it came out of.
    """

    name: str
    role: str
    digest: str
    recipe: str | None = None
    method: str | None = None
    inputs: "tuple[Ancestor, ...]" = ()
    merged_digest: str | None = None


@dataclass(frozen=True)
class Input:
    """One model that went into a merge: its role, its source, its root digest and every file's sha256.

    A model that is a merge itself has `made_from`, what went into it, and the merge's root digest and recipe.
    """

    role: str
    source: SourceRecord
    digest: str
    files: Digests
    made_from: tuple[Ancestor, ...] = ()
    merged_digest: str | None = None
    recipe: str | None = None

    @property
    def name(self) -> str:
        """The name the recipe gives it."""
        return self.source.name


@dataclass(frozen=True)
class Lineage:
    """Everything needed to say how a merged model came to be, and to make it again."""

    recipe: str
    recipe_digest: str
    recipe_text: str
    merged_digest: str
    merged_files: Digests
    method: str
    parameters: Mapping[str, Any]
    engine: str
    inputs: tuple[Input, ...]
    provenance: Provenance
    flow_run: str | None
    validation_digest: str | None
    verdict: str
    decision_digest: str
    clauses: tuple[str, ...]
    manifest_digest: str | None = None

    def to_json(self) -> str:
        """Canonical JSON text."""
        held = {**asdict(self), "parameters": dict(self.parameters), "provenance": self.provenance.to_dict()}
        held["merged_files"] = dict(self.merged_files)
        held["inputs"] = [{**asdict(i), "files": dict(i.files)} for i in self.inputs]
        return canonical({"schema": SCHEMA, **held})

    @classmethod
    def from_json(cls, text: str) -> "Lineage":
        """The record that `to_json` wrote. Raises RegistryError for anything else."""
        try:
            held = json.loads(text)
            if (schema := held.pop("schema")) not in READABLE:
                raise RegistryError(f"lineage: expected schema {SCHEMA}, found {schema!r}; another version wrote it")
            held["merged_files"] = _pairs(held["merged_files"])
            held["inputs"] = tuple(_input(i) for i in held["inputs"])
            held["provenance"] = Provenance.from_dict(held["provenance"])
            held["clauses"] = tuple(held["clauses"])
            return cls(**held)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RegistryError(f"not a lineage record: {error!r}") from error

    def digest(self) -> str:
        """The sha256 of `to_json()`."""
        return sha256(self.to_json())

    @property
    def asked(self) -> dict[str, str]:
        """What was asked of the merge, in words: the method's parameters by name, then each model's own."""
        told = {
            name: value for name, value in self.parameters.items() if name not in ("method", "parameters", "models")
        }
        own = {
            f"{name} of model {number}": value
            for number, one in enumerate(self.parameters.get("models", ()), start=1)
            for name, value in one.items()
        }
        given = {**told, **self.parameters.get("parameters", {}), **own}
        return {name: _words(value) for name, value in sorted(given.items()) if value is not None}


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def build(
    manifest: Path,
    sources: Sequence[SourceRecord],
    recipe_text: str,
    decision: Decision,
    provenance: Provenance,
    flow_run: str | None = None,
    validation_text: str | None = None,
) -> Lineage:
    """The record of the merge that `manifest` describes and `decision` judges.

    `validation_text` is what the validation wrote, of which the digest is kept. Raises RegistryError when the manifest
    cannot be read, when the decision judged other weights than the manifest's, or when an input has no source.
    """
    held = read_manifest(manifest)
    _require_judged(manifest, held, decision)
    try:
        return Lineage(
            recipe=held["recipe"]["name"],
            recipe_digest=held["recipe"]["digest"],
            recipe_text=recipe_text,
            merged_digest=held["digest"],
            merged_files=_sha256s(held["files"]),
            method=held["method"],
            parameters=dict(held["settings"]),
            engine=f"{held['engine']['name']} {held['engine']['version']}",
            inputs=_inputs(held["inputs"], sources),
            provenance=provenance,
            flow_run=flow_run,
            validation_digest=None if validation_text is None else sha256(validation_text),
            verdict=decision.verdict.value,
            decision_digest=decision.digest(),
            clauses=tuple(f"{r.verdict} {r.text}" for r in decision.results),
            manifest_digest=sha256(manifest.read_text(encoding="utf-8")),
        )
    except (KeyError, TypeError) as error:
        raise RegistryError(f"{manifest}: lacks {error}; merge again with this version") from error


def _require_judged(manifest: Path, held: Mapping[str, Any], decision: Decision) -> None:
    if decision.merged_digest != held["digest"]:
        raise RegistryError(
            f"{manifest}: the merged model is {held['digest']}, the gate judged {decision.merged_digest}; "
            "evaluate and gate the merge again"
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest beside a merged checkpoint. Raises RegistryError when it is missing or not one."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RegistryError(f"{path}: cannot read the merge's manifest ({error}); merge first") from error
    if not isinstance(held, dict) or "digest" not in held or "files" not in held:
        raise RegistryError(f"{path}: not a merge's manifest; merge again")
    return held


def _inputs(held: Sequence[Mapping[str, Any]], sources: Sequence[SourceRecord]) -> tuple[Input, ...]:
    known = {source.name: source for source in sources}
    missing = [i["name"] for i in held if i["name"] not in known]
    if missing:
        raise RegistryError(f"the merge's inputs {', '.join(missing)} have no source; sources: {', '.join(known)}")
    return tuple(_recorded(one, known[one["name"]]) for one in held)


def _recorded(held: Mapping[str, Any], source: SourceRecord) -> Input:
    made = held.get("merge") or {"inputs": ()}
    made_from = tuple(_made(one) for one in made["inputs"])
    files = _sha256s(held["files"])
    return Input(held["role"], source, held["digest"], files, made_from, made.get("digest"), made.get("recipe"))


def _made(held: Mapping[str, Any]) -> Ancestor:
    """An ancestor as a manifest records it."""
    made = held.get("merge") or {"inputs": ()}
    inputs = tuple(_made(one) for one in made["inputs"])
    recipe, method, merged = made.get("recipe"), made.get("method"), made.get("digest")
    return Ancestor(held["name"], held["role"], held["digest"], recipe, method, inputs, merged)


def _sha256s(files: Mapping[str, Mapping[str, Any]]) -> Digests:
    return tuple(sorted((name, str(entry["sha256"])) for name, entry in files.items()))


def _pairs(held: Mapping[str, str]) -> Digests:
    return tuple(sorted(held.items()))


def _input(held: Mapping[str, Any]) -> Input:
    made_from = tuple(_ancestor(one) for one in held.get("made_from", ()))
    kept = {"source": SourceRecord(**held["source"]), "files": _pairs(held["files"]), "made_from": made_from}
    return Input(**{**held, **kept})


def _ancestor(held: Mapping[str, Any]) -> Ancestor:
    return Ancestor(**{**held, "inputs": tuple(_ancestor(one) for one in held["inputs"])})


def ancestors(lineage: Lineage) -> Iterator[str]:
    """The root digests of the merges among the inputs, and among theirs."""
    pending = [(entry.merged_digest, entry.made_from) for entry in lineage.inputs]
    while pending:
        digest, inputs = pending.pop()
        if digest is not None:
            yield digest
        pending += [(one.merged_digest, one.inputs) for one in inputs]
