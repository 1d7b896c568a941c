"""Is each model's change from the base sane? The only door to Great Expectations.

The expectations are kept in expectations/delta_sanity.json. An expectation of severity "critical" refuses, "warning"
warns; its `meta.text` says how a row that misses it is told.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import key_of, tell_table
from tasks.data_docs import offline_page
from tasks.delta_rows import COLUMNS, NETWORK, Bands, Row, delta_rows
from tasks.run_tables import validation_rows, validation_words
from widen.checks import Problem
from widen.errors import InputsRefused
from widen.staging import write_atomically
from widen.summary import ModelSummary

log = logging.getLogger(__name__)

SUITE = Path(__file__).parent / "expectations" / "delta_sanity.json"
SCHEMA = "widen-validation/1"
SHOWN = 10
INDEX = ("model", "tensor", "row")


@dataclass(frozen=True)
class ValidationResult:
    """The outcome: one line a refusal and a warning, and the sha256 of what was validated and found."""

    success: bool
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    digest: str

    @classmethod
    def from_json(cls, text: str) -> "ValidationResult":
        """Read back what `validate` wrote."""
        held = json.loads(text)
        return cls(held["success"], tuple(held["refusals"]), tuple(held["warnings"]), held["digest"])


@task(name="validate", cache_policy=NO_CACHE)
def validate(
    models: Sequence[ModelSummary], problems: Sequence[Problem], bands: Bands, direction_change_max: float, out: Path,
    least: int = 1,
) -> Path:  # fmt: skip
    """Write out/validation.json and out/validation/index.html, and return the former.

    bands: lowest and highest relative change of the network, by model. least: rows that must be there. Raises, after
    writing both, InputsRefused with the refusals: structural problems, NaN or infinity, a model equal to the base or to
    another, a direction change above `direction_change_max`, a relative change outside the band, or nothing measured at
    all. Untouched layers and changes far off their neighbours' only warn. Raises RecipeError, and writes nothing, for a
    model without a band.
    """
    asked = _asked(models, problems, bands, direction_change_max)
    if (passed := _passed_before(out, asked)) is not None:
        log.info("validation: nothing changed since it passed, %s stands", out / "validation.json")
        _tell_flow(out, passed)
        return out / "validation.json"
    rows = delta_rows(models, problems, bands)
    parameters = {"rows": max(least, len(rows)), "direction_change_max": direction_change_max}
    outcome, page = _run_suite(rows, parameters)
    refused, warned = _told(rows, outcome, "critical", parameters), _told(rows, outcome, "warning", parameters)
    networks = [row for row in rows if row["row"] == "network"]
    content = {
        "schema": SCHEMA,
        "asked": asked,
        "success": not refused,
        "refusals": refused,
        "warnings": warned,
        "direction_change_max": direction_change_max,
        "models": [{**_figures(row), "digest": one.digest} for one, row in zip(models, networks, strict=True)],
    }
    result = ValidationResult(not refused, tuple(refused), tuple(warned), _sha256(content))
    _write(out, content, result, offline_page(page, refused, warned, networks))
    _tell_flow(out, content)
    if refused:
        more = [f"... and {len(refused) - SHOWN} more"] if len(refused) > SHOWN else []
        raise InputsRefused("\n".join([*refused[:SHOWN], *more, f"see {out / 'validation' / 'index.html'}"]))
    return out / "validation.json"


def _asked(
    models: Sequence[ModelSummary], problems: Sequence[Problem], bands: Bands, direction_change_max: float
) -> str:
    """One digest of everything that the outcome is a function of."""
    figures = {
        "models": [repr(model) for model in models],
        "problems": [asdict(problem) for problem in problems],
        "bands": {model: list(band) for model, band in bands.items()},
        "direction_change_max": direction_change_max,
        "suite": SUITE.read_text(encoding="utf8"),
    }
    return _sha256(figures)


def _passed_before(out: Path, asked: str) -> dict[str, Any] | None:
    try:
        held = json.loads((out / "validation.json").read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    same = isinstance(held, dict) and held.get("asked") == asked and held.get("success") is True
    return held if same and (out / "validation" / "index.html").is_file() else None


def _tell_flow(out: Path, content: Mapping[str, Any]) -> None:
    """Leave the figures on the flow run's page."""
    tell_table(key_of(out.name, "validation"), validation_rows(content), validation_words(content))


def _figures(row: Row) -> dict[str, Any]:
    keys = ("model", "elements", "changed", "relative_change", "direction_change", "lo", "hi")
    return {key: None if isinstance(row[key], float) and not isfinite(row[key]) else row[key] for key in keys}


def _sha256(content: Mapping[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(out: Path, content: Mapping[str, Any], result: ValidationResult, page: str) -> None:
    (out / "validation").mkdir(parents=True, exist_ok=True)
    write_atomically(out / "validation" / "index.html", page.encode())
    write_atomically(out / "validation.json", _canonical({**content, "digest": result.digest}).encode())


# ---------------------------------------------------------------- Great Expectations


def _run_suite(rows: Sequence[Row], parameters: Mapping[str, Any]) -> tuple[Sequence[Any], str]:
    """Each expectation's result in the suite's order, and the page of results as the library renders it."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    import pandas as pd
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view.view import DefaultJinjaPageView

    suite = json.loads(SUITE.read_text(encoding="utf8"))
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)  # else it leaves a folder in /tmp
    context = gx.get_context(mode="ephemeral", project_config=DataContextConfig(store_backend_defaults=stores))
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("models").add_dataframe_asset("changes from the base")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    batch = asset.add_batch_definition_whole_dataframe("all rows").get_batch(batch_parameters={"dataframe": frame})
    result = batch.validate(
        gx.ExpectationSuite(**suite),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": list(INDEX)},
        expectation_parameters=dict(parameters),
    )
    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    place = {config["meta"]["text"]: i for i, config in reversed(list(enumerate(suite["expectations"])))}
    return sorted(result.results, key=lambda one: place[one.expectation_config.meta["text"]]), str(page)


def _told(rows: Sequence[Row], outcome: Sequence[Any], severity: str, parameters: Mapping[str, Any]) -> list[str]:
    """The lines for what was missed at this severity, in the suite's order; causes stand in for their symptoms."""
    found = {(row["model"], row["tensor"]) for row in rows if row["row"] == "problem"}
    explained = {
        row["model"] for row in rows if row["row"] == "network" and (row["nan"] or row["inf"] or not row["changed"])
    }
    lines = []
    for missed in (one for one in outcome if not one.success):
        config = missed.expectation_config
        if str(config.severity).split(".")[-1].lower() != severity:
            continue
        for row in _missed_rows(rows, missed):
            told_by_problem = row["row"] == "tensor" and (row["model"], row["tensor"]) in found
            if told_by_problem or (config.meta.get("symptom") and row["model"] in explained):
                continue
            lines.append(config.meta["text"].format(**{**parameters, **row}))
    return lines


def _missed_rows(rows: Sequence[Row], missed: Any) -> Iterator[Row]:
    if missed.exception_info.get("raised_exception"):
        raise AssertionError(f"{missed.expectation_config.type}: {missed.exception_info}")
    entries = missed.result.get("unexpected_index_list")
    if entries is None:  # about the table, not about a row
        yield _row_of_all(missed.result)
        return
    held = {tuple(row[key] for key in INDEX): row for row in rows}
    for entry in entries:
        row = held[tuple(entry[key] for key in INDEX)]
        yield {**row, "problem": entry.get("problem", row["problem"])}


def _row_of_all(result: Mapping[str, Any]) -> Row:
    return {"model": "(all models)", "tensor": NETWORK, "row": "table", **result}
