"""What a flow run's page tells: tables, the story and progress, as values and on a real Prefect server."""

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from registry.lineage import Lineage
from registry.report import Report
from tasks import flow_progress as door
from tasks.artifacts import key_of, tell_table
from tasks.flow_progress import flow_progress
from tasks.merge import merge
from tasks.run_story import tell
from tasks.run_tables import clause_rows, score_rows, validation_rows, validation_words
from tasks.sources import Fetched
from tests.build import family
from tests.flows.machine import asked_of, bare_environment, prefect_server
from tests.registry.test_report import report_of
from widen import Settings
from widen.manifest import Recipe
from widen.progress import Plain, Silent, Together


@pytest.mark.parametrize(
    ("recipe", "key"), [("Quick.Start_2", "quick-start-2-gate"), ("--", "recipe-gate"), ("q", "q-gate")]
)
def test_a_key_is_lower_case_letters_digits_and_dashes(recipe: str, key: str) -> None:
    assert key_of(recipe, "gate") == key


# The tables


def test_every_model_and_task_has_a_row_with_its_bounds() -> None:
    rows = score_rows(report_of())
    assert [(row["task"], row["model"]) for row in rows] == [
        (task, model) for task in ("app acc", "text bits_per_byte") for model in ("base", "tagger", "merged")
    ]
    assert rows[2]["value"] == "0.8000"
    assert rows[2]["bounds"].startswith("[0.7")
    assert {row["which way"] for row in rows[3:]} == {"lower is better"}


def test_every_clause_has_a_row_with_its_verdict() -> None:
    rows = clause_rows(report_of(30).decision)
    assert [row["verdict"] for row in rows] == ["✗ FAIL", "✓ PASS", "✗ FAIL"]
    assert "needs at least 0.6" in rows[0]["found"]
    assert rows[0]["question"] == "app acc: at least 0.6"


def test_the_validation_is_told_with_what_was_allowed() -> None:
    figures = {"model": "m", "elements": 2000, "changed": 1500, "relative_change": 0.023, "lo": 0.001, "hi": 0.2}
    content = {
        "success": False,
        "refusals": ["m: changed too much"],
        "warnings": ["m: layer 3 is untouched"],
        "direction_change_max": 0.5,
        "models": [{**figures, "direction_change": 0.0002567}, {**figures, "direction_change": None}],
    }
    first, second = validation_rows(content)
    assert (first["relative change"], first["allowed"]) == ("2.3%", "0.1% to 20%")
    assert (first["direction change"], first["at most"]) == ("0.0002567", "0.5000")
    assert first["elements changed"] == "1,500 of 2,000"
    assert second["direction change"] == "undefined"
    words = validation_words(content).splitlines()
    assert words == ["Refused.", "- refused: m: changed too much", "- warning: m: layer 3 is untouched"]


# The story


def moved(report: Report, **changes: Any) -> Lineage:
    """The report's lineage as it was before: the tagger at another commit with other content."""
    tagger = report.lineage.inputs[1]
    source = dataclasses.replace(tagger.source, rev="v0", commit="9" * 40)
    old = dataclasses.replace(tagger, source=source, digest="8" * 64)
    return dataclasses.replace(report.lineage, inputs=(report.lineage.inputs[0], old), **changes)


def test_the_story_says_what_moved_what_was_reused_and_where_to_look() -> None:
    report = report_of()
    text = tell(report, (2, moved(report)), [("report", "`page.html`")])
    assert text.startswith("✓ PASS: ")
    assert "**What moved** since version 2" in text
    assert "| base | v1 (cccccccc) | v1 (cccccccc) | the same |" in text
    assert "| tagger | v0 (99999999) | v1 (cccccccc) | **888888888888 → cccccccccccc** |" in text
    assert "edited" not in text
    assert (
        "**Reused**: 5 tensors taken from the output before, verified by digest; computed: 7 because settings" in text
    )
    assert "merge 1.2 s" in text
    assert "- report: `page.html`" in text


def test_the_story_of_an_edited_recipe_a_dropped_source_and_a_first_run() -> None:
    report = report_of()
    before = moved(report, recipe_digest="0" * 64)
    assert "The recipe itself was edited since." in tell(report, (2, before), [])
    dropped = dataclasses.replace(before.inputs[1], source=dataclasses.replace(before.inputs[1].source, name="old"))
    text = tell(report, (2, dataclasses.replace(before, inputs=(*before.inputs, dropped))), [])
    assert "| old | v0 (99999999) | no longer used | |" in text
    assert "there was no champion" in tell(report, None, [])
    assert "cannot be read any more" in tell(report, (2, None), [])


# Without a flow run, and without a server


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prefect's address is one at which nobody is."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield


def merged(folder: Path) -> Path:
    sources = [Fetched(one.name, one, "p", None, None, None, None) for one in family(folder / "sources")]
    recipe, cache = Recipe("q", "0" * 64), folder / "cache"
    out: Path = merge.fn(sources, Settings(), recipe, (), "cpu", cache, folder / "merged")
    return out


def test_a_station_called_plainly_asks_no_server(
    nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import prefect.artifacts
    import prefect.client.orchestration

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("asked a server")

    for module in (prefect.artifacts, prefect.client.orchestration):
        monkeypatch.setattr(module, "get_client", refuse)
    assert (merged(tmp_path) / "widen-manifest.json").is_file()
    tell_table("q-gate", [{"a": 1}], "a table")
    with flow_progress("q-merge") as told, told.stage("merge", 10) as advance:
        advance(10)
    assert caplog.records == []


def test_a_server_that_does_not_answer_is_a_warning_and_the_merge_goes_on(
    nobody: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import prefect.artifacts
    import prefect.runtime.flow_run

    monkeypatch.setattr(prefect.runtime.flow_run, "get_id", lambda: "run-1")
    monkeypatch.setattr(prefect.artifacts, "get_run_context", lambda: None)  # a run's, which there is none of here
    with caplog.at_level(logging.WARNING, "tasks"):
        assert (merged(tmp_path) / "widen-manifest.json").is_file()
        tell_table("q-gate", [{"a": 1}], "a table")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("tasks")]
    assert [line.partition(":")[0] for line in lines] == [
        "the flow run's page lacks q-merge",
        "the flow run's page lacks q-gate",
    ]


def test_listeners_are_told_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    class Heard(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    heard = Heard()
    both = Together(Plain(sys.stdout), heard)
    both.note("one")
    with both.stage("merge", 10) as advance:
        advance(2_000_000)
    assert heard.notes == ["one"]
    assert capsys.readouterr().out.startswith("one\nmerge: 2 MB in ")


# On a real server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a machine whose Prefect server runs."""
    place = tmp_path_factory.mktemp("machine")
    environment = bare_environment(place)
    with prefect_server(environment, place / "server.log"):
        yield environment


def artifacts(server: dict[str, str], **of: str) -> dict[str, Any]:
    """The newest of each key."""
    asked = {"artifacts": {"key": {"like_": of["key"]}}} if of else {}
    found = asked_of(server, "/artifacts/filter", {"sort": "CREATED_DESC", "limit": 200, **asked})
    newest: dict[str, Any] = {}
    for one in found:
        if one["key"]:
            newest.setdefault(one["key"], one)
    return newest


@pytest.mark.slow
def test_progress_is_drawn_while_it_goes_at_most_once_a_second(
    server: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_URL, temporary_settings

    sent: list[float] = []
    update = SyncPrefectClient.update_artifact

    def counted(*given: Any) -> Any:
        sent.append(time.monotonic())
        return update(*given)

    monkeypatch.setattr(SyncPrefectClient, "update_artifact", counted)
    seen: list[tuple[float, str]] = []

    def look() -> tuple[float, str]:
        found = artifacts(server, key="slow-merge")["slow-merge"]
        return found["data"], found["description"]

    @flow
    def work(ends: bool) -> None:
        with flow_progress("slow-merge") as told:
            told.note("device: cpu")
            with told.stage("merge", 4_000_000) as advance:
                for _ in range(100):
                    advance(10_000)
                deadline = time.monotonic() + 30
                while time.monotonic() < deadline and look()[0] != 25:
                    time.sleep(0.2)
                seen.append(look())
                if not ends:
                    raise OSError("disk full")
                advance(3_000_000)
            told.note("reuse: 5 tensors")

    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        work(True)
        ended = look()
        with pytest.raises(OSError, match="disk full"):
            work(False)
        stopped = look()
    assert seen == [(25, "merge: 1.0 of 4.0 MB")] * 2
    assert ended == (100, "device: cpu\n\nmerge: 4.0 of 4.0 MB\n\nreuse: 5 tensors")
    assert stopped == (25, "device: cpu\n\nstopped at merge: 1.0 of 4.0 MB")
    assert len(sent) <= 6
    gaps = [late - early for early, late in pairwise(sent)]
    assert sum(gap < door.PAUSE_S * 0.9 for gap in gaps) <= 2  # the last words alone come sooner
