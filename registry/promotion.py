"""Moving the alias `champion`: as far as a gate's decision carries it, on a person's word, or back; each an entry."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from registry.decision import NO_CHAMPION, Decision, Verdict
from registry.entry import Entry, Kind, short
from registry.errors import HistoryAltered, NotRegistered, PromotionRefused, RegistryError
from registry.history import History, append, read_history, settle
from registry.store import Registry, asking
from registry.versions import DECISION, MERGED, VERDICT, Version, to_version

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LONGEST_PERSON, LONGEST_REASON = 200, 1500

# How an objection begins.
_GATE, _STALE = "the gate says", "it was judged against the champion"


@dataclass(frozen=True)
class Promotion:
    """What became of the alias: whether it moved, from which version (None: there was no champion) and to which.

    `entry` is what the history now ends in; None when a champion of before the history stays.
    """

    moved: bool
    from_version: int | None
    to_version: int
    entry: Entry | None = field(default=None, compare=False)


@dataclass(frozen=True)
class _Move:
    """A move that its caller may make, as far as its own rules go."""

    kind: Kind
    to: Version
    by: str
    reason: str
    flow_run: str | None = None


def promote(
    registry: Registry,
    name: str,
    version: int,
    decision: Decision,
    *,
    by: str,
    reason: str,
    flow_run: str | None = None,
    override: str | None = None,
) -> Promotion:
    """Make `version` the champion of `name`, and record who did so and why. A second call changes nothing and says so.

    `override` is a person's reason to promote against the gate's word, or against a decision asked of a champion that
    is no longer; `by` is then that person. Raises PromotionRefused when the decision does not allow the move, is not
    the one that `version` was registered with, or another promotion came first; HistoryAltered when the history has
    faults that `override` does not answer for; NotRegistered when there is no such version; RegistryUnreachable when
    the registry does not answer.
    """
    who, why = _said("--by", by, LONGEST_PERSON), _said("--reason", reason, LONGEST_REASON)
    overriding = None if override is None else _said("--override", override, LONGEST_REASON)
    believed = read_history(registry, name)
    with registry.lock(), asking(registry) as client:
        history = _current(client, registry, believed)
        found = _version(history, version)
        _require_same_decision(found, decision)
        _require_weights(found, "not promoted")
        champion = _champion(history)
        if champion is not None and champion.version == version and (decision.passed or _overridden(history)):
            return Promotion(False, version, version, history.champion)
        objections = _objections(history, champion, decision)
        if objections and overriding is None:
            raise _refusal(found, history, objections)
        move = _Move(
            "override" if objections else "promotion", found, who, _reason(why, overriding, objections), flow_run
        )
        return _make(client, registry, history, champion, move)


def rollback(registry: Registry, name: str, to_version: int | None = None, *, by: str, reason: str) -> Promotion:
    """Make the champion before the current one the champion again, or `to_version`, if it was champion ever before.

    A second rollback goes one further back. Raises PromotionRefused when there is none, `to_version` never was, or
    another move came first; HistoryAltered when the history has faults and `to_version` is not named.
    """
    who, why = _said("--by", by, LONGEST_PERSON), _said("--reason", reason, LONGEST_REASON)
    believed = read_history(registry, name)
    if believed.faults and to_version is None:
        raise HistoryAltered(f"{name} is not rolled back: {_listed(believed.faults)}; name the version: --to VERSION")
    with registry.lock(), asking(registry) as client:
        history = _current(client, registry, believed)
        target = former_champion(history, to_version)
        current = history.champion
        if current is not None and current.to_version == target and history.drift is None:
            return Promotion(False, target, target, current)
        found = _version(history, target)
        _require_weights(found, "not made the champion again")
        return _make(client, registry, history, _champion(history), _Move("rollback", found, who, why))


def former_champion(history: History, asked: int | None = None) -> int:
    """The version that a rollback goes to: `asked`, or the champion before the current one that has its weights.

    A version that was rolled back from is no champion before: two rollbacks go two back. Raises PromotionRefused.
    """
    ever = {entry.to_version for entry in history.entries}
    if asked is not None:
        if asked not in ever:
            known = ", ".join(map(str, sorted(ever - history.deleted))) or "none"
            raise PromotionRefused(
                f"{history.name} is not rolled back: version {asked} never was the champion (these were: {known})"
            )
        return asked
    left = [version for version in _stack(history.entries)[:-1] if version not in history.deleted]
    whole = [version for version in left if version not in history.versions or history.versions[version].freed is None]
    if not left:
        raise PromotionRefused(f"{history.name} is not rolled back: no champion was before this one")
    if not whole:
        _require_weights(history.versions[left[-1]], "not made the champion again")
    return whole[-1]


def _stack(entries: Sequence[Entry]) -> list[int]:
    """The champions that lead to the current one, without those that were rolled back from."""
    stack: list[int] = []
    for entry in entries:
        if entry.kind == "rollback" and entry.to_version in stack:
            while stack[-1] != entry.to_version:
                stack.pop()
        elif stack[-1:] != [entry.to_version]:
            stack.append(entry.to_version)
    return stack


def _require_weights(version: Version, refused: str) -> None:
    if version.freed is not None:
        raise PromotionRefused(f"{version.uri} is {refused}: {version.freed} puts them back, then ask again")


def _said(option: str, text: str, longest: int) -> str:
    """Text of a person's, in one line. Raises PromotionRefused when it is empty, too long, or not text."""
    plain = " ".join(text.split())
    if not plain:
        raise PromotionRefused(f"{option}: expected text, found none; the history names a person and a reason")
    if len(plain) > longest or not plain.isprintable():
        raise PromotionRefused(f"{option}: expected at most {longest} printable characters, found {len(plain)}")
    return plain


def _current(client: "MlflowClient", registry: Registry, believed: History) -> History:
    """The history once what was left undone is done. Raises PromotionRefused when it went on since `believed`."""
    history = settle(client, registry, believed.name)
    if history.head != believed.head:
        raise _lost(history)
    return history


def _version(history: History, number: int) -> Version:
    if number not in history.versions:
        raise NotRegistered(f"{history.name!r} has no version {number}")
    return history.versions[number]


def _champion(history: History) -> Version | None:
    """The champion by the history, or by the alias when there is no history yet; None also when it was deleted."""
    number = history.champion.to_version if history.champion else history.alias
    return None if number is None else history.versions.get(number)


def _overridden(history: History) -> bool:
    return history.champion is not None and history.champion.kind == "override"


def _require_same_decision(version: Version, decision: Decision) -> None:
    wanted = {MERGED: decision.merged_digest, DECISION: decision.digest()}
    for tag, expected in wanted.items():
        if version.tag(tag) != expected:
            raise PromotionRefused(
                f"{version.uri} is not promoted: it was registered with {tag} {version.tag(tag)}, this decision has "
                f"{expected}; register the merge with this decision first"
            )


def _objections(history: History, champion: Version | None, decision: Decision) -> list[str]:
    """Why the promotion needs a person's word. Raises HistoryAltered for an alias that was moved by other means."""
    if history.drift is not None:
        raise HistoryAltered(f"{history.name} is not promoted: {_listed(history.faults)}")
    objections = []
    if not decision.passed:
        lost = "; ".join(result.text for result in decision.results if result.verdict is not Verdict.PASS)
        objections.append(f"{_GATE} {decision.verdict}: {lost}")
    now = NO_CHAMPION if champion is None else champion.tag(MERGED) or f"version {champion.version}"
    # Weights that are the champion's already were judged against the champion that those were to replace.
    if decision.against not in (None, now) and now != decision.merged_digest:
        objections.append(f"{_STALE} {decision.against}, the champion is now {now}")
    if history.altered:
        objections.append(f"the history was altered: {_listed(history.altered)}")
    return objections


def _refusal(version: Version, history: History, objections: Sequence[str]) -> Exception:
    text = f"{version.name} version {version.version} is not promoted: {'; '.join(objections)}"
    if history.altered:
        return HistoryAltered(text)
    if any(one.startswith(_STALE) for one in objections):
        text += "; run the gate again"
    return PromotionRefused(text)


def _reason(reason: str, override: str | None, objections: Sequence[str]) -> str:
    """The reason as recorded: the verdict that an override answers for has its own place, the rest is added here."""
    answered = "; ".join(text for text in objections if not text.startswith(_GATE))
    return (override or reason) + (f" (overrides also: {answered})" if answered else "")


def _listed(faults: Sequence[str]) -> str:
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(faults[:3]) + more


def _make(
    client: "MlflowClient", registry: Registry, history: History, champion: Version | None, move: _Move
) -> Promotion:
    """Append the move, after the adoption of a champion that no entry made, and carry it out."""
    if not history.entries and champion is not None:
        adopted = _Move("adoption", champion, move.by, "it was the champion before this history began")
        history = _appended(client, registry, history, None, adopted)
    before = None if history.champion is None else history.champion.to_version
    after = _appended(client, registry, history, before, move)
    _require_kept(client, move.to)
    return Promotion(True, before, move.to.version, after.entries[len(history.entries)])


def _require_kept(client: "MlflowClient", version: Version) -> None:
    """A server has no lock: a collection of weights that had not seen this move is told now."""
    held = to_version(client.get_model_version(version.name, str(version.version)))
    if held.freed is not None:
        raise RegistryError(f"{version.uri} is the champion, and meanwhile {held.freed} puts them back")


def _appended(client: "MlflowClient", registry: Registry, history: History, before: int | None, move: _Move) -> History:
    entry = Entry(
        number=0,
        kind=move.kind,
        name=move.to.name,
        from_version=before,
        to_version=move.to.version,
        merged_digest=move.to.tag(MERGED),
        decision_digest=move.to.tag(DECISION),
        verdict=move.to.tag(VERDICT),
        by=move.by,
        reason=move.reason,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        flow_run=move.flow_run,
        previous=history.head,
    )
    after = append(client, registry, entry)
    if entry.digest() not in after.digests():
        raise _lost(after)
    return after


def _lost(history: History) -> PromotionRefused:
    """Another came first: who, and what holds now."""
    won = history.champion
    if won is None:
        return PromotionRefused(f"{history.name}: its history changed meanwhile; run widen history {history.name}")
    return PromotionRefused(
        f"{history.name}: nothing was moved, another move came first: entry {won.number} ({short(won.digest())}), "
        f"{won.kind} of version {won.to_version} by {won.by} at {won.at}; the champion is now version "
        f"{won.to_version}: look whether yours is still wanted, and ask again"
    )
