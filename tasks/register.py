"""Registration as a task: paths in, a version out. Tried again only when the registry does not answer."""

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.attest.keys import SigningKey
from registry.attest.record import attest
from registry.decision import Decision
from registry.errors import RegistryError, RegistryUnreachable
from registry.lineage import MANIFEST, SourceRecord, build
from registry.provenance import collect
from registry.registration import Evidence, Registered
from registry.registration import register as register_version
from registry.scorecard import Scorecard
from registry.store import Registry


def is_unreachable(_task: Any, _run: Any, state: Any) -> bool:
    """Whether a failed run may be tried again: only when nobody answered at the registry's address."""
    return isinstance(state.result(raise_on_failure=False), RegistryUnreachable)


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 8], retry_condition_fn=is_unreachable)
def register(
    registry: Registry,
    name: str,
    folder: Path,
    decision: Path,
    scorecards: dict[str, Path],
    sources: tuple[SourceRecord, ...],
    recipe: Path,
    merged: str,
    validation: Path | None = None,
    report: Path | None = None,
    flow_run: str | None = None,
    key: SigningKey | None = None,
) -> Registered:
    """Register the merged checkpoint in `folder` as a version of `name`, with everything that led to it.

    `decision` is the gate's file, `merged` the merged model's name in `scorecards`, `recipe` the recipe's file,
    `validation` the validation result's file and `report` the folder with its pages. A new version is attested before
    it exists (see registry.attest), and signed if there is a `key`. Raises RegistryError when one of them is missing
    or they speak of different models.
    """
    judged = Decision.from_json(_text(decision))
    cards = {model: Scorecard.from_json(_text(path)) for model, path in scorecards.items()}
    card = _named(merged, cards)
    checked = None if validation is None else _text(validation)
    lineage = build(folder / MANIFEST, sources, _text(recipe), judged, collect(), flow_run, checked)
    files = {f"scorecards/{model}.json": path for model, path in scorecards.items()}
    if validation is not None:
        files["validation.json"] = validation
    if report is not None:
        files["validation"] = report
    with tempfile.TemporaryDirectory() as made:
        complete = partial(attest, name=name, scorecards=cards, key=key, out=Path(made))
        return register_version(registry, name, Evidence(folder, lineage, judged, card, files), complete)


def _named(merged: str, scorecards: Mapping[str, Scorecard]) -> Scorecard:
    if merged not in scorecards:
        known = ", ".join(sorted(scorecards)) or "none"
        raise RegistryError(f"{merged}: no scorecard among {known}; evaluate it first")
    return scorecards[merged]


def _text(path: Path) -> str:
    if not path.is_file():
        raise RegistryError(f"{path}: not found; run the step that writes it first")
    return path.read_text(encoding="utf-8")
