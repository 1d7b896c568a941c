"""The history says what happened, and what was done to it: every kind of tampering is a fault that names its entry."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

from registry import history as log
from registry.chain import History, Model, Record, check
from registry.decision import Decision
from registry.entry import FIRST, Entry
from registry.errors import HistoryAltered, NotRegistered, PromotionRefused, RegistryError
from registry.history import append, finish_history, read_history
from registry.promotion import Promotion, former_champion, promote, rollback
from registry.store import Registry, asking
from registry.versions import CHAMPION, DECISION, ENTRY, MERGED, VERDICT, Version
from tests.flows.conftest import ROOT
from tests.registry.conftest import add_version

SAID = {"by": "Ada", "reason": "the gate passed"}

# The log alone, without a registry: entries, records, and what the model's own tags say of them.


def version(number: int) -> Version:
    tags = {MERGED: f"weights {number}", DECISION: f"decision {number}", VERDICT: "PASS"}
    return Version("m", number, "run", tuple(tags.items()), ())


def entry(number: int, to: int, before: Entry | None, kind: str = "promotion", by: str = "Ada") -> Entry:
    start, previous = (None, FIRST) if before is None else (before.to_version, before.digest())
    texts = (f"weights {to}", f"decision {to}", "PASS", by, "why", "2026-01-02T03:04:05Z", None)
    return Entry(number, kind, "m", start, to, *texts, previous)  # type: ignore[arg-type]


def chain(*versions: int) -> list[Entry]:
    entries: list[Entry] = []
    for number, to in enumerate(versions, 1):
        entries.append(entry(number, to, entries[-1] if entries else None))
    return entries


def record(one: Entry) -> Record:
    return Record(one.number, one.to_json(), one.digest(), one.line())


def checked(entries: list[Entry], records: list[Record], **changed: object) -> History:
    versions = {one.to_version: version(one.to_version) for one in entries}
    model = Model("m", entries[-1].to_version, entries[-1].digest(), versions)
    return check(replace(model, **changed), records)  # type: ignore[arg-type]


def test_an_untouched_log_has_no_fault() -> None:
    entries = chain(1, 2, 3)
    found = checked(entries, [record(one) for one in reversed(entries)])
    assert (found.entries, found.faults, found.void) == (tuple(entries), (), ())
    assert (found.head, found.unfinished, found.alias) == (entries[-1].digest(), False, 3)


def test_of_two_that_name_the_same_entry_before_them_the_first_stands() -> None:
    entries = chain(1, 2)
    late = entry(3, 5, entries[0], by="Bob")
    after = replace(entry(4, 3, entries[1]), from_version=2)
    found = checked([*entries, after], [record(one) for one in (*entries, late, after)])
    assert found.faults == ()
    assert found.entries == (*entries, after)
    assert [(void.entry, void.lost_to) for void in found.void] == [(late, 2)]
    assert found.void[0].line().startswith("VOID, lost against entry 2")
    marked = replace(record(late), description=found.void[0].line())
    assert checked(entries, [*map(record, entries), marked]).faults == ()
    posing = replace(record(entries[1]), description=f"VOID, {entries[1].line()}")
    assert "entry 2 was altered: its description" in checked(entries, [record(entries[0]), posing]).faults[0]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=7), st.data())
def test_no_change_of_one_record_goes_unnoticed(versions: list[int], data: st.DataObject) -> None:
    entries = chain(*versions)
    records = [record(one) for one in entries]
    place = data.draw(st.integers(0, len(records) - 1))
    one, entry_there = records[place], entries[place]
    change = data.draw(st.sampled_from(["field", "whole", "text", "digest", "description", "remove", "swap", "empty"]))
    named = f"entry {place + 1}"
    if change in ("field", "whole"):
        field = data.draw(st.sampled_from(["by", "reason", "at", "decision_digest", "merged_digest", "verdict"]))
        forged = replace(entry_there, **{field: data.draw(TEXT.filter(lambda t: t != getattr(entry_there, field)))})
        kept = replace(one, text=forged.to_json())
        records[place] = kept if change == "field" else record(forged)
        named = named if change == "field" else "entr"
    elif change == "swap":
        other = data.draw(st.integers(0, len(records) - 1).filter(lambda n: n != place))
        records[place] = replace(records[other], number=place + 1)
        records[other] = replace(one, number=other + 1)
        named = "entr"
    elif change == "remove":
        records.pop(place)
        named = named if place + 1 < len(entries) else "the last entry"
    elif change == "empty":
        records[place] = Record(place + 1, None, None, None)
    else:
        value = data.draw(TEXT.filter(lambda t: t != getattr(one, change)))
        records[place] = replace(one, **{change: value})
    faults = checked(entries, records).faults
    assert faults
    assert any(named in fault for fault in faults), faults


MOVES = {
    "from a version that was no champion": (lambda e: replace(e, from_version=1), "moves from version 1"),
    "past the gate": (lambda e: replace(e, verdict="FAIL"), "a promotion needs the verdict PASS"),
    "other weights": (lambda e: replace(e, merged_digest="x"), "merged_digest is x, version 4 is tagged weights 4"),
    "another decision": (lambda e: replace(e, decision_digest="x"), "version 4 is tagged decision 4"),
    "back to what never was": (lambda e: replace(e, kind="rollback"), "which never was the champion"),
    "an override of nobody's": (lambda e: replace(e, kind="override", by=" "), "names no person"),
    "a late adoption": (lambda e: replace(e, kind="adoption"), "at the start of a history only"),
    "after nothing": (lambda e: replace(e, previous="f" * 64), "follows ffffffffffff, which no entry"),
    "of another model": (lambda e: replace(e, name="other"), "speaks of 'other'"),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_forged_entry_is_named(move: str) -> None:
    forge, said = MOVES[move]
    entries = chain(1, 2, 3)
    forged = forge(entry(4, 4, entries[-1]))
    found = checked([*entries, forged], [record(one) for one in (*entries, forged)])
    assert [fault for fault in found.faults if fault.startswith("entry 4") and said in fault], found.faults


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_rolling_back_again_and_again_ends_at_the_first_champion(versions: list[int]) -> None:
    entries = chain(*versions)
    found = checked(entries, [record(one) for one in entries])
    targets = []
    for _ in versions:
        try:
            to = former_champion(found)
        except PromotionRefused:
            break
        targets.append(to)
        entries.append(entry(len(entries) + 1, to, entries[-1], kind="rollback"))
        found = checked(entries, [record(one) for one in entries])
        assert found.faults == ()
    assert targets[-1:] in ([], [versions[0]])
    assert len(targets) <= len(versions) - 1


def test_a_record_of_another_kind_is_no_entry() -> None:
    text = chain(1)[0].to_json()
    assert Entry.from_json(1, text) == chain(1)[0]
    for other in ("", "[]", text + " ", text.replace("/1", "/9"), text.replace('"to_version":1', '"to_version":"1"')):
        with pytest.raises(RegistryError, match="not a record of widen's"):
            Entry.from_json(1, other)


# In a real registry.


def sql(registry: Registry, statement: str) -> None:
    assert registry.database is not None
    connection = sqlite3.connect(registry.database)
    with connection:
        assert connection.execute(statement).rowcount > 0
    connection.close()


def tag_of(number: int, key: str) -> str:
    return f"name = 'm.history' and version = {number} and key = '{key}'"


def rewrite(registry: Registry, client: MlflowClient) -> None:
    """An entry changed with its digest and its description, as one who knows the format would."""
    held = client.get_model_version("m.history", "2")
    forged = replace(Entry.from_json(2, held.tags["entry"]), by="Eve")
    client.set_model_version_tag("m.history", "2", "entry", forged.to_json())
    client.set_model_version_tag("m.history", "2", "digest", forged.digest())
    client.update_model_version("m.history", "2", forged.line())


def cut_off(registry: Registry, client: MlflowClient) -> None:
    """The last entry gone from every table, the alias and the model's tag set back."""
    for table in ("model_version_tags", "model_versions"):
        sql(registry, f"delete from {table} where name = 'm.history' and version = 3")
    client.set_registered_model_alias("m", CHAMPION, "2")
    client.set_registered_model_tag("m", "history_head", client.get_model_version("m", "2").tags[ENTRY])


Tamper = Callable[[Registry, MlflowClient], object]
TAMPERINGS: dict[str, tuple[Tamper, str]] = {
    "an entry's text": (
        lambda r, _: sql(
            r, f"update model_version_tags set value = replace(value, 'Ada', 'Eve') where {tag_of(2, 'entry')}"
        ),
        "entry 2 was altered: its digest is",
    ),
    "an entry's digest": (
        lambda _, c: c.set_model_version_tag("m.history", "2", "digest", "0" * 64),
        "entry 2 was altered: its digest is",
    ),
    "an entry, whole": (rewrite, "entry 3: it follows"),
    "an entry's description": (
        lambda _, c: c.update_model_version("m.history", "2", "all is well"),
        "entry 2 was altered: its description",
    ),
    "an entry's tag removed": (
        lambda _, c: c.delete_model_version_tag("m.history", "2", "entry"),
        "entry 2 was altered",
    ),
    "an entry deleted": (lambda _, c: c.delete_model_version("m.history", "2"), "entry 2 was deleted"),
    "the first entry deleted": (lambda _, c: c.delete_model_version("m.history", "1"), "entry 1 was deleted"),
    "the last entry deleted": (lambda _, c: c.delete_model_version("m.history", "3"), "the last entry that the model"),
    "the last entry wiped": (
        lambda r, _: sql(r, "delete from model_versions where name = 'm.history' and version = 3"),
        "the last entry that the model was told of",
    ),
    "the end cut off and covered up": (cut_off, "version 3 was promoted by an entry"),
    "the whole log deleted": (lambda _, c: c.delete_registered_model("m.history"), "the last entry that the model"),
    "the head's tag removed": (lambda _, c: c.delete_registered_model_tag("m", "history_head"), "tag with the last"),
    "the head's tag changed": (
        lambda _, c: c.set_registered_model_tag("m", "history_head", "0" * 64),
        "the last entry that the model was told of, 000000000000,",
    ),
    "a version's weights": (
        lambda _, c: c.set_model_version_tag("m", "2", MERGED, "0" * 64),
        "version 2 is tagged " + "0" * 64,
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_named_and_stops_promotions(local: Registry, three: list[Decision], tampering: str) -> None:
    tamper, said = TAMPERINGS[tampering]
    assert read_history(local, "m").faults == ()
    number, decision = add_version(local, "m", "d")
    with asking(local) as client:
        tamper(local, client)
    faults = read_history(local, "m").faults
    assert [fault for fault in faults if said in fault], faults
    with pytest.raises(HistoryAltered, match="is not promoted") as caught:
        promote(local, "m", number, decision, **SAID)
    assert caught.value.exit_code == 5
    assert faults[0] in str(caught.value)
    with pytest.raises(HistoryAltered, match="name the version"):
        rollback(local, "m", **SAID)


def test_an_override_goes_on_after_tampering_and_says_so(local: Registry, three: list[Decision]) -> None:
    number, decision = add_version(local, "m", "d")
    with asking(local) as client:
        client.delete_model_version("m.history", "2")
    done = promote(local, "m", number, decision, by="Ada", reason="r", override="looked into it")
    assert done == Promotion(True, 3, 4)
    assert done.entry is not None
    assert done.entry.kind == "override"
    assert "looked into it (overrides also: the history was altered: entry 2 was deleted" in done.entry.reason
    after = read_history(local, "m")
    assert (after.alias, after.unfinished) == (4, False)
    assert "entry 2 was deleted" in after.faults


def test_an_entry_cut_off_without_a_trace_shows_by_its_number_later(local: Registry, three: list[Decision]) -> None:
    with asking(local) as client:
        client.delete_model_version("m.history", "3")
        client.delete_model_version_tag("m", "3", ENTRY)
        client.set_registered_model_alias("m", CHAMPION, "2")
        client.set_registered_model_tag("m", "history_head", client.get_model_version("m", "2").tags[ENTRY])
    assert read_history(local, "m").faults == ()  # why the head's digest is worth keeping elsewhere
    number, decision = add_version(local, "m", "d")
    promote(local, "m", number, decision, **SAID)
    assert "entry 3 was deleted" in read_history(local, "m").faults


KILLED = """
import os, signal, sys
from registry import history
from registry.decision import Decision
from registry.promotion import promote
from registry.store import Registry
history._apply = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
uri, version, decision = sys.argv[1:]
promote(Registry(uri), "m", int(version), Decision.from_json(decision), by="Ada", reason="soon dead")
"""


def test_a_promotion_killed_after_its_entry_is_finished_by_the_next(local: Registry, three: list[Decision]) -> None:
    number, decision = add_version(local, "m", "d", floor=0.5)
    command = [sys.executable, "-c", KILLED, local.uri, str(number), decision.to_json()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    left = read_history(local, "m")
    assert (left.faults, left.unfinished, left.alias, left.entries[-1].to_version) == ((), True, 3, 4)
    other, on_other = add_version(local, "m", "e", against=three[2].merged_digest)
    with pytest.raises(PromotionRefused, match=f"the champion is now {decision.merged_digest}; run the gate again"):
        promote(local, "m", other, on_other, **SAID)
    after = read_history(local, "m")
    assert (after.faults, after.unfinished, after.alias, len(after.entries)) == ((), False, 4, 4)


@pytest.mark.parametrize(
    "killed_at", ["set_model_version_tag", "set_registered_model_alias", "set_registered_model_tag"]
)
def test_whatever_was_left_undone_is_done_by_history(
    local: Registry, three: list[Decision], monkeypatch: pytest.MonkeyPatch, killed_at: str
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    number, decision = add_version(local, "m", "d", floor=0.95)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, killed_at, die)
        with pytest.raises(KeyboardInterrupt):
            promote(local, "m", number, decision, **SAID, override="a customer waits")
    assert read_history(local, "m").unfinished
    assert read_history(local, "m").faults == ()
    after = finish_history(local, "m")
    assert (after.faults, after.unfinished, after.alias) == ((), False, number)
    assert after.versions[number].tag("override") == "a customer waits"
    assert read_history(local, "m") == after


def test_a_writer_that_slept_does_not_set_the_alias_back(
    local: Registry, three: list[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server has no lock: another move is made in full between a writer's entry and its alias."""
    number, decision = add_version(local, "m", "d")
    other, on_other = add_version(local, "m", "e")
    apply, slept = log._apply, []

    def sleep_first(client: MlflowClient, found: History) -> None:
        if not slept:
            slept.append(True)
            apply(client, found)
            with monkeypatch.context() as patch:
                patch.setattr(Registry, "lock", lambda _: asking(local))
                promote(local, "m", other, on_other, **SAID)
        apply(client, found)

    monkeypatch.setattr(log, "_apply", sleep_first)
    assert promote(local, "m", number, decision, **SAID) == Promotion(True, 3, number)
    after = read_history(local, "m")
    assert (after.faults, after.unfinished, after.alias) == ((), False, other)
    assert [one.to_version for one in after.entries] == [1, 2, 3, number, other]


def test_the_second_of_two_writers_without_a_lock_leaves_a_void_entry(local: Registry, three: list[Decision]) -> None:
    before = read_history(local, "m")
    mine = replace(before.entries[-1], kind="rollback", from_version=3, to_version=1, previous=before.head, by="Bob")
    mine = replace(mine, merged_digest=three[0].merged_digest, decision_digest=three[0].digest())
    promote(local, "m", *add_version(local, "m", "d"), **SAID)
    with asking(local) as client:
        after = append(client, local, mine)
        shown = client.get_model_version("m.history", "5").description
    assert mine.digest() not in after.digests()
    assert (after.faults, after.alias, after.void[0].lost_to) == ((), 4, 4)
    assert shown.startswith("VOID, lost against entry 4, nothing was moved. Asked: ")
    assert read_history(local, "m").faults == ()
    promote(local, "m", *add_version(local, "m", "e"), **SAID)
    assert [one.number for one in read_history(local, "m").entries] == [1, 2, 3, 4, 6]


def test_the_registry_giving_up_on_a_number_is_tried_again(
    local: Registry, three: list[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    create, refusals = MlflowClient.create_model_version, []

    def refuse_twice(*arguments: object, **named: object) -> object:
        if len(refusals) < 2:
            refusals.append(True)
            raise MlflowException("Model Version creation error (name=m.history). Giving up after 3 attempts.")
        return create(*arguments, **named)

    new = add_version(local, "m", "d")
    monkeypatch.setattr(log, "_PAUSE", 0.001)
    monkeypatch.setattr(MlflowClient, "create_model_version", refuse_twice)
    assert promote(local, "m", *new, **SAID).moved
    assert len(read_history(local, "m").entries) == 4


def test_an_unknown_model_has_no_history(local: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotRegistered, match="no model is registered as 'm'"):
        read_history(local, "m")
    with pytest.raises(NotRegistered, match="nothing has been registered"):
        read_history(Registry.at(None, tmp_path / "none"), "m")
