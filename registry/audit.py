"""What a registered version's record must agree on: tags, lineage, decision, recipe, scores, manifest and files."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.attest.keys import PUBLIC_FILE
from registry.attest.signature import UNSIGNED, hash_model, verify
from registry.attest.statement import read as read_statement
from registry.chain import History
from registry.decision import Decision
from registry.errors import NotVerified, RegistryError
from registry.lineage import MANIFEST, Lineage, read_manifest
from registry.scorecard import sha256
from registry.store import Registry, asking
from registry.versions import (
    DECISION,
    INPUT,
    LINEAGE,
    LINEAGE_DIGEST,
    MERGED,
    RECIPE,
    SIGNATURE,
    STATEMENT,
    VERDICT,
    Version,
    resolve,
)

GATE, RECIPE_FILE, VALIDATION = "gate.json", "recipe.yaml", "validation.json"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Record:
    """A version with all that was recorded about it, in `folder`: a copy of its run's artifacts."""

    version: Version
    chosen: str
    folder: Path

    @property
    def lineage(self) -> Lineage:
        """As it was registered. Raises NotVerified when it is gone or is not the one registered."""
        text, expected = self.text(LINEAGE), self.version.tag(LINEAGE_DIGEST)
        if sha256(text) != expected:
            raise NotVerified(f"{LINEAGE}: expected SHA-256 {expected} (the version's tag), found {sha256(text)}")
        return Lineage.from_json(text)

    def text(self, name: str) -> str:
        """One of the artifacts. Raises NotVerified when it is missing."""
        path = self.folder / name
        if not path.is_file():
            raise NotVerified(f"{name}: was registered with the version and is gone")
        return path.read_text(encoding="utf-8")


def open_record(registry: Registry, reference: str, folder: Path) -> Record:
    """Fetch the record of the version that `reference` means into `folder`. Raises NotRegistered when there is none."""
    from mlflow.artifacts import download_artifacts

    found = resolve(registry, reference)
    with asking(registry):
        try:
            download_artifacts(run_id=found.version.run_id, dst_path=str(folder), tracking_uri=registry.uri)
        except OSError as error:
            raise RegistryError(
                f"registry {registry.uri}: run {found.version.run_id} has no artifacts ({error})"
            ) from error
    return Record(found.version, found.chosen, folder)


def check_record(record: Record) -> str:
    """Every part of the record is the one that the version's tags and its lineage name. Raises NotVerified."""
    made = record.lineage
    decision = record.text(GATE)
    _require(GATE, made.decision_digest, sha256(decision))
    if made.recipe_text != record.text(RECIPE_FILE):
        raise NotVerified(f"{RECIPE_FILE}: {_first_line(made.recipe_text, record.text(RECIPE_FILE))}")
    if made.validation_digest is not None:
        _require(VALIDATION, made.validation_digest, sha256(record.text(VALIDATION)))
    if made.manifest_digest is not None:
        _require(MANIFEST, made.manifest_digest, sha256(record.text(MANIFEST)))
    judged = Decision.from_json(decision)
    for _, name, _, scores in judged.models:
        _require(f"scorecards/{name}.json", scores, sha256(record.text(f"scorecards/{name}.json")))
    for tag, expected in _tags(made, judged).items():
        _require(f"the version's tag {tag}", expected, record.version.tag(tag) or "none")
    return f"lineage {record.version.tag(LINEAGE_DIGEST)}, gate, recipe, scores and manifest are those registered"


def _tags(made: Lineage, judged: Decision) -> dict[str, str]:
    return {
        MERGED: made.merged_digest,
        DECISION: made.decision_digest,
        VERDICT: judged.verdict.value,
        RECIPE: made.recipe_digest,
        **{INPUT + entry.name: entry.digest for entry in made.inputs},
    }


def _require(what: str, expected: str, found: str) -> None:
    if found != expected:
        raise NotVerified(f"{what}: expected {expected}, found {found}")


def _first_line(expected: str, found: str) -> str:
    """Where two texts part."""
    lines = zip([*expected.splitlines(), ""], [*found.splitlines(), ""], strict=False)
    for number, (one, two) in enumerate(lines, start=1):
        if one != two:
            return f"line {number}: expected {one!r}, found {two!r}"
    return "expected the text that the lineage holds, found one of another length"


def check_files(lineage: Lineage, folder: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """The checkpoint's files are those of the lineage, byte for byte, and no others. Raises NotVerified naming all.

    advance: is told the bytes of every file that was read.
    """
    expected = dict(lineage.merged_files)
    if lineage.manifest_digest is not None:
        expected[MANIFEST] = lineage.manifest_digest
    held = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wrong = list(_wrong_files(expected, folder, advance))
    wrong += [f"{name}: was not registered" for name in sorted(held - {*expected, MANIFEST})]
    if wrong:
        raise NotVerified("; ".join(wrong))
    manifest = read_manifest(folder / MANIFEST)
    _require(f"{MANIFEST}, digest", lineage.merged_digest, str(manifest["digest"]))
    size = sum((folder / name).stat().st_size for name in expected)
    return f"{len(expected)} files, {size / 1e6:,.1f} MB: every SHA-256 is the one registered"


def _wrong_files(expected: Mapping[str, str], folder: Path, advance: Callable[[int], None]) -> Iterator[str]:
    for name, digest in sorted(expected.items()):
        path = folder / name
        if not path.is_file():
            yield f"{name}: was registered and is gone"
        elif (found := _sha256(path, advance)) != digest:
            yield f"{name}: expected SHA-256 {digest}, found {found}"


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            advance(len(piece))
    return digest.hexdigest()


def check_attestation(record: Record, folder: Path, public_key: Path | None) -> str:
    """The provenance statement and, where there is one, the signature are about the files in `folder`.

    Without `public_key` the registry's own copy of it is used, which whoever can write the registry can replace: the
    answer then names the key's fingerprint. Raises NotVerified.
    """
    from registry.attest.record import BUNDLE_FILE, FOLDER, STATEMENT_FILE

    text = record.text(f"{FOLDER}/{STATEMENT_FILE}")
    _require(f"{FOLDER}/{STATEMENT_FILE}", record.version.tag(STATEMENT) or "none", sha256(text))
    told = read_statement(text)
    _require(f"{FOLDER}/{STATEMENT_FILE}, merged digest", record.lineage.merged_digest, told.subject.merged)
    for name, expected in told.byproducts:
        _require(name, expected, sha256(record.text(name)))
    signer = record.version.tag(SIGNATURE) or UNSIGNED
    _require("the version's tag signature", told.subject.signature, signer)
    if signer == UNSIGNED:
        _refuse_unsigned(public_key)
        _require("root digest", told.subject.root, hash_model(folder).root)
        return f"unsigned; the provenance statement is about these files: root digest {told.subject.root}"
    if public_key is None:
        _require(f"{FOLDER}/{PUBLIC_FILE}", signer, sha256(record.text(f"{FOLDER}/{PUBLIC_FILE}")))
    verify(folder, record.folder / FOLDER / BUNDLE_FILE, public_key or record.folder / FOLDER / PUBLIC_FILE)
    whose = public_key or "the registry's own copy of it"
    return f"by the key {signer}, checked with {whose}; root digest {told.subject.root}"


def _refuse_unsigned(public_key: Path | None) -> None:
    if public_key is not None:
        raise NotVerified(f"a signature by {public_key} was asked for, and the model is not signed")


def check_history(record: Record, history: History) -> str:
    """The chain of entries holds, and those about this version are about its weights. Raises NotVerified naming all."""
    wrong = list(history.faults)
    made = record.lineage
    mine = [entry for entry in history.entries if entry.to_version == record.version.version]
    for entry in mine:
        if entry.merged_digest not in (None, made.merged_digest):
            wrong.append(f"entry {entry.number} is about other weights: {entry.merged_digest}")
        if entry.decision_digest not in (None, made.decision_digest):
            wrong.append(f"entry {entry.number} is about another decision: {entry.decision_digest}")
    if wrong:
        raise NotVerified("; ".join(wrong))
    if not history.entries:
        return "no entry yet: nothing was promoted since histories are kept"
    count = "1 entry" if len(history.entries) == 1 else f"{len(history.entries)} entries"
    told = f"last of this version: {mine[-1].line()}" if mine else "none about this version"
    return f"{count}, head {history.head}; {told}"
