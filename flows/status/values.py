"""What `widen status` tells, as values: built from a recipe's ledger, its last run and its champion. Pure.

Times are seconds since 1970.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.glance import Glance
from tasks.sources import Source
from tasks.updates import Ledger, Look, Outcome, Step, decide
from tasks.upstream import Pin

Next = tuple[str, ...]


@dataclass(frozen=True)
class LastRun:
    """What a recipe's run folder says: what the last run fetched, and how far it came. `at` is when it wrote last."""

    pins: Mapping[str, Pin]
    at: float | None = None
    model: str | None = None
    version: int | None = None
    verdict: str | None = None
    report: str | None = None


@dataclass(frozen=True)
class Found:
    """Everything known of a recipe. `fault` is what is wrong with its file, `champion` text where it cannot be told.

    `options` are those by which another command finds the same workspace and registry.
    """

    name: str
    path: str
    ledger: Ledger
    sources: Sequence[Source] = ()
    fault: str = ""
    model: str | None = None
    run: LastRun | None = None
    champion: Glance | str | None = None
    options: str = ""
    followed: bool = True


@dataclass(frozen=True)
class SourceStatus:
    """A source: what the recipe follows, what the last run used, what upstream holds, and what that means in words.

    `state` is that of the last look (`tasks.upstream.State`), "unknown" where nobody looked yet. `trouble` is true for
    what a person has to look into.
    """

    name: str
    repo: str | None
    path: str
    follows: str | None
    used: Pin | None
    upstream: Pin | None
    state: str
    words: str
    trouble: bool
    since: float | None


@dataclass(frozen=True)
class Standing:
    """The champion: its version, since when, by whom, and how it came to be that."""

    version: int
    since: str | None
    by: str | None
    kind: str | None
    reason: str | None


@dataclass(frozen=True)
class RecipeStatus:
    """One recipe. `state` is its update's outcome, or "waiting" (not asked for yet), "passed" (by the gate, and another
    is the champion) or "never" (nothing ran).

    `words` tell the state, `reason` why; `due` is when the next attempt is made, `next` what a person can do. `before`
    is what became of the update before this one, where that is still of interest.
    """

    name: str
    path: str
    fault: str
    model: str | None
    sources: tuple[SourceStatus, ...]
    champion: Standing | None
    champion_fault: str
    state: str
    words: str
    reason: str
    moved: tuple[str, ...]
    version: int | None
    verdict: str | None
    at: float | None
    due: float | None
    flow_run: str | None
    checked_at: float | None
    next_check: float | None
    report: str | None
    before: Outcome | None
    next: Next
    followed: bool

    @property
    def troubles(self) -> tuple[str, ...]:
        """What a monitor should hear of, a line each."""
        watched = self.sources if self.followed else ()  # what a look found before is nobody's concern
        found = [f"{self.name}: {one.name}: {one.words}" for one in watched if one.trouble]
        if self.fault:
            found.append(f"{self.name}: the recipe is wrong: {self.fault}")
        if self.champion_fault:
            found.append(f"{self.name}: {self.champion_fault}")
        if self.state in ("held", "failed"):
            found.append(f"{self.name}: {self.words}: {self.reason}")
        return tuple(found)


def recipe_status(found: Found, now: float, alive: bool, quiet: float) -> RecipeStatus:
    """What is told of a recipe. `alive`: a run holds the workspace. `quiet`: for how long upstream must rest (seconds).

    Where the ledger knows nothing the run folder tells. A held version that a person promoted counts as promoted.
    """
    ledger, run = found.ledger, found.run or LastRun({})
    glance = found.champion if isinstance(found.champion, Glance) else None
    outcome, step = ledger.outcome, decide(ledger, now, alive, quiet)
    state, words = _state(ledger, run, glance, step, alive)
    version = outcome.version if outcome is not None and outcome.version is not None else None
    if outcome is None and run.version is not None:
        version = run.version
    return RecipeStatus(
        name=found.name,
        path=found.path,
        fault=found.fault or ledger.fault,
        model=found.model,
        sources=tuple(_source(one, ledger, run) for one in found.sources),
        champion=None if glance is None else _standing(glance),
        champion_fault=found.champion if isinstance(found.champion, str) else "",
        state=state,
        words=words,
        reason=_reason(outcome, step, state, run),
        moved=ledger.update.moved if ledger.update is not None and state not in ("promoted", "unchanged") else (),
        version=version,
        verdict=run.verdict if version is not None and version == run.version else None,
        at=run.at if outcome is None and state != "waiting" else (outcome.at if outcome is not None else None),
        due={"later": step.due, "quiet": step.due, "ask": ledger.next_check}.get(step.kind) if found.followed else None,
        flow_run=None if outcome is None else outcome.flow_run,
        checked_at=ledger.checked_at,
        next_check=ledger.next_check,
        report=run.report if version is not None and version == run.version else None,
        before=_before(ledger),
        next=_next(found, state, version, glance, ledger),
        followed=found.followed,
    )


def _before(ledger: Ledger) -> Outcome | None:
    if ledger.last is None or ledger.update is None or ledger.last.id == ledger.update.id:
        return None
    return ledger.outcomes.get(ledger.last.id)


def _source(source: Source, ledger: Ledger, run: LastRun) -> SourceStatus:
    look = ledger.looks.get(source.name)
    used = (ledger.last.pins.get(source.name) if ledger.last is not None else None) or run.pins.get(source.name)
    words, trouble = _upstream(look, used, _was_rewritten(source.name, ledger))
    return SourceStatus(
        source.name, source.repo, source.path, source.rev, used, None if look is None else look.pin,
        "unknown" if look is None else look.state, words, trouble, None if look is None else look.since,
    )  # fmt: skip


def _was_rewritten(name: str, ledger: Ledger) -> bool:
    """The look after a forced push finds nothing new any more; the update that waits remembers."""
    moved = () if ledger.update is None else ledger.update.moved
    return any(line.startswith(f"{name}: ") and line.endswith("(rewritten)") for line in moved)


def _upstream(look: Look | None, used: Pin | None, rewritten: bool) -> tuple[str, bool]:
    """What a look means, and whether a person has to look into it."""
    if look is None:
        return "not looked at yet", False
    note = f": {look.note}" if look.note else ""
    match look.state:
        case "unreachable":
            return f"hub unreachable{note}", True
        case "gone":
            return f"deleted upstream{note}", True
        case "retagged":
            return f"the tag was moved{note}", True
    if look.pin is None or used is None:
        return "not merged yet", False
    # An older run's record has no such digest of the content.
    if look.pin.content == used.content or (not used.content and look.pin.commit == used.commit):
        return ("up to date, fixed" if look.state == "fixed" else "up to date"), False
    forced = rewritten or look.state == "rewritten"
    return "newer waiting, force-pushed" if forced else "newer waiting", False


def _state(ledger: Ledger, run: LastRun, champion: Glance | None, step: Step, alive: bool) -> tuple[str, str]:
    outcome = ledger.outcome
    if outcome is None:
        return _without_outcome(ledger, run, champion, step)
    version = "" if outcome.version is None else f": version {outcome.version}"
    match outcome.state:
        case "running":
            return ("running", "running") if alive else ("failed", "the run died")
        case "asked":
            return "asked", "waiting for the run that holds the workspace" if alive else "asked for, not begun"
        case "failed":
            return "failed", f"failed{version}"
        case "held" if champion is not None and outcome.version == champion.version:
            return "promoted", f"promoted by a person{version}"
        case other:
            return other, f"{other}{version}"


def _without_outcome(ledger: Ledger, run: LastRun, champion: Glance | None, step: Step) -> tuple[str, str]:
    if ledger.update is not None:
        return "waiting", "upstream is moving; it must rest first" if step.kind == "quiet" else "an update waits"
    if run.version is None:
        return "never", "nothing ran yet"
    if champion is not None and champion.version == run.version:
        return "promoted", f"promoted: version {run.version}"
    if run.verdict == "PASS":
        return "passed", f"passed, and not the champion: version {run.version}"
    return "held", f"held: version {run.version}"


def _reason(outcome: Outcome | None, step: Step, state: str, run: LastRun) -> str:
    if outcome is None:
        told = {"waiting": step.why, "held": f"the gate says {run.verdict or 'nothing'}"}
        return told.get(state, "")
    return outcome.reason or (step.why if state == "failed" else "")


def _standing(glance: Glance) -> Standing:
    entry = glance.entry
    if entry is None:
        return Standing(glance.version, None, None, None, None)
    return Standing(glance.version, entry.at, entry.by, entry.kind, entry.reason)


def _next(found: Found, state: str, version: int | None, champion: Glance | None, ledger: Ledger) -> Next:
    """Commands for a person, each complete."""
    told: list[str] = []
    if state in ("held", "passed", "failed") and version is not None and found.model is not None:
        if champion is None or champion.version != version:
            told.append(f"widen report {found.model}/{version} {found.options}")
        if state != "failed" and (champion is None or champion.version != version):
            told.append(f"widen promote {found.model}/{version} {found.options} --override 'WHY'")
    if state in ("never", "failed") and not (found.fault or ledger.fault):
        told.append(f"widen run {found.path} {found.options.partition(' --registry')[0]}")
    if state == "failed" and ledger.outcome is not None and ledger.outcome.flow_run:
        told.append(f"prefect flow-run logs {ledger.outcome.flow_run}")
    return tuple(told)
