"""`widen status`: from ledgers, run folders and a registry to what a person and a monitor are told."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from flows.assets import asset
from flows.services.running import Running, services_folder
from flows.status.found import Service
from flows.status.page import ago, pin, show
from flows.status.show import NeedsAttention, show_status
from flows.status.values import Found, LastRun, RecipeStatus, recipe_status
from registry.entry import Entry
from registry.glance import Glance
from tasks.ledger import write_ledger
from tasks.sources import Source
from tasks.updates import Ledger, Look, Outcome, Update, noted
from tasks.upstream import Pin, State, Upstream
from tasks.workspace import create_workspace
from tests.flows.conftest import ROOT
from widen.errors import RecipeError

NOW = 1_800_000_000.0
OLD = Pin("tagger-v1", "1" * 40, "a" * 64)
NEW = Pin("tagger-v1.10", "2" * 40, "b" * 64)
BASE = Pin("main", "3" * 40, "c" * 64)
SOURCES = (Source("base", "checkpoints/base", "../hub", "main"), Source("tagger", "tagger", "../hub", "tagger-v>=1,<2"))
BEFORE = Update("quickstart-000000000000", "recipes/q.yaml", {"base": BASE, "tagger": OLD}, ("first run",), NOW - 900)
UPDATE = Update(
    "quickstart-111111111111", "recipes/q.yaml", {"base": BASE, "tagger": NEW},
    ("tagger: tagger-v1 (111111111111) -> tagger-v1.10 (222222222222)",), NOW - 60,
)  # fmt: skip
ENTRY = Entry(
    1, "promotion", "quickstart", None, 1, "d", "d", "PASS", "Ada <a@b>", "the gate passed", "2027-01-15", None, "0"
)


def ledger(state: State = "same", seen: Pin = NEW, note: str = "") -> Ledger:
    """A recipe that was promoted with OLD, and whose tagger is now `seen` in `state`."""
    looks = {
        "base": Look("base", "p", "same", BASE, "", NOW - 5, NOW - 5),
        "tagger": Look("tagger", "p", state, seen, note, NOW - 5, NOW - 3600),
    }
    done = {BEFORE.id: Outcome("promoted", NOW - 800, "version 1 is the champion", version=1)}
    return Ledger(
        "quickstart", "recipes/q.yaml", looks=looks, checked_at=NOW - 5, next_check=NOW + 10, update=BEFORE,
        outcomes=done, last=BEFORE,
    )  # fmt: skip


def told(
    held: Ledger, alive: bool = False, champion: Glance | str | None = None, run: LastRun | None = None
) -> RecipeStatus:
    glance = Glance(1, ENTRY) if champion is None else champion
    found = Found("quickstart", "recipes/q.yaml", held, SOURCES, "", "quickstart", run, glance, "--workspace W")
    return recipe_status(found, NOW, alive, 10.0)


def after(outcome: Outcome, **more: Any) -> Ledger:
    held = ledger("same")
    return replace(held, update=UPDATE, outcomes={**held.outcomes, UPDATE.id: outcome}, **more)


# What is told of a source


@pytest.mark.parametrize(
    ("state", "seen", "moved", "words", "trouble"),
    [
        ("same", OLD, (), "up to date", False),
        ("fixed", OLD, (), "up to date, fixed", False),
        ("moved", NEW, (), "newer waiting", False),
        ("same", NEW, (), "newer waiting", False),  # looked at twice before the run
        ("rewritten", NEW, (), "newer waiting, force-pushed", False),
        ("same", NEW, ("tagger: main (1) -> main (2) (rewritten)",), "newer waiting, force-pushed", False),
        ("rewritten", OLD, (), "up to date", False),  # other commits, the same content
        ("retagged", OLD, (), "the tag was moved: NOTE", True),
        ("gone", OLD, (), "deleted upstream: NOTE", True),
        ("unreachable", OLD, (), "hub unreachable: NOTE", True),
    ],
)
def test_a_source_is_told_in_words(state: State, seen: Pin, moved: tuple[str, ...], words: str, trouble: bool) -> None:
    held = ledger(state, seen, "NOTE" if trouble else "")
    one = told(replace(held, update=replace(UPDATE, moved=moved)) if moved else held).sources[1]
    assert (one.words, one.trouble) == (words, trouble)
    assert (one.follows, one.used, one.upstream) == ("tagger-v>=1,<2", OLD, seen)


def test_a_source_that_nobody_looked_at_goes_by_the_last_run() -> None:
    one = told(Ledger("quickstart"), run=LastRun({"tagger": replace(OLD, content="")})).sources[1]
    assert (one.state, one.words, one.used) == ("unknown", "not looked at yet", replace(OLD, content=""))
    looked = replace(ledger("fixed", OLD), last=None, update=None, outcomes={})
    assert told(looked, run=LastRun({"tagger": replace(OLD, content="")})).sources[1].words == "up to date, fixed"
    assert told(looked).sources[1].words == "not merged yet"


def test_since_when_a_hub_is_silent_is_kept_from_look_to_look() -> None:
    held = Ledger("quickstart")
    source = SOURCES[1:]
    for at, state in ((1.0, "same"), (2.0, "unreachable"), (3.0, "unreachable")):
        held = noted(held, source, [Upstream("tagger", state, OLD, "")], "digest", "recipes/q.yaml", at)  # type: ignore[arg-type]
    assert (held.looks["tagger"].at, held.looks["tagger"].since) == (3.0, 2.0)


# What is told of a recipe


@pytest.mark.parametrize(
    ("outcome", "alive", "state", "words", "due", "troubles"),
    [
        (Outcome("asked", NOW - 1), False, "asked", "asked for, not begun", True, 0),
        (Outcome("asked", NOW - 1), True, "asked", "waiting for the run that holds the workspace", False, 0),
        (Outcome("running", NOW - 9, flow_run="f"), True, "running", "running", False, 0),
        (Outcome("running", NOW - 9, flow_run="f"), False, "failed", "the run died", True, 1),
        (Outcome("promoted", NOW, "why", version=2), False, "promoted", "promoted: version 2", False, 0),
        (Outcome("unchanged", NOW, "why", version=2), False, "unchanged", "unchanged: version 2", False, 0),
        (Outcome("held", NOW, "the gate says FAIL", version=2), False, "held", "held: version 2", False, 1),
        (Outcome("held", NOW, "refused"), False, "held", "held", False, 1),
        (Outcome("held", NOW, "FAIL", version=1), False, "promoted", "promoted by a person: version 1", False, 0),
        (Outcome("failed", NOW, "disk full", transient=True), False, "failed", "failed", True, 1),
        (Outcome("failed", NOW, "a bug", bugs=5), False, "failed", "failed", False, 1),
    ],
)
def test_an_outcome_is_told_with_what_comes_next(
    outcome: Outcome, alive: bool, state: str, words: str, due: bool, troubles: int
) -> None:
    one = told(after(outcome), alive)
    assert (one.state, one.words, one.due is not None, len(one.troubles)) == (state, words, due, troubles)


def test_a_failure_names_the_next_attempt() -> None:
    one = told(after(Outcome("failed", NOW - 10, "disk full", transient=True, attempts=2)))
    assert one.due == NOW + 110  # the second pause is of two minutes
    assert one.reason == "disk full"
    assert one.troubles == ("quickstart: failed: disk full",)


def test_a_held_candidate_names_its_report_and_the_way_around() -> None:
    run = LastRun({}, NOW, "quickstart", 2, "FAIL", "runs/quickstart/report.html")
    one = told(after(Outcome("held", NOW, "the gate says FAIL", version=2)), run=run)
    assert one.next == (
        "widen report quickstart/2 --workspace W",
        "widen promote quickstart/2 --workspace W --override 'WHY'",
    )
    assert (one.report, one.verdict, one.moved) == ("runs/quickstart/report.html", "FAIL", UPDATE.moved)


def test_while_an_update_waits_what_came_before_is_told_too() -> None:
    held = replace(after(Outcome("held", NOW, "FAIL", version=2)), last=UPDATE)
    waiting = replace(held, update=replace(UPDATE, id="quickstart-2", seen_at=NOW - 2), moving_since=NOW - 2)
    one = told(waiting)
    assert (one.state, one.due, one.before) == ("waiting", NOW + 8, held.outcome)
    assert one.troubles == ()


def test_without_a_ledger_the_run_folder_tells() -> None:
    blank = Ledger("quickstart")
    assert told(blank).state == "never"
    assert told(blank).next == ("widen run recipes/q.yaml --workspace W",)
    failed = told(blank, run=LastRun({}, NOW, "quickstart", 2, "FAIL"))
    assert (failed.state, failed.reason, len(failed.troubles)) == ("held", "the gate says FAIL", 1)
    assert told(blank, run=LastRun({}, NOW, "quickstart", 2, "PASS")).state == "passed"
    assert told(blank, run=LastRun({}, NOW, "quickstart", 1, "FAIL")).state == "promoted"


def test_of_a_recipe_that_is_not_followed_nothing_is_due_and_no_hub_is_missed() -> None:
    held = ledger("unreachable", note="NOTE")
    found = Found("quickstart", "recipes/q.yaml", held, SOURCES, "", "quickstart", None, None, "", followed=False)
    one = recipe_status(found, NOW, False, 10.0)
    assert (one.due, one.troubles) == (None, ())
    assert "not followed: the recipe says `follow: false`" in "\n".join(page(WIDE, one))
    assert len(recipe_status(replace(found, followed=True), NOW, False, 10.0).troubles) == 1


def test_a_registry_out_of_reach_hides_nothing_else() -> None:
    one = told(after(Outcome("held", NOW, "FAIL", version=2)), champion="registry http://x: no answer")
    assert one.champion is None
    assert one.troubles == ("quickstart: registry http://x: no answer", "quickstart: held: version 2: FAIL")


# How it looks

WIDE = 120
LONG = Source("continued-pretraining-indonesian", "models/sailor", "https://hub.example.org/m", "release-candidate-*")


def page(width: int, *recipes: RecipeStatus) -> list[str]:
    console = Console(width=width, highlight=False, color_system=None)
    services = [
        Service("prefect", "well", "answers at http://127.0.0.1:4200"),
        Service("watch", "stopped", "not running"),
    ]
    with console.capture() as drawn:
        show(console, "W", None, recipes, services, NOW)
    return [line.rstrip() for line in drawn.get().splitlines()]


def everything() -> tuple[RecipeStatus, ...]:
    """One of each kind, with names and reasons as long as they get."""
    reason = "quickstart version 2 is not promoted: the gate says FAIL: app_en/acc: merged 0.5 against champion 0.6"
    note = "fatal: unable to access 'https://hub.example.org/m': Could not resolve host; staying at release-candidate-7"
    held = told(after(Outcome("held", NOW - 200_000, reason, version=2, flow_run="0" * 8)))
    silent = ledger("unreachable", OLD, note)
    long = replace(silent, looks={**silent.looks, LONG.name: replace(silent.looks["tagger"], name=LONG.name)})
    found = Found("q", "recipes/q.yaml", long, (*SOURCES, LONG), "", "q", None, None, "--workspace W")
    broken = Found("bad", "recipes/bad.yaml", Ledger("bad"), fault="recipes/bad.yaml: 1 problem: no such key")
    return (
        held,
        told(ledger("same", NEW)),
        *(recipe_status(one, NOW, False, 10.0) for one in (found, broken)),
    )


@pytest.mark.parametrize("width", [60, 80, WIDE])
def test_the_page_holds_at_every_width(width: int) -> None:
    lines = page(width, *everything())
    commands = [line for line in lines if line.startswith("  next ")]
    assert len(commands) == 2
    assert all(len(line) <= width for line in lines if line not in commands)
    shown = "\n".join(lines)
    words = set(re.findall(r"[A-Za-z0-9@<>=,.'*_/-]+", shown))
    kept = "tagger-v>=1,<2 tagger-v1.10 release-candidate-* unreachable promoted: quickstart/2 rewritten".split()[:4]
    assert set(kept) <= words
    assert LONG.name in words
    # No column so narrow that a word stands in pieces: what is alone on its line is a whole word of the facts.
    alone = {line.strip() for line in lines if re.fullmatch(r"\s+[a-z]{1,3}", line)}
    assert alone <= {"the", "at", "to", "is", "not"}


def test_at_120_columns_sources_stand_in_a_table_and_where_none_fits_in_lines() -> None:
    wide = page(WIDE, told(ledger("moved", NEW)))
    assert (
        "  tagger  tagger-v>=1,<2  tagger-v1 11111111 aaaaaaaa  newer waiting: tagger-v1.10 22222222 bbbbbbbb" in wide
    )
    narrow = page(60, told(ledger("moved", NEW)))
    assert "    follows    tagger-v>=1,<2" in narrow
    assert "    used last  tagger-v1 11111111 aaaaaaaa" in narrow


def test_the_page_of_a_held_candidate() -> None:
    run = LastRun({}, NOW, "quickstart", 2, "FAIL", "runs/quickstart/report.html")
    lines = page(WIDE, told(after(Outcome("held", NOW - 90, "the gate says FAIL", version=2, flow_run="F")), run=run))
    assert lines[2:12] == [
        "quickstart  recipes/q.yaml",
        "  champion   version 1 since 2027-01-15 by Ada <a@b> (promotion: the gate passed)",
        "  state      held: version 2, 2 min ago (2027-01-15T07:58:30Z)",
        "  why        the gate says FAIL",
        f"  moved      {UPDATE.moved[0]}",
        "  before     promoted: version 1, 13 min ago (2027-01-15T07:46:40Z)",
        "  watch      looked 5 s ago (2027-01-15T07:59:55Z), next look in 10 s (2027-01-15T08:00:10Z)",
        "  report     runs/quickstart/report.html",
        "  flow run   F",
        "  source  follows         used last                    upstream",
    ]
    assert "  next       widen promote quickstart/2 --workspace W --override 'WHY'" in lines
    assert "prefect    answers at http://127.0.0.1:4200" in lines


@pytest.mark.parametrize(
    ("planned", "words"),
    [(NOW + 60, "next look in 1 min"), (NOW - 3, "next look was due 3 s ago"), (NOW - 60, None), (None, None)],
)
def test_a_look_that_is_late_is_told(planned: float | None, words: str | None) -> None:
    (line,) = [one for one in page(WIDE, told(replace(ledger(), next_check=planned))) if one.startswith("  watch")]
    assert (words in line) if words else line.endswith("Z)")
    assert ("next" in line) == (words is not None)


@pytest.mark.parametrize(
    ("held", "short"),
    [(None, "-"), (OLD, "tagger-v1 11111111 aaaaaaaa"), (Pin("1" * 40, "1" * 40, "b" * 64), "11111111 bbbbbbbb"),
     (Pin(None, None, "c" * 64), "cccccccc")],
)  # fmt: skip
def test_a_pin_in_short(held: Pin | None, short: str) -> None:
    assert pin(held) == short


def test_times_are_words_and_exact() -> None:
    assert ago(NOW - 7200, NOW) == "2 h ago (2027-01-15T06:00:00Z)"
    assert ago(NOW + 90_000, NOW) == "in 1 d (2027-01-16T09:00:00Z)"


# The command


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two recipes, made once."""
    files = {f"recipes/{name}.yaml": asset(f"recipes/{name}.yaml").read_text() for name in ("quickstart", "template")}
    return create_workspace(tmp_path_factory.mktemp("made") / "work", files)


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "work"))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ports at which nobody is, and nothing left behind in the environment."""
    import os

    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in ("PREFECT_API_URL", "WIDEN_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WIDEN_PREFECT_PORT", "9")
    monkeypatch.setenv("WIDEN_MLFLOW_PORT", "10")


def status(workspace: Path, capsys: pytest.CaptureFixture[str], *asked: str, check: bool = False) -> Any:
    show_status(asked, workspace, as_json=True, check=check, again=None)
    return json.loads(capsys.readouterr().out)


def test_where_nothing_ever_ran_and_nothing_answers(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = status(workspace, capsys, check=True)
    assert [one["name"] for one in held["recipes"]] == ["quickstart"]  # the template is not followed
    assert held["recipes"][0]["state"] == "never"
    assert held["recipes"][0]["champion"] is None
    assert [(one["name"], one["state"]) for one in held["services"]] == [
        (name, "stopped") for name in ("prefect", "mlflow", "worker", "watch")
    ]
    assert held["troubles"] == []


def test_a_held_candidate_ends_a_check_with_4(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ledger(workspace, after(Outcome("held", NOW, "the gate says FAIL", version=2)))
    with pytest.raises(NeedsAttention, match="quickstart: held: version 2: the gate says FAIL") as caught:
        show_status((), workspace, as_json=True, check=True, again=None)
    assert caught.value.exit_code == 4
    held = json.loads(capsys.readouterr().out)
    assert held["recipes"][0]["at"] == "2027-01-15T08:00:00Z"
    assert held["recipes"][0]["before"]["state"] == "promoted"
    show_status(("quickstart",), workspace, as_json=False, check=False, again=None)
    assert "held: version 2" in capsys.readouterr().out


def test_what_is_damaged_is_told_and_hides_nothing_else(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace / "recipes" / "bad.yaml").write_text("name: bad\nmerge: {model: 1}\n")
    shutil.copy(workspace / "recipes" / "quickstart.yaml", workspace / "recipes" / "second.yaml")
    folder = workspace / ".widen" / "follow"
    folder.mkdir()
    (folder / "quickstart.json").write_text("{")
    runs = workspace / "runs" / "quickstart"
    runs.mkdir(parents=True)
    (runs / "registered.json").write_text("{")
    database = workspace / ".widen" / "registry" / "mlflow.db"
    database.parent.mkdir()
    database.write_text("no database")
    held = {one["name"]: one for one in status(workspace, capsys)["recipes"]}
    assert "bad.yaml" in held["bad"]["fault"]
    assert "quickstart.json" in held["quickstart"]["fault"]
    assert "not a database" in held["quickstart"]["champion_fault"]
    assert "belongs to recipes/quickstart.yaml" in held["recipes/second.yaml"]["fault"]


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(workspace: Path) -> None:
    with pytest.raises(RecipeError, match="recipe absent: neither a file nor one of quickstart"):
        show_status(("absent",), workspace, as_json=True, check=False, again=None)


def test_services_are_told_by_what_answers(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Well) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("WIDEN_PREFECT_PORT", str(server.server_port))
        holding = HOLD.format(folder=str(workspace), address="http://127.0.0.1:9")
        process = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE, cwd=ROOT, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            held = status(workspace, capsys)
        finally:
            process.kill()
            process.communicate()
            server.shutdown()
            thread.join()
    assert [one["state"] for one in held["services"]] == ["well", "silent", "stopped", "well"]
    assert held["services"][3]["words"] == f"runs, process {process.pid}"
    assert held["troubles"] == [f"mlflow: process {process.pid} does not answer at http://127.0.0.1:9"]
    assert (services_folder(workspace) / "watch.running").is_file()


def test_a_server_that_is_named_must_answer(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:11/api")
    monkeypatch.setenv("WIDEN_REGISTRY", "http://127.0.0.1:12")
    told = status(workspace, capsys)["troubles"]
    assert told[1:] == [
        "prefect: nobody answers at http://127.0.0.1:11",
        "mlflow: nobody answers at http://127.0.0.1:12",
    ]
    assert told[0].startswith("quickstart: registry http://127.0.0.1:12: no answer")


HOLD = f"""
import os, sys, time
from pathlib import Path
from flows.services.running import {Running.__name__}, hold
hold(Path({{folder!r}}), Running("watch", os.getpid()))
hold(Path({{folder!r}}), Running("mlflow", os.getpid(), {{address!r}}))
print("held", flush=True)
time.sleep(60)
"""


def test_it_loads_nothing_heavy(workspace: Path) -> None:
    write_ledger(workspace, after(Outcome("held", NOW, "the gate says FAIL", version=2)))
    code = f"""
import json, sys
from pathlib import Path
from flows.status.show import show_status
show_status((), Path({str(workspace)!r}), False, False, None)
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = set(
        "dvc great_expectations lm_eval mlflow numba pandas prefect scmrepo sqlalchemy torch transformers".split()
    )
    assert set(json.loads(done.stdout.splitlines()[-1])) & heavy == set()
    assert "quickstart" in done.stdout
