"""What became of upstream's updates, and what to do next: a recipe's ledger and the pure decisions on it.

Times are seconds since 1970. Nothing here reads a clock, a file or a network: `tasks.ledger` keeps ledgers.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tasks.sources import Source
from tasks.upstream import Pin, State, Upstream

OutcomeState = Literal["asked", "running", "promoted", "held", "unchanged", "failed"]
DONE: frozenset[OutcomeState] = frozenset({"promoted", "held", "unchanged"})
"""What ends an update: it is not tried again until content or recipe changes."""

MOST_BUGS = 5
PAUSE = 60.0
"""Seconds that what was asked for has to begin, and by default what a failed run waits for the next attempt."""
_LONGEST_PAUSE = 900.0
_QUIET_AT_MOST = 6  # quiet periods: a source that never rests is merged all the same
_MOST_KEPT = 50


@dataclass(frozen=True)
class Look:
    """What was found at one source when it was last looked at; see `tasks.upstream.Upstream`.

    `place` is the source as the recipe named it then: what was held elsewhere says nothing about it. `since` is when it
    was first found in this state.
    """

    name: str
    place: str
    state: State
    pin: Pin | None
    note: str
    at: float
    since: float = 0.0


@dataclass(frozen=True)
class Update:
    """The inputs of one merge: a recipe's file, relative to the workspace, and the pin of each of its sources.

    `id` is a function of the recipe's digest and the sources' content. `moved` says in words what is new since the run
    before; `seen_at` is when the watch first saw this update.
    """

    id: str
    recipe: str
    pins: Mapping[str, Pin]
    moved: tuple[str, ...]
    seen_at: float


@dataclass(frozen=True)
class Outcome:
    """How far an update came, at `at`, and why.

    `transient` tells a failure that another attempt may cure. `attempts` counts how often a run was asked for, `bugs`
    the failures that were not transient. `flow_run` is Prefect's identity of the run, `version` the registered version.
    """

    state: OutcomeState
    at: float
    reason: str = ""
    transient: bool = False
    attempts: int = 1
    bugs: int = 0
    flow_run: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class Ledger:
    """All that is known of a recipe that is followed.

    `path` is its file, relative to the workspace, and `fault` what is wrong with it. `update` is what upstream holds
    now; `moving_since` when it began to move; `outcomes` what became of it and of those before it, by id; `last` the
    newest update whose run came to an end.
    """

    name: str
    path: str = ""
    fault: str = ""
    looks: Mapping[str, Look] = field(default_factory=dict)
    checked_at: float | None = None
    next_check: float | None = None
    update: Update | None = None
    moving_since: float = 0.0
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    last: Update | None = None

    @property
    def outcome(self) -> Outcome | None:
        """What became of `update`; None while nothing was asked for."""
        return None if self.update is None else self.outcomes.get(self.update.id)


@dataclass(frozen=True)
class Step:
    """What to do about a recipe now, and why: `nothing`, wait (`quiet`, `running`, `later`) or `ask` for a run.

    `due` is when a `quiet` or a `later` ends.
    """

    kind: Literal["nothing", "quiet", "running", "later", "ask"]
    why: str
    due: float | None = None


def identify(name: str, recipe_digest: str, contents: Mapping[str, str]) -> str:
    """The id of the update of recipe `name` to sources of these contents: the same inputs have the same id."""
    text = json.dumps([recipe_digest, sorted(contents.items())], separators=(",", ":"))
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def recipe_of(update: str) -> str:
    """The recipe's name in an update's id."""
    return update.rpartition("-")[0]


def place_of(source: Source) -> str:
    """Where a source comes from, in one text."""
    return json.dumps([source.repo, source.path, source.rev])


def held_pins(ledger: Ledger, sources: Sequence[Source]) -> dict[str, Pin]:
    """What the looks before found at these sources."""
    looks = {one.name: (ledger.looks.get(one.name), place_of(one)) for one in sources}
    return {name: look.pin for name, (look, place) in looks.items() if look and look.pin and look.place == place}


def noted(
    ledger: Ledger, sources: Sequence[Source], found: Sequence[Upstream], recipe_digest: str, path: str, now: float
) -> Ledger:
    """The ledger after `found` was seen at the `sources` of the recipe in the file `path`.

    Where a source was never reached there is no update to speak of, and the one before stays.
    """
    places = {one.name: place_of(one) for one in sources}
    looks = {one.name: _look(ledger.looks.get(one.name), one, places[one.name], now) for one in found}
    seen = replace(ledger, path=path, fault="", looks=looks, checked_at=now)
    pins = {one.name: one.pin for one in found if one.pin is not None}
    if len(pins) < len(found):
        return seen
    identity = identify(ledger.name, recipe_digest, {name: pin.content for name, pin in pins.items()})
    former = ledger.update
    if former is not None and former.id == identity:
        if ledger.outcome is not None and ledger.outcome.state in DONE:
            return seen
        # Other commits of the same content are the same update; the older ones may be gone when it runs.
        return replace(seen, update=replace(former, recipe=path, pins=pins))
    moved = what_moved(ledger.last, pins, {one.name: one.state for one in found})
    pending = former is not None and former.id not in ledger.outcomes
    return replace(
        seen,
        update=Update(identity, path, pins, moved, now),
        moving_since=ledger.moving_since if pending else now,
    )


def _look(before: Look | None, one: Upstream, place: str, now: float) -> Look:
    since = before.since if before is not None and before.state == one.state else now
    return Look(one.name, place, one.state, one.pin, one.note, now, since)


def what_moved(last: Update | None, pins: Mapping[str, Pin], states: Mapping[str, State]) -> tuple[str, ...]:
    """In words, what is new in `pins` since the update that ran last."""
    if last is None:
        return ("first run",)
    lines = []
    for name, pin in pins.items():
        held = last.pins.get(name)
        if held is None or held.content != pin.content:
            how = " (rewritten)" if states[name] == "rewritten" else ""
            lines.append(f"{name}: {spoken(held)} -> {spoken(pin)}{how}")
    lines += [f"{name}: dropped" for name in last.pins if name not in pins]
    return tuple(lines) or ("the recipe was edited",)


def spoken(pin: Pin | None) -> str:
    """A pin for a person: `v2 (0123456789ab)`."""
    if pin is None:
        return "nothing"
    if pin.commit is None:
        return f"content {pin.content[:12]}"
    return pin.commit[:12] if pin.ref in (None, pin.commit) else f"{pin.ref} ({pin.commit[:12]})"


def decide(ledger: Ledger, now: float, alive: bool, quiet: float, retry: float = PAUSE) -> Step:
    """What to do now. `alive`: a run holds the workspace.

    In seconds, `quiet`: for how long upstream must rest; `retry`: what passes after a first failure, and doubles with
    each further one, up to a quarter of an hour.
    """
    update, outcome = ledger.update, ledger.outcome
    if update is None:
        return Step("nothing", "no source was reached yet")
    if outcome is not None and outcome.state in DONE:
        return Step("nothing", f"{outcome.state}; nothing changed since")
    if alive:
        return Step("running", "a run holds the workspace")
    if outcome is None:
        due = min(update.seen_at + quiet, ledger.moving_since + _QUIET_AT_MOST * quiet)
        return Step("ask", ", ".join(update.moved)) if now >= due else Step("quiet", "upstream is moving", due)
    return _again(outcome, now, retry if outcome.state == "failed" else PAUSE)


def _again(outcome: Outcome, now: float, pause: float) -> Step:
    """Whether an update that was asked for, and of which no run is alive, is asked for again."""
    if outcome.state == "failed" and not outcome.transient and outcome.bugs >= MOST_BUGS:
        return Step("nothing", f"failed {outcome.bugs} times: {outcome.reason}")
    # The first run that dies is followed at once; it was asked for, so a pause has begun with it.
    pauses = outcome.attempts - (outcome.state == "running")
    due = outcome.at + (min(_LONGEST_PAUSE, pause * 2.0 ** (min(pauses, 10) - 1)) if pauses else 0.0)
    why = {"asked": "asked for, not begun", "running": "the run died", "failed": f"failed: {outcome.reason}"}
    return Step("ask" if now >= due else "later", why[outcome.state], due)


def asked(ledger: Ledger, now: float) -> Ledger:
    """The ledger once a run of its update was asked for."""
    before = ledger.outcome
    attempts, bugs = (0, 0) if before is None else (before.attempts, before.bugs)
    return _with(ledger, _current(ledger).id, Outcome("asked", now, attempts=attempts + 1, bugs=bugs))


def held_up(ledger: Ledger, now: float) -> Ledger:
    """The ledger while another run holds the workspace: what was asked for cannot begin, and is not late."""
    outcome = ledger.outcome
    if outcome is None or outcome.state != "asked":
        return ledger
    return _with(ledger, _current(ledger).id, replace(outcome, at=now))


def begun(ledger: Ledger, update: str, now: float, flow_run: str | None) -> tuple[Ledger, Update | str]:
    """The ledger once a run of `update` holds the workspace, and that update; or why nothing is to be run.

    The newest wins: an update that is not current any more is not run, and none is run that came to an end.
    """
    outcome = ledger.outcomes.get(update)
    if ledger.update is None or ledger.update.id != update:
        newer = "nothing" if ledger.update is None else ledger.update.id
        return dropped(ledger, update), f"superseded: {newer} is current"
    if outcome is not None and outcome.state in DONE:
        return ledger, f"unchanged: {outcome.state} already"
    attempts, bugs = (1, 0) if outcome is None else (outcome.attempts, outcome.bugs)
    running = Outcome("running", now, attempts=attempts, bugs=bugs, flow_run=flow_run)
    rest = {key: one for key, one in ledger.outcomes.items() if one.state != "running"}  # they died
    return _with(replace(ledger, outcomes=rest), update, running), ledger.update


def ended(ledger: Ledger, update: Update, outcome: Outcome) -> Ledger:
    """The ledger once a run of `update` ended, as the flow or a person started it.

    A promotion changes what every other update is compared with: what was said of those is forgotten.
    """
    before = ledger.outcomes.get(update.id)
    attempts, bugs = (1, 0) if before is None else (before.attempts, before.bugs)
    bug = outcome.state == "failed" and not outcome.transient
    counted = replace(outcome, attempts=attempts, bugs=bugs + bug)
    if outcome.state in DONE:
        ledger = replace(ledger, last=update, update=ledger.update or update)
    if outcome.state == "promoted":
        return replace(ledger, outcomes={update.id: counted})
    return _with(ledger, update.id, counted)


def dropped(ledger: Ledger, update: str) -> Ledger:
    """The ledger without what was asked for under that id, which did not run."""
    outcome = ledger.outcomes.get(update)
    if outcome is None or outcome.state in DONE:
        return ledger
    return replace(ledger, outcomes={key: one for key, one in ledger.outcomes.items() if key != update})


def _current(ledger: Ledger) -> Update:
    assert ledger.update is not None
    return ledger.update


def _with(ledger: Ledger, update: str, outcome: Outcome) -> Ledger:
    kept = {key: one for key, one in ledger.outcomes.items() if key != update}
    newest = sorted(kept, key=lambda key: kept[key].at)[-(_MOST_KEPT - 1) :]
    return replace(ledger, outcomes={**{key: kept[key] for key in newest}, update: outcome})
