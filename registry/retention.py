"""Which registered versions keep their weights, and why. Pure: asks no registry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Key = tuple[str, int]
"""A version: the model's name and its number."""


@dataclass(frozen=True)
class Keep:
    """How much is kept beside what always is: the last `champions`, the newest `candidates`, what is younger than
    `days`.
    """

    champions: int = 3
    candidates: int = 5
    days: float = 30


@dataclass(frozen=True)
class Holding:
    """A version that has its weights, as the rules see it.

    `since` is when it was registered, or restored. `digest` is that of its weights, `against` of those that its gate
    compared it with, `inputs` of the merges among its inputs and theirs. Versions with the same `place` share their
    files. `unsure` says why nothing may be decided about it.
    """

    name: str
    version: int
    since: datetime
    aliases: tuple[str, ...]
    place: str
    digest: str | None = None
    against: str | None = None
    inputs: tuple[str, ...] = ()
    unsure: str | None = None

    @property
    def key(self) -> Key:
        """Its name and number."""
        return self.name, self.version


@dataclass(frozen=True)
class Track:
    """What a model's history says: its champions, each once, the present one first; where a rollback goes; `fault`, for
    which nothing of the model may be decided.
    """

    champions: tuple[int, ...] = ()
    target: int | None = None
    fault: str | None = None


@dataclass
class _Kept:
    """Reasons by version, in the order in which they were found."""

    why: dict[Key, list[str]] = field(default_factory=dict)

    def add(self, key: Key, reason: str) -> bool:
        """Whether the version was not kept before."""
        found = self.why.setdefault(key, [])
        if reason not in found:
            found.append(reason)
        return len(found) == 1


def reasons(
    holdings: Sequence[Holding], tracks: Mapping[str, Track], keep: Keep, now: datetime
) -> dict[Key, tuple[str, ...]]:
    """Why versions keep their weights, by version; what is not named may be freed.

    `holdings` are the versions of all models that have weights, `tracks` the histories by model. A larger `keep` never
    keeps fewer.
    """
    kept = _Kept()
    for holding in holdings:
        for reason in _own(holding, tracks.get(holding.name, Track()), keep, now):
            kept.add(holding.key, reason)
    _add_newest(kept, holdings, tracks, keep)
    first = set(kept.why)
    for holding in holdings:
        if holding.key in first:
            same_model = [one for one in holdings if one.name == holding.name]
            _add_weights(kept, same_model, holding.against, f"{holding.name}/{holding.version} was judged against it")
    _add_inputs(kept, holdings)
    _add_shared(kept, holdings)
    return {key: tuple(why) for key, why in kept.why.items()}


def _own(holding: Holding, track: Track, keep: Keep, now: datetime) -> Iterable[str]:
    """What a version alone, beside its model's history, is kept for."""
    for alias in holding.aliases:
        yield f"alias {alias}"
    if holding.version in track.champions[:1]:
        yield "the champion by the history"
    if holding.version == track.target:
        yield "where a rollback goes"
    if now - holding.since < timedelta(days=keep.days):
        yield f"younger than {keep.days:g} days"
    if holding.unsure is not None:
        yield holding.unsure
    if track.fault is not None:
        yield track.fault


def _add_newest(kept: _Kept, holdings: Sequence[Holding], tracks: Mapping[str, Track], keep: Keep) -> None:
    for name in sorted({holding.name for holding in holdings}):
        held = sorted((one.version for one in holdings if one.name == name), reverse=True)
        champions = [version for version in tracks.get(name, Track()).champions if version in held]
        for version in champions[: keep.champions]:
            kept.add((name, version), f"one of the last {keep.champions} champions")
        for version in [one for one in held if one not in champions][: keep.candidates]:
            kept.add((name, version), f"one of the newest {keep.candidates} candidates")


def _add_weights(kept: _Kept, holdings: Sequence[Holding], digest: str | None, reason: str) -> bool:
    """Keep the newest version with these weights, which is the one that is asked for; whether that is new."""
    found = [one for one in holdings if digest is not None and one.digest == digest]
    return bool(found) and kept.add(max(found, key=lambda one: (one.since, one.key)).key, reason)


def _add_inputs(kept: _Kept, holdings: Sequence[Holding]) -> None:
    """What went into a merge that is kept, and into that."""
    pending = [one for one in holdings if one.key in kept.why]
    while pending:
        one = pending.pop()
        before = set(kept.why)
        for digest in one.inputs:
            _add_weights(kept, holdings, digest, f"an input of {one.name}/{one.version}")
        pending += [other for other in holdings if other.key in kept.why and other.key not in before]


def _add_shared(kept: _Kept, holdings: Sequence[Holding]) -> None:
    for one in holdings:
        others = [two for two in holdings if two.place == one.place and two.key in kept.why and two.key != one.key]
        if others and one.key not in kept.why:
            kept.add(one.key, f"its files are those of {others[0].name}/{others[0].version}")
