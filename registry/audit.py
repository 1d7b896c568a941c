"""What a registered version's record must agree on: tags, lineage, decision, recipe, scores, manifest and files."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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
