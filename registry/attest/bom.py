"""The bill of materials of a merge: a CycloneDX 1.6 ML-BOM, with the base, the parents and what those were merged from.

It has no timestamp, and its serial number is that of its content, so that the same registration gives the same bytes.
Source: https://cyclonedx.org/docs/1.6/json (ECMA-424).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from registry.attest.figures import CONFIDENCE, Figure
from registry.attest.licences import Check
from registry.attest.places import package_url, uri
from registry.attest.signature import Hashed
from registry.decision import Decision
from registry.lineage import Ancestor, Digests, Input, Lineage
from registry.scorecard import canonical

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License
    from packageurl import PackageURL

MEDIA_TYPE = "application/vnd.cyclonedx+json"
_SOURCE = "widen:source"


def bill(lineage: Lineage, decision: Decision, model: Hashed, licences: Check, figures: Iterable[Figure]) -> str:
    """The bill as canonical JSON, valid by CycloneDX's own schema."""
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    merged = _merged(lineage, model, licences)
    inputs = [_input(entry, f"input/{entry.name}", entry.files) for entry in lineage.inputs]
    bom = Bom(serial_number=uuid5(NAMESPACE_URL, lineage.digest()), metadata=BomMetaData(component=merged))
    for component in inputs:
        bom.components.add(component)
    bom.register_dependency(merged, inputs)
    held = json.loads(JsonV1Dot6(bom).output_as_string())
    del held["metadata"]["timestamp"]
    # The library has no model card yet; the schema does.
    held["metadata"]["component"]["modelCard"] = _model_card(lineage, decision, model.folder, licences, figures)
    return canonical(held)


def _merged(lineage: Lineage, model: Hashed, licences: Check) -> "Component":
    from cyclonedx.model.component import Pedigree

    about = {
        "widen:merged-digest": lineage.merged_digest,
        "widen:lineage-digest": lineage.digest(),
        "widen:recipe-digest": lineage.recipe_digest,
        "widen:license-warning": licences.warning,
    }
    ancestors = [_input(entry, f"ancestor/{entry.name}", ()) for entry in lineage.inputs]
    return _component(
        lineage.recipe,
        "merged",
        version=lineage.merged_digest,
        digest=model.root,
        files=model.files,
        licences=licences.licences,
        about=about,
        pedigree=Pedigree(ancestors=ancestors, notes=f"merged by the method {lineage.method}"),
    )


def _input(entry: Input, reference: str, files: Digests) -> "Component":
    """An input as a component: once in full, once in the pedigree, by references of their own as a bill asks."""
    from cyclonedx.model.component import Pedigree

    source = entry.source
    above = [_ancestor(one, reference) for one in entry.made_from]
    return _component(
        entry.name,
        reference,
        version=source.commit or entry.digest,
        files=files,
        licences=(source.license,) if source.license else (),
        about={"widen:role": entry.role, "widen:model-digest": entry.digest, _SOURCE: uri(source)},
        purl=_purl(entry),
        pedigree=Pedigree(ancestors=above) if above else None,
    )


def _ancestor(ancestor: Ancestor, below: str) -> "Component":
    from cyclonedx.model.component import Pedigree

    reference = f"{below}/{ancestor.name}"
    above = [_ancestor(one, reference) for one in ancestor.inputs]
    about = {
        "widen:role": ancestor.role,
        "widen:model-digest": ancestor.digest,
        "widen:recipe": ancestor.recipe,
        "widen:method": ancestor.method,
    }
    pedigree = Pedigree(ancestors=above) if above else None
    return _component(ancestor.name, reference, version=ancestor.digest, about=about, pedigree=pedigree)


def _component(
    name: str,
    reference: str,
    *,
    version: str,
    digest: str | None = None,
    files: Digests = (),
    licences: Iterable[str] = (),
    about: Mapping[str, str | None],
    **more: Any,
) -> "Component":
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    sha256 = [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []
    parts = (
        Component(
            name=file,
            type=ComponentType.FILE,
            bom_ref=f"{reference}/file/{file}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content)],
        )
        for file, content in files
    )
    return Component(
        name=name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=reference,
        version=version,
        hashes=sha256,
        licenses=[_licence(one) for one in licences],
        components=parts,
        properties=[Property(name=key, value=value) for key, value in about.items() if value is not None],
        **more,
    )


def _licence(name: str) -> "License":
    """By its SPDX identifier where it has one, else by name."""
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.spdx import fixup_id

    known = fixup_id(name)
    return DisjunctiveLicense(id=known) if known else DisjunctiveLicense(name=name)


def _purl(entry: Input) -> "PackageURL | None":
    from packageurl import PackageURL

    found = package_url(entry.source)
    if found is None:
        return None
    organisation, model, commit = found
    return PackageURL(type="huggingface", namespace=organisation, name=model, version=commit)


def _model_card(
    lineage: Lineage, decision: Decision, folder: Path, licences: Check, figures: Iterable[Figure]
) -> dict[str, Any]:
    limits = [
        "Merged from the weights of the models in its pedigree without training: it can what its scores show, no more.",
        *decision.warnings,
        *([licences.warning] if licences.warning else []),
    ]
    return {
        "modelParameters": _architecture(folder),
        "quantitativeAnalysis": {"performanceMetrics": [_metric(figure) for figure in figures]},
        "considerations": {
            "technicalLimitations": limits,
            "performanceTradeoffs": [f"{result.verdict}: {result.text}" for result in decision.results],
        },
        "properties": [
            {"name": "widen:verdict", "value": decision.verdict.value},
            {"name": "widen:decision-digest", "value": lineage.decision_digest},
            {"name": "widen:confidence", "value": f"intervals are two-sided at {CONFIDENCE:g}"},
        ],
    }


def _architecture(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    names = config.get("architectures") or []
    held = {"architectureFamily": config.get("model_type"), "modelArchitecture": names[0] if names else None}
    known: dict[str, Any] = {key: value for key, value in held.items() if isinstance(value, str)}
    if names and str(names[0]).endswith("ForCausalLM"):
        text = [{"format": "text"}]
        known |= {"task": "text-generation", "inputs": text, "outputs": text}
    return known


def _metric(figure: Figure) -> dict[str, Any]:
    held: dict[str, Any] = {"type": figure.metric, "value": repr(figure.value), "slice": figure.label}
    if figure.lower is not None:
        held["confidenceInterval"] = {"lowerBound": repr(figure.lower), "upperBound": repr(figure.upper)}
    return held
