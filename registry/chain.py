"""A model's history, checked: which entries stand, which are void, what was altered. Pure: asks no registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from registry.entry import FIRST, Entry, short
from registry.errors import RegistryError
from registry.scorecard import sha256
from registry.versions import DECISION, ENTRY, MERGED, VERDICT, Version

VOID = "VOID, "


@dataclass(frozen=True)
class Record:
    """One place of the log as the registry holds it; None where it holds nothing."""

    number: int
    text: str | None
    digest: str | None
    description: str | None


@dataclass(frozen=True)
class Model:
    """What the registry says of the model itself: the champion alias, the head it was told last, and its versions."""

    name: str
    alias: int | None
    head: str | None
    versions: Mapping[int, Version]


@dataclass(frozen=True)
class Void:
    """An entry that came second: the entry numbered `lost_to` had taken its place."""

    entry: Entry
    lost_to: int

    def line(self) -> str:
        """What stands in the description of a void entry."""
        return f"{VOID}lost against entry {self.lost_to}, nothing was moved. Asked: {self.entry.line()}"


@dataclass(frozen=True)
class History:
    """The history of `name`, oldest entry first.

    `head` is the digest of the last entry, FIRST when there is none. `faults` name what was altered, one line each.
    `drift` is the one of them that says the alias was moved by other means; a rollback mends it. `unfinished` is true
    when the last entry stands and was not carried out in full: its writer is at it, or was killed. `alias` is where
    the registry's alias points; `versions` are all that the registry has of the model.
    """

    name: str
    entries: tuple[Entry, ...]
    void: tuple[Void, ...]
    faults: tuple[str, ...]
    drift: str | None
    head: str
    unfinished: bool
    alias: int | None
    versions: Mapping[int, Version]

    @property
    def deleted(self) -> frozenset[int]:
        """Versions that entries name and the registry no longer has."""
        named = {version for entry in self.entries for version in (entry.from_version, entry.to_version)}
        return frozenset(version for version in named if version is not None and version not in self.versions)

    @property
    def champion(self) -> Entry | None:
        """The entry that made the champion what it is."""
        return self.entries[-1] if self.entries else None

    @property
    def altered(self) -> tuple[str, ...]:
        """The faults that no move can mend."""
        return tuple(fault for fault in self.faults if fault != self.drift)

    def digests(self) -> tuple[str, ...]:
        """The digest of every entry that stands, in order."""
        return tuple(entry.digest() for entry in self.entries)


@dataclass
class _Walk:
    """The log read from its start: `followed` maps a digest to the entry that took the place after it."""

    head: str = FIRST
    entries: list[Entry] = field(default_factory=list)
    void: list[Void] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    followed: dict[str, int] = field(default_factory=dict)


def check(model: Model, records: Sequence[Record]) -> History:
    """The history that `records` make. The first entry, in the log's order, that names the head as the one before it
    stands; a later one that names the same is void.
    """
    walk = _Walk()
    ordered = sorted(records, key=lambda record: record.number)
    known = {record.number for record in ordered}
    last = max(known, default=0)
    walk.faults += [f"entry {n} was deleted" for n in range(1, last) if n not in known]
    for record in ordered:
        _step(walk, model, record)
    _check_tags(walk, model)
    drift = _drift(walk, model)
    return History(
        name=model.name,
        entries=tuple(walk.entries),
        void=tuple(walk.void),
        faults=(*walk.faults, *([] if drift is None else [drift])),
        drift=drift,
        head=walk.head,
        unfinished=bool(walk.entries) and model.head != walk.head,
        alias=model.alias,
        versions=model.versions,
    )


def _step(walk: _Walk, model: Model, record: Record) -> None:
    """Take one record in. An altered one keeps its place by the digest recorded with it, so that it alone is named."""
    entry = _parsed(record)
    is_void = entry is not None and entry.previous != walk.head and entry.previous in walk.followed
    altered = _altered(model, record, entry, is_void)
    if altered is not None:
        walk.faults.append(f"entry {record.number} was altered: {altered}")
    if entry is None:
        _advance(walk, record.digest or walk.head, record.number)
        return
    if is_void:
        walk.void.append(Void(entry, walk.followed[entry.previous]))
        return
    faults = [] if altered else _disagreements(entry, model.versions.get(entry.to_version))
    if entry.previous != walk.head:
        faults.append(
            f"it follows {short(entry.previous)}, which no entry before it is: it is forged, or that one was altered"
        )
    elif not walk.faults:  # else entries are missing or altered, and this one would be blamed for it
        faults += _illegal(walk.entries, entry)
    walk.faults += [f"entry {entry.number}: {fault}" for fault in faults]
    walk.entries.append(entry)
    _advance(walk, record.digest or entry.digest(), entry.number)


def _parsed(record: Record) -> Entry | None:
    try:
        return Entry.from_json(record.number, record.text or "")
    except RegistryError:
        return None


def _advance(walk: _Walk, digest: str, number: int) -> None:
    walk.followed[walk.head] = number
    walk.head = digest


def _altered(model: Model, record: Record, entry: Entry | None, is_void: bool) -> str | None:
    """What shows that a record is not as widen wrote it."""
    if record.text is None or record.digest is None:
        return "its record is gone"
    if sha256(record.text) != record.digest:
        return f"its digest is {short(sha256(record.text))}, {short(record.digest)} was recorded"
    if entry is None:
        return "it is no record of widen's"
    if entry.name != model.name:
        return f"it speaks of {entry.name!r}"
    described = record.description or ""
    marked = is_void and described.startswith(VOID) and described.endswith(entry.line())
    return None if described == entry.line() or marked else "its description says otherwise than its record"


def _illegal(before: Sequence[Entry], entry: Entry) -> list[str]:
    """What widen would not have written: moves from another champion, to a version never promoted, past the gate."""
    faults = []
    champion = before[-1].to_version if before else None
    if entry.kind == "adoption":
        if before or entry.from_version is not None:
            faults.append("an adoption stands at the start of a history only")
    elif entry.from_version != champion:
        faults.append(f"it moves from version {entry.from_version}, the champion was version {champion}")
    if entry.kind == "promotion" and entry.verdict != "PASS":
        faults.append(f"a promotion needs the verdict PASS, it has {entry.verdict}")
    if entry.kind == "rollback" and entry.to_version not in {one.to_version for one in before}:
        faults.append(f"it rolls back to version {entry.to_version}, which never was the champion")
    if entry.kind in ("override", "rollback") and not (entry.by.strip() and entry.reason.strip()):
        faults.append("it names no person or no reason")
    return faults


def _disagreements(entry: Entry, version: Version | None) -> list[str]:
    if version is None:
        return []
    recorded = {MERGED: entry.merged_digest, DECISION: entry.decision_digest, VERDICT: entry.verdict}
    return [
        f"{key} is {found}, version {version.version} is tagged {version.tag(key)}"
        for key, found in recorded.items()
        if found != version.tag(key)
    ]


def _check_tags(walk: _Walk, model: Model) -> None:
    """What the model and its versions remember of entries must be in the log: a cut-off end shows here."""
    known = {*walk.followed, walk.head} - {FIRST}
    if model.head is not None and model.head not in known:
        walk.faults.append(
            f"the last entry that the model was told of, {short(model.head)}, is not in the log: "
            "it was removed or altered"
        )
    if model.head is None and len(walk.entries) > 1:
        walk.faults.append("the model's tag with the last entry's digest was removed")
    for number, version in sorted(model.versions.items()):
        told = version.tag(ENTRY)
        if told is not None and told not in known and told != model.head:
            walk.faults.append(f"version {number} was promoted by an entry {short(told)} that is not in the log")


def _drift(walk: _Walk, model: Model) -> str | None:
    """The alias must be where the last entry that was carried out put it, or where a later one will."""
    if not walk.entries:
        return None
    digests = [entry.previous for entry in walk.entries] + [walk.head]
    done = digests.index(model.head) if model.head in digests else 0
    allowed = {entry.to_version for entry in walk.entries[max(0, done - 1) :]}
    if done == 0:
        allowed.add(walk.entries[0].from_version or 0)
    if (model.alias or 0) in allowed:
        return None
    says, last = "is not set" if model.alias is None else f"says version {model.alias}", walk.entries[-1].to_version
    gone = "" if last in model.versions else ", which was deleted"
    return (
        f"the alias champion {says}, the history says version {last}{gone}: it was moved by other means than widen's; "
        f"widen rollback {model.name} --to VERSION --reason TEXT mends it"
    )
