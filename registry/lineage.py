"""Where a merged model comes from, as one record: written when it is registered, read back from any version of it."""

import json
from collections.abc import Mapping, Sequence
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
    """Where an input was fetched from; without `repo`, `path` is a local folder and nothing else is known.

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
    """A merge that served as an input: what its own manifest says of it, back to inputs that are no merges."""

    name: str
    role: str
    digest: str
    recipe: str | None = None
    method: str | None = None
    inputs: "tuple[Ancestor, ...]" = ()


@dataclass(frozen=True)
class Input:
    """One model that went into a merge: its role, its source, its root digest and every file's sha256.

    `made_from` are the inputs of a model that is a merge itself.
    """

    role: str
    source: SourceRecord
    digest: str
    files: Digests
    made_from: tuple[Ancestor, ...] = ()

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
    if decision.merged_digest != held["digest"]:
        raise RegistryError(
            f"{manifest}: the merged model is {held['digest']}, the gate judged {decision.merged_digest}; "
            "evaluate and gate the merge again"
        )
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
        )
    except (KeyError, TypeError) as error:
        raise RegistryError(f"{manifest}: lacks {error}; merge again with this version") from error


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
    return tuple(Input(i["role"], known[i["name"]], i["digest"], _sha256s(i["files"])) for i in held)


def _sha256s(files: Mapping[str, Mapping[str, Any]]) -> Digests:
    return tuple(sorted((name, str(entry["sha256"])) for name, entry in files.items()))


def _pairs(held: Mapping[str, str]) -> Digests:
    return tuple(sorted(held.items()))


def _input(held: Mapping[str, Any]) -> Input:
    made_from = tuple(_ancestor(one) for one in held.get("made_from", ()))
    return Input(held["role"], SourceRecord(**held["source"]), held["digest"], _pairs(held["files"]), made_from)


def _ancestor(held: Mapping[str, Any]) -> Ancestor:
    return Ancestor(**{**held, "inputs": tuple(_ancestor(one) for one in held["inputs"])})


def render(lineage: Lineage) -> str:
    """The record for a terminal: plain lines, no colour, digests in full so that they can be compared."""
    made, ran = lineage, lineage.provenance
    settings = ", ".join(f"{name} {value}" for name, value in sorted(made.parameters.items()))
    code = ran.commit + (" with local changes" if ran.dirty else "") if ran.commit else f"version {ran.version}"
    lines = [
        f"merged      {made.merged_digest}",
        f"verdict     {made.verdict} (decision {made.decision_digest})",
        *(f"            {clause}" for clause in made.clauses),
        f"recipe      {made.recipe} ({made.recipe_digest})",
        f"method      {made.method}: {settings}",
        *(line for entry in made.inputs for line in _input_lines(entry)),
        f"validation  {made.validation_digest or 'none recorded'}",
        f"engine      {made.engine}",
        f"code        {code}",
        f"ran on      {ran.python}, {ran.platform}",
        f"packages    {', '.join(f'{name} {version}' for name, version in ran.packages)}",
        f"flow run    {made.flow_run or 'none'}",
    ]
    return "\n".join(lines)


def _input_lines(entry: Input) -> list[str]:
    source = entry.source
    where = source.path
    if source.repo is not None:
        where = f"{source.path} in {source.repo} at {source.rev or 'HEAD'} (commit {source.commit or 'unknown'})"
    files = (f"            {digest}  {name}" for name, digest in entry.files)
    return [f"{entry.role:<11} {entry.name}: {where}", f"            {entry.digest}  all of it", *files]
