"""The report's task on a real family of checkpoints: a run's files in, the logged page out, the flow's page told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import widen
from flows.report import save_report
from registry.errors import RegistryError
from registry.gate import Absolute, decide
from registry.lineage import MANIFEST, SourceRecord, build
from registry.pages import VALUES
from registry.provenance import Provenance
from registry.registration import Evidence, register
from registry.report import Report
from registry.scorecard import Scorecard
from registry.store import Registry
from registry.versions import read_artifact, resolve
from tasks import report as door
from tasks.fetch import Fetched
from tasks.measure import measure
from tests.build import family
from tests.registry.conftest import task_scores

Run = Callable[..., Path]


@pytest.fixture
def run(local: Registry, tmp_path: Path) -> Run:
    """Everything before the report; returns a call that draws it."""
    folders = family(tmp_path / "sources")
    sources = [Fetched(folder.name, folder, "p", None, None, None, None) for folder in folders]
    runs, cache, merged = tmp_path / "runs", tmp_path / "cache", tmp_path / "merged"
    measurements = measure.fn(sources, widen.Settings(), (), "cpu", cache, runs / "measurements.json")
    manifest = widen.merge(folders[0], folders[1:], merged, resources=widen.Resources("cpu", cache=cache))
    cards = {
        "merged": Scorecard("merged", manifest.digest, "h", (task_scores(80, 100),)),
        "base": Scorecard("base", manifest.inputs[0].digest, "h", (task_scores(40, 100),)),
    }
    (runs / "scorecards").mkdir()
    for name, card in cards.items():
        (runs / "scorecards" / f"{name}.json").write_text(card.to_json())
    decision = decide((Absolute("app_en", "acc", floor=0.5),), cards["merged"], cards["base"], {}, 0.05)
    (runs / "gate.json").write_text(decision.to_json())
    ran = Provenance(None, False, "0.1", "CPython", "Linux", ())
    records = tuple(SourceRecord(one.name, "p") for one in sources)
    lineage = build(merged / MANIFEST, records, "name: quickstart\n", decision, ran)
    register(local, "quickstart", Evidence(merged, lineage, decision, cards["merged"]))

    def call(**changed: Path) -> Path:
        files = {
            "decision": runs / "gate.json",
            "measurements": measurements,
            "merged": merged,
            "scorecards": runs / "scorecards",
        } | changed
        found: Path = door.report.fn(
            local, "quickstart", 1, sources, widen.Settings(), (), cache, files, {"merge": 1.5}, runs / "report.html"
        )
        return found

    return call


def test_a_runs_files_become_the_versions_page(run: Run, local: Registry, tmp_path: Path) -> None:
    page = run()
    logged = Report.from_json(read_artifact(local, resolve(local, "quickstart").version, VALUES))
    assert page.read_text() == read_artifact(local, resolve(local, "quickstart").version, "report.html")
    assert [one.model for one in logged.changes] == ["m1", "m2"]
    assert logged.changes[1].relative == pytest.approx(0.5, rel=0.05)
    assert {one.model for one in logged.standings} == {"m1", "m2"}
    assert len(logged.standings) == 2 * len(logged.changes[0].tensors)
    assert logged.stages[0].seconds == 1.5
    assert logged.reuse is not None
    assert dict(logged.reuse.computed) == {"no earlier output": 21}
    assert logged.standing == "a candidate, not the champion"
    save_report("quickstart@candidate", tmp_path / "work space", None, tmp_path / "copy.html")
    assert (tmp_path / "copy.html").read_text() == page.read_text()


def test_a_missing_file_is_named_with_the_next_step(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"absent\.json: not found; run the step that writes it first"):
        run(measurements=tmp_path / "absent.json")


def test_the_flows_page_tells_verdict_scores_and_link(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import prefect.artifacts
    import prefect.runtime.flow_run

    told: dict[str, Any] = {}
    monkeypatch.setattr(prefect.runtime.flow_run, "get_id", lambda: "run-1")
    monkeypatch.setattr(
        prefect.artifacts, "create_markdown_artifact", lambda markdown, key, **_: told.update({key: markdown})
    )
    monkeypatch.setattr(prefect.artifacts, "create_table_artifact", lambda table, key, **_: told.update({key: table}))
    monkeypatch.setattr(prefect.artifacts, "create_link_artifact", lambda link, key, **_: told.update({key: link}))
    page = run()
    assert set(told) == {"merge-verdict", "merge-report", "merge-scores", "merge-gate"}
    assert told["merge-verdict"].startswith("✓ PASS: ")
    assert "0.8000 [" in told["merge-verdict"]
    assert told["merge-report"] == page.resolve().as_uri()


def test_stations_leave_their_seconds() -> None:
    from types import SimpleNamespace

    from flows.road import timed

    @timed
    def station(road: Any, fails: bool) -> str:
        if fails:
            raise ValueError("no")
        return json.dumps(fails)

    road: Any = SimpleNamespace(seconds={})
    assert station(road, False) == "false"
    assert 0 <= road.seconds.pop("station") < 1
    with pytest.raises(ValueError, match="no"):
        station(road, True)
    assert list(road.seconds) == ["station"]
