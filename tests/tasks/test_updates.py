"""The ledger of a recipe that is followed: decisions on a simulated clock, any sequence of events; and on disk."""

import multiprocessing
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tasks import run_lock as run_lock_module
from tasks.ledger import ledger_lock, read_ledger, read_ledgers, write_ledger
from tasks.run_lock import holder, run_alive, run_lock
from tasks.sources import Source
from tasks.updates import (
    DONE,
    MOST_BUGS,
    Ledger,
    Outcome,
    Step,
    Update,
    asked,
    begun,
    decide,
    dropped,
    ended,
    held_pins,
    held_up,
    identify,
    noted,
    recipe_of,
)
from tasks.upstream import Pin, Upstream
from widen.errors import EnvironmentFault

QUIET = 10.0
SOURCES = ("base", "chat", "language")
PATH = "recipes/one.yaml"
ASKED = [Source(name, f"checkpoints/{name}", "../hub", "v*") for name in SOURCES]


def pin(content: int) -> Pin:
    return Pin(f"v{content}", f"{content:040x}", f"content-{content}")


def upstream(**contents: int) -> list[Upstream]:
    return [Upstream(name, "moved", pin(contents.get(name, 0)), "") for name in SOURCES]


def seen(ledger: Ledger, found: list[Upstream], now: float, recipe: str = "recipe") -> Ledger:
    return noted(ledger, ASKED, found, recipe, PATH, now)


def look(ledger: Ledger, now: float, recipe: str = "recipe", **contents: int) -> Ledger:
    return seen(ledger, upstream(**contents), now, recipe)


def step(ledger: Ledger, now: float, alive: bool = False) -> Step:
    return decide(ledger, now, alive, QUIET)


def ran(ledger: Ledger, now: float, outcome: Outcome) -> Ledger:
    """The current update asked for, begun, and ended so."""
    assert ledger.update is not None
    began, update = begun(asked(ledger, now), ledger.update.id, now, "run")
    assert isinstance(update, Update)
    return ended(began, update, outcome)


def settled(state: str = "promoted", now: float = 100.0, **contents: int) -> Ledger:
    return ran(look(Ledger("one"), now - 50, **contents), now, Outcome(state, now))  # type: ignore[arg-type]


# Any sequence of events


class Following(RuleBasedStateMachine):
    """Upstream moves, the recipe is edited, checks come, runs begin, end and die, in any order and at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.contents = dict.fromkeys(SOURCES, 0)
        self.recipe = "recipe-0"
        self.ledger = Ledger("one")
        self.queue: list[str] = []  # asked for, not begun; Prefect may deliver late, twice, or never
        self.run: Update | None = None
        self.finished: Counter[str] = Counter()  # by id, since the last promotion
        self.champion: str | None = None

    @property
    def wanted(self) -> str:
        return identify("one", self.recipe, {name: pin(value).content for name, value in self.contents.items()})

    @rule(name=st.sampled_from(SOURCES), value=st.integers(0, 2))
    def upstream_moves(self, name: str, value: int) -> None:
        self.contents[name] = value

    @rule(value=st.integers(0, 1))
    def the_recipe_is_edited(self, value: int) -> None:
        self.recipe = f"recipe-{value}"

    @rule(seconds=st.sampled_from([1.0, 4.0, 15.0, 61.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def check(self) -> None:
        self.ledger = look(self.ledger, self.now, self.recipe, **self.contents)
        found = decide(self.ledger, self.now, self.run is not None, QUIET)
        if found.kind == "running":
            self.ledger = held_up(self.ledger, self.now)
        if found.kind == "ask":
            assert self.run is None, "asked while a run is alive"
            assert self.ledger.update is not None
            assert self.ledger.update.id == self.wanted
            assert not self.finished[self.wanted], "asked again for what came to an end"
            self.ledger = asked(self.ledger, self.now)
            self.queue.append(self.wanted)

    @precondition(lambda self: self.queue and self.run is None)
    @rule(which=st.integers(0, 10), twice=st.booleans())
    def a_run_begins(self, which: int, twice: bool) -> None:
        update = self.queue.pop(which % len(self.queue))
        self.queue += [update] * twice
        current = self.ledger.update
        self.ledger, found = begun(self.ledger, update, self.now, "run")
        if isinstance(found, Update):
            assert current is not None
            assert update == current.id, "an older update ran after a newer one was recorded"
            assert not self.finished[update], "two runs of one update, of which the former ended"
            self.run = found

    @precondition(lambda self: self.run is not None)
    @rule(state=st.sampled_from(["promoted", "held", "unchanged", "failed"]), transient=st.booleans())
    def it_ends(self, state: str, transient: bool) -> None:
        assert self.run is not None
        outcome = Outcome(state, self.now, "why", transient and state == "failed")  # type: ignore[arg-type]
        self.ledger = ended(self.ledger, self.run, outcome)
        if state == "promoted":
            self.finished, self.champion = Counter(), self.run.id
        if state != "failed":
            self.finished[self.run.id] += 1
        self.run = None

    @precondition(lambda self: self.run is not None)
    @rule()
    def it_dies(self) -> None:
        self.run = None

    @invariant()
    def what_ended_is_known(self) -> None:
        known = {key for key, one in self.ledger.outcomes.items() if one.state in DONE}
        assert known == {key for key, count in self.finished.items() if count}

    @invariant()
    def what_upstream_holds_gets_its_run_in_the_end(self) -> None:
        """From any state, with upstream and the recipe at rest and nothing dying, one run ends it, and only one."""
        ledger, now, runs = self.ledger, self.now, 0
        if self.run is not None:
            ledger = ended(ledger, self.run, Outcome("failed", now, "why", True))
        for _ in range(12):
            now += 100
            ledger = look(ledger, now, self.recipe, **self.contents)
            if decide(ledger, now, False, QUIET).kind == "ask":
                ledger, found = begun(asked(ledger, now), self.wanted, now, "run")
                assert isinstance(found, Update)
                ledger, runs = ended(ledger, found, Outcome("held", now)), runs + 1
        outcome = ledger.outcome
        assert outcome is not None
        given_up = outcome.state == "failed" and outcome.bugs >= MOST_BUGS
        assert outcome.state in DONE or given_up
        assert runs == (0 if self.finished[self.wanted] or given_up else 1)


Following.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestFollowing = Following.TestCase


@given(moves=st.lists(st.tuples(st.sampled_from(SOURCES), st.floats(0.1, 9.9)), min_size=1, max_size=8))
@settings(deadline=None)
def test_sources_that_move_within_the_quiet_period_make_one_ask(moves: list[tuple[str, float]]) -> None:
    assume(sum(pause for _, pause in moves) < 5 * QUIET)
    ledger, now, contents, asks = settled(base=0), 200.0, dict.fromkeys(SOURCES, 0), 0
    for value, (name, pause) in enumerate(moves, 1):
        contents[name] = value
        ledger = look(ledger, now, **contents)
        assert step(ledger, now).kind == "quiet"
        now += pause
    for _ in range(4):
        ledger = look(ledger, now, **contents)
        if step(ledger, now).kind == "ask":
            ledger, asks = asked(ledger, now), asks + 1
        now += QUIET
    assert asks == 1
    assert ledger.outcome == Outcome("asked", ledger.outcome.at if ledger.outcome else 0)


def test_upstream_that_never_rests_is_merged_all_the_same() -> None:
    ledger, asks = settled(), []
    for second in range(200, 300, 5):
        ledger = look(ledger, float(second), chat=second)
        if step(ledger, float(second)).kind == "ask":
            asks.append(second)
            ledger = asked(ledger, float(second))
    assert asks == [260]  # every five seconds another one, which is asked for once they have gone on for a minute


# What is an update


def test_nothing_runs_when_nothing_changed() -> None:
    ledger = look(settled("promoted", chat=1), 500.0, chat=1)
    assert step(ledger, 500.0) == Step("nothing", "promoted; nothing changed since")


def test_other_commits_of_the_same_content_are_no_update() -> None:
    ledger = settled()
    found = [replace(one, pin=Pin("main", "f" * 40, one.pin.content)) for one in upstream() if one.pin]
    assert seen(ledger, found, 500.0).update == ledger.update


def test_an_update_that_did_not_run_yet_takes_the_newest_commits_of_its_content() -> None:
    ledger = look(Ledger("one"), 100.0)
    found = [replace(one, pin=Pin("main", "f" * 40, one.pin.content)) for one in upstream() if one.pin]
    again = seen(ledger, found, 101.0)
    assert again.update is not None
    assert ledger.update is not None
    assert again.update.id == ledger.update.id
    assert {one.commit for one in again.update.pins.values()} == {"f" * 40}


def test_a_recipe_that_never_ran_and_an_edited_one_are_updates() -> None:
    first = look(Ledger("one"), 100.0)
    assert step(first, 110.0) == Step("ask", "first run")
    edited = look(settled(), 200.0, recipe="edited")
    assert step(edited, 210.0) == Step("ask", "the recipe was edited")


def test_what_moved_is_said_since_the_run_before() -> None:
    ledger = look(settled(), 200.0, chat=1)
    ledger = look(ledger, 205.0, chat=2, language=3)
    assert ledger.update is not None
    assert ledger.update.moved == (
        "chat: v0 (000000000000) -> v2 (000000000000)",
        "language: v0 (000000000000) -> v3 (000000000000)",
    )


def test_what_was_held_elsewhere_says_nothing() -> None:
    ledger = look(Ledger("one"), 100.0, chat=1)
    assert held_pins(ledger, ASKED) == {"base": pin(0), "chat": pin(1), "language": pin(0)}
    elsewhere = [ASKED[0], replace(ASKED[1], rev="main"), replace(ASKED[2], repo="../other")]
    assert held_pins(ledger, elsewhere) == {"base": pin(0)}


def test_a_source_that_was_never_reached_leaves_the_former_update_and_asks_for_nothing() -> None:
    found = [*upstream()[:2], Upstream("language", "unreachable", None, "no route")]
    blank = seen(Ledger("one"), found, 100.0)
    assert blank.update is None
    assert step(blank, 500.0).kind == "nothing"
    assert blank.looks["language"].note == "no route"
    before = settled()
    assert seen(before, found, 100.0).update == before.update


def test_there_and_back_while_nothing_ran_asks_for_nothing() -> None:
    ledger = look(settled(chat=1), 200.0, chat=2)
    assert step(ledger, 205.0).kind == "quiet"
    back = look(ledger, 208.0, chat=1)
    assert [step(back, now).kind for now in (208.0, 300.0, 9999.0)] == ["nothing"] * 3


def test_back_to_the_version_before_a_promotion_is_an_update() -> None:
    ledger = ran(look(settled(chat=1), 200.0, chat=2), 210.0, Outcome("promoted", 220.0))
    assert step(look(ledger, 300.0, chat=1), 310.0).kind == "ask"


def test_what_was_held_is_not_tried_again_until_something_changes() -> None:
    ledger = ran(look(settled(chat=1), 200.0, chat=2), 210.0, Outcome("held", 220.0, "the gate says FAIL"))
    assert step(look(ledger, 99999.0, chat=2), 99999.0).kind == "nothing"
    back = look(ledger, 300.0, chat=1)
    assert step(back, 400.0).kind == "nothing"  # the champion's own inputs
    assert step(look(back, 500.0, chat=2), 600.0).kind == "nothing"  # held before, and nothing was promoted since
    assert step(look(back, 500.0, chat=2, recipe="edited"), 510.0).kind == "ask"
    assert step(look(back, 500.0, chat=3), 510.0).kind == "ask"


# Asked, running, failed


def test_an_update_during_a_run_makes_exactly_one_more() -> None:
    ledger = asked(look(settled(), 200.0, chat=1), 210.0)
    assert ledger.update is not None
    ledger, first = begun(ledger, ledger.update.id, 212.0, "run")
    assert isinstance(first, Update)
    for now in range(215, 400, 15):
        ledger = look(ledger, float(now), chat=2)
        assert step(ledger, float(now), alive=True).kind == "running"
    ledger = ended(ledger, first, Outcome("promoted", 400.0))
    ledger = look(ledger, 401.0, chat=2)
    assert step(ledger, 401.0).kind == "ask"
    ledger = ran(ledger, 402.0, Outcome("promoted", 450.0))
    assert step(look(ledger, 460.0, chat=2), 460.0).kind == "nothing"


def test_the_newest_wins() -> None:
    ledger = asked(look(settled(), 200.0, chat=1), 210.0)
    assert ledger.update is not None
    older = ledger.update.id
    ledger = look(ledger, 215.0, chat=2)
    ledger, why = begun(ledger, older, 216.0, "run")
    assert why == f"superseded: {ledger.update.id if ledger.update else ''} is current"
    assert older not in ledger.outcomes


def test_what_was_asked_for_and_did_not_begin_is_asked_for_again_later_and_later() -> None:
    ledger, now, pauses = asked(look(settled(), 200.0, chat=1), 210.0), 210.0, []
    for _ in range(7):
        found = step(ledger, now + 0.1)
        assert found.kind == "later"
        assert found.due is not None
        pauses.append(found.due - now)
        now = found.due
        assert step(ledger, now).kind == "ask"
        ledger = asked(ledger, now)
    assert pauses == [60, 120, 240, 480, 900, 900, 900]


def test_what_waits_for_another_recipes_run_is_not_late() -> None:
    ledger = asked(look(settled(), 200.0, chat=1), 210.0)
    assert step(ledger, 400.0, alive=True).kind == "running"
    ledger = held_up(ledger, 400.0)
    assert step(ledger, 401.0).kind == "later"
    assert step(ledger, 460.0).kind == "ask"


def test_a_run_that_died_is_followed_at_once_and_then_with_pauses() -> None:
    ledger = asked(look(settled(), 200.0, chat=1), 210.0)
    assert ledger.update is not None
    identity = ledger.update.id
    ledger, _ = begun(ledger, identity, 212.0, "first")
    assert step(ledger, 220.0, alive=True).kind == "running"
    assert step(ledger, 220.0) == Step("ask", "the run died", 212.0)
    ledger, _ = begun(asked(ledger, 220.0), identity, 221.0, "second")
    assert step(ledger, 222.0) == Step("later", "the run died", 281.0)


def test_a_transient_failure_is_tried_again_for_ever_and_a_bug_five_times() -> None:
    fault = Outcome("failed", 0.0, "the hub is gone", transient=True)
    bug = Outcome("failed", 0.0, "a bug")
    for outcome, most in ((fault, 30), (bug, MOST_BUGS)):
        ledger, now, runs = look(settled(), 200.0, chat=1), 210.0, 0
        while runs < 30 and step(ledger, now).kind == "ask":
            ledger, runs = ran(ledger, now, replace(outcome, at=now)), runs + 1
            now += 900
        assert runs == most
    assert step(ledger, 10.0**9).why == f"failed {MOST_BUGS} times: a bug"


def test_what_ended_does_not_begin_again_and_keeps_its_count() -> None:
    ledger = settled("held")
    assert ledger.update is not None
    assert begun(ledger, ledger.update.id, 300.0, "run") == (ledger, "unchanged: held already")
    assert dropped(ledger, ledger.update.id) == ledger
    failed = ran(asked(look(Ledger("one"), 10.0), 20.0), 30.0, Outcome("failed", 31.0, "a bug"))
    assert failed.outcome == Outcome("failed", 31.0, "a bug", attempts=2, bugs=1)


def test_a_run_by_hand_counts() -> None:
    by_hand = Update(look(Ledger("one"), 1.0).update.id, PATH, {}, ("first run",), 1.0)  # type: ignore[union-attr]
    ledger = ended(Ledger("one"), by_hand, Outcome("promoted", 2.0, version=1))
    assert step(look(ledger, 20.0), 40.0).kind == "nothing"


def test_an_id_names_its_recipe() -> None:
    assert recipe_of(identify("qwen1.5-chat", "digest", {"a": "b"})) == "qwen1.5-chat"


# On disk


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = ran(look(settled(chat=1), 200.0, chat=2), 210.0, Outcome("held", 220.0, "why", version=3))
    assert read_ledger(tmp_path, "one") == Ledger("one")
    with ledger_lock(tmp_path):
        write_ledger(tmp_path, ledger)
        write_ledger(tmp_path, replace(Ledger("two"), fault="no such key"))
    assert read_ledger(tmp_path, "one") == ledger
    assert [one.name for one in read_ledgers(tmp_path)] == ["one", "two"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "one", "looks": {"a": 1}}'])
def test_a_damaged_ledger_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / ".widen" / "follow").mkdir(parents=True)
    (tmp_path / ".widen" / "follow" / "one.json").write_text(text)
    with pytest.raises(EnvironmentFault, match=r"one\.json.*remove it"):
        read_ledger(tmp_path, "one")


# One run a workspace


def hold(workspace: Path, ready: object, end: object) -> None:
    with run_lock(workspace, "a run of one"):
        ready.set()  # type: ignore[attr-defined]
        end.wait(60)  # type: ignore[attr-defined]


def test_a_dead_run_is_told_from_a_living_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready, end))
    assert not run_alive(tmp_path)
    process.start()
    try:
        assert ready.wait(60)
        assert run_alive(tmp_path)
        assert (holder(tmp_path) or "").startswith(f"a run of one, process {process.pid}, since ")
    finally:
        process.kill()
        process.join()
    assert not run_alive(tmp_path)


def test_a_second_run_says_for_whom_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    # Who configures logging, as Prefect does, disables the loggers that there are.
    monkeypatch.setattr(run_lock_module.log, "disabled", False)
    deadline = time.monotonic() + 60
    order: list[str] = []

    def second() -> None:
        with run_lock(tmp_path, "the second"):
            order.append("second")

    with run_lock(tmp_path, "the first"):
        waiting = threading.Thread(target=second)
        waiting.start()
        while not caplog.messages:
            assert waiting.is_alive()
            assert time.monotonic() < deadline
            waiting.join(0.05)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    assert caplog.messages[0].startswith("waiting for the first, process ")
    assert not run_alive(tmp_path)
