"""All that is attested of a new version: statement, signature, bill of materials and model card, made in one go."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from registry.attest import bom, card, statement
from registry.attest.figures import figures
from registry.attest.keys import PUBLIC_FILE, VARIABLE, SigningKey
from registry.attest.licences import Check, check
from registry.attest.signature import UNSIGNED, Hashed, hash_model, sign
from registry.lineage import Digests
from registry.registration import Evidence
from registry.scorecard import Scorecard, sha256
from registry.versions import ROOT, SIGNATURE, STATEMENT

log = logging.getLogger(__name__)

FOLDER = "provenance"
STATEMENT_FILE, BUNDLE_FILE, BOM_FILE, CARD_FILE = "statement.json", "model.sig", "bom.cdx.json", "README.md"


def attest(
    evidence: Evidence, name: str, scorecards: Mapping[str, Scorecard], key: SigningKey | None, out: Path
) -> Evidence:
    """`evidence` with the records of its provenance, written to the folder `out`, and the tags that name them.

    `name` is the registered model's, `scorecards` all models' by name. Without a key the model stays unsigned, and
    every record says so. Raises RegistryError when a file is not as the merge wrote it.
    """
    model, lineage = hash_model(evidence.folder), evidence.lineage
    licences = check((entry.name, entry.source.license) for entry in lineage.inputs)
    signer = UNSIGNED if key is None else key.fingerprint
    subject = statement.Subject(
        lineage.recipe, model.root, lineage.merged_digest, signer, licences.expression, licences.warning
    )
    text = statement.from_lineage(lineage, subject, _byproducts(evidence)).to_json()
    scored = {held.model: figures(held) for held in (*scorecards.values(), evidence.merged)}
    told = card.Told(name, lineage, evidence.decision, licences, model.root, signer, evidence.merged.model, scored)
    _write(out / STATEMENT_FILE, text)
    _write(out / BOM_FILE, bom.bill(lineage, evidence.decision, model, licences, scored[evidence.merged.model]))
    _write(out / CARD_FILE, card.card(told))
    if key is not None:
        sign(model, key, out / BUNDLE_FILE)
        _write(out / PUBLIC_FILE, key.public_pem)
    _tell(name, model, key, licences)
    files = {f"{FOLDER}/{path.name}": path for path in sorted(out.iterdir())}
    tags = {ROOT: model.root, SIGNATURE: signer, STATEMENT: sha256(text)}
    return replace(evidence, files={**evidence.files, **files}, tags=tags)


def _byproducts(evidence: Evidence) -> Digests:
    """What else is recorded of the merge, by the name that it has there."""
    files = sorted((name, path) for name, path in evidence.files.items() if path.is_file())
    return tuple((name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in files)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _tell(name: str, model: Hashed, key: SigningKey | None, licences: Check) -> None:
    if key is None:
        log.warning("%s is not signed: %s is not set; its root digest is %s", name, VARIABLE, model.root)
    else:
        log.info("%s is signed by the key %s; its root digest is %s", name, key.fingerprint, model.root)
    if licences.warning is not None:
        log.warning("%s: %s", name, licences.warning)
