"""Weights are freed in a real registry: what nothing keeps goes, the rest stays, whoever comes in between."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import collection
from registry.collection import collect, look
from registry.errors import NotRegistered, PromotionRefused, RegistryError
from registry.holdings import Held
from registry.pages import standing
from registry.promotion import promote, rollback
from registry.registration import Evidence, register
from registry.restoration import restore
from registry.retention import Keep
from registry.store import Registry, asking
from registry.versions import FREED, download, held_folder, read_decision, read_lineage, resolve

Make = Callable[..., Evidence]
LATER = datetime.now(UTC) + timedelta(days=365)
NOTHING, RECORD = Keep(0, 0, 0), {"config.json", "widen-manifest.json"}


def champion(registry: Registry, name: str, evidence: Evidence) -> int:
    version = register(registry, name, evidence).version
    promote(registry, name, version, evidence.decision, by="Ada", reason="better")
    return version


def candidates(registry: Registry, name: str, evidence: Make, count: int) -> list[Evidence]:
    made = [evidence(salt=f"{name}{number}") for number in range(1, count + 1)]
    for one in made:
        register(registry, name, one)
    return made


def files(registry: Registry, reference: str) -> set[str]:
    version = resolve(registry, reference).version
    with asking(registry) as client:
        place = client.get_model_version_download_uri(version.name, str(version.version))
        return {file.name for file in collection.stored(registry, place)}


def tag(registry: Registry, reference: str) -> str | None:
    return resolve(registry, reference).version.tag(FREED)


def alias(registry: Registry, name: str, word: str, version: int) -> None:
    with asking(registry) as client:
        client.set_registered_model_alias(name, word, str(version))


def went(done: tuple[collection.Collected, ...]) -> list[int]:
    return [one.version for one in done if one.left is None]


def test_what_nothing_keeps_goes_and_its_record_stays(local: Registry, evidence: Make) -> None:
    made = candidates(local, "m", evidence, 3)
    for one in made[:1]:
        (one.folder / "model.safetensors").unlink()  # the registry's link is now the only name
    found = look(local, [], NOTHING, LATER)
    assert [one.version for one in found.going] == [1, 2]
    assert [(one.version, one.reasons) for one in found.kept] == [(3, ("alias candidate",))]
    weight = (made[1].folder / "model.safetensors").stat().st_size
    assert weight <= found.going[0].gained < found.going[0].size  # but for the tokenizer, linked elsewhere too
    assert found.going[1].gained == 0
    done = collect(local, [], NOTHING, LATER)
    assert [(one.version, one.gained, one.left) for one in done] == [(1, weight, None), (2, 0, None)]
    assert done[0].removed == found.going[0].size
    for reference in ("m/1", "m/2"):
        assert files(local, reference) == RECORD
        assert tag(local, reference) == f"{LATER:%Y-%m-%dT%H:%M:%SZ}, {found.going[0].size} bytes"
        assert read_lineage(local, reference).version.freed is not None
        assert read_decision(local, resolve(local, reference).version).passed
    assert (download(local, "m/3") / "model.safetensors").is_file()
    assert (made[1].folder / "model.safetensors").is_file()
    assert collect(local, [], NOTHING, LATER) == ()
    assert [one.version for one in look(local, [], NOTHING, LATER).freed] == [1, 2]


def test_a_dry_run_changes_nothing(local: Registry, evidence: Make, tmp_path: Path) -> None:
    candidates(local, "m", evidence, 2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert look(local, ["m"], NOTHING, LATER).going
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_only_the_models_that_are_named(local: Registry, evidence: Make) -> None:
    for name in ("a", "b"):
        candidates(local, name, evidence, 2)
    collect(local, ["a"], NOTHING, LATER)
    assert (files(local, "a/1"), files(local, "b/1") > RECORD) == (RECORD, True)
    with pytest.raises(NotRegistered, match="no model is registered as 'c'"):
        look(local, ["c"], NOTHING, LATER)


@pytest.mark.slow
def test_age_and_counts_keep(local: Registry, evidence: Make) -> None:
    candidates(local, "m", evidence, 3)
    now = datetime.now(UTC)
    assert look(local, [], Keep(0, 0, 1), now).going == ()
    assert [one.version for one in look(local, [], Keep(0, 2, 1), LATER).going] == [1]


@pytest.mark.slow
def test_a_freed_version_is_not_promoted_until_it_is_restored(local: Registry, evidence: Make) -> None:
    (first, _) = candidates(local, "m", evidence, 2)
    collect(local, [], NOTHING, LATER)
    with pytest.raises(
        PromotionRefused, match=r"m/1 is not promoted: its weights were freed .* widen restore m/1 puts"
    ):
        promote(local, "m", 1, first.decision, by="Ada", reason="better")
    with pytest.raises(PromotionRefused):
        promote(local, "m", 1, first.decision, by="Ada", reason="better", override="now")
    for ask in (download, held_folder):
        with pytest.raises(RegistryError, match=r"weights were freed .* widen restore m/1"):
            ask(local, "m/1")
    assert "neither champion nor candidate; its weights were freed" in standing(resolve(local, "m/1").version)
    with pytest.raises(RegistryError, match="expected the weights"):
        restore(local, "m/1", evidence(salt="other").folder)
    assert restore(local, "m/1", first.folder).freed is None
    assert (download(local, "m/1") / "model.safetensors").samefile(first.folder / "model.safetensors")
    assert promote(local, "m", 1, first.decision, by="Ada", reason="better").moved
    with pytest.raises(RegistryError, match="there is nothing to restore"):
        restore(local, "m/1", first.folder)


@pytest.mark.slow
def test_files_that_were_lost_are_put_back_whole(local: Registry, evidence: Make) -> None:
    made = evidence()
    register(local, "m", made)
    whole = files(local, "m/1")
    shutil.rmtree(download(local, "m/1"))
    with pytest.raises(RegistryError, match=r"its files are gone from .*; widen restore"):
        held_folder(local, "m/1")
    assert restore(local, "m/1", made.folder).freed is None
    assert files(local, "m/1") == whole


@pytest.mark.slow
def test_a_restored_version_is_young_again(local: Registry, evidence: Make) -> None:
    (first, _) = candidates(local, "m", evidence, 2)
    collect(local, [], NOTHING, LATER)
    restore(local, "m/1", first.folder)
    assert look(local, [], Keep(0, 0, 30), datetime.now(UTC)).going == ()


@pytest.mark.slow
def test_rollbacks_skip_what_was_freed(local: Registry, evidence: Make) -> None:
    for number in range(1, 6):
        champion(local, "m", evidence(salt=str(number)))
    with asking(local) as client:
        client.set_model_version_tag("m", "4", FREED, "2026-01-01T00:00:00Z, 1 bytes")
    assert rollback(local, "m", by="Bob", reason="slow").to_version == 3
    with pytest.raises(PromotionRefused, match=r"m/4 is not made the champion again.*widen restore m/4"):
        rollback(local, "m", 4, by="Bob", reason="slow")
    with asking(local) as client:
        for version in "12":
            client.set_model_version_tag("m", version, FREED, "2026-01-01T00:00:00Z, 1 bytes")
    with pytest.raises(PromotionRefused, match=r"m/2 is not made the champion again.*widen restore m/2"):
        rollback(local, "m", by="Bob", reason="slow")


@pytest.mark.slow
def test_where_a_rollback_goes_always_stays(local: Registry, evidence: Make) -> None:
    for number in range(1, 5):
        champion(local, "m", evidence(salt=str(number)))
    assert went(collect(local, [], NOTHING, LATER)) == [1, 2]
    assert rollback(local, "m", by="Bob", reason="slow").to_version == 3
    assert (download(local, "m@champion") / "model.safetensors").is_file()


@pytest.mark.slow
def test_registered_again_a_freed_version_has_its_files_again(local: Registry, evidence: Make) -> None:
    (first, _) = candidates(local, "m", evidence, 2)
    collect(local, [], NOTHING, LATER)
    again = register(local, "m", first)
    assert (again.version, again.reused, tag(local, "m/1")) == (1, True, None)
    assert files(local, "m/1") == files(local, "m/2")


@pytest.mark.slow
def test_a_copy_in_another_model_keeps_the_files(local: Registry, evidence: Make) -> None:
    candidates(local, "m", evidence, 2)
    with asking(local) as client:
        client.create_registered_model("serving")
        source = client.get_model_version_download_uri("m", "1")
        client.create_model_version("serving", source)
    alias(local, "serving", "live", 1)
    assert collect(local, [], NOTHING, LATER) == ()
    assert files(local, "m/1") > RECORD


@pytest.mark.slow
def test_a_version_of_another_program_is_left_alone(local: Registry, evidence: Make, tmp_path: Path) -> None:
    candidates(local, "m", evidence, 1)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "weights.bin").write_text("theirs")
    with asking(local) as client:
        client.create_model_version("m", str(tmp_path / "theirs"))
    assert collect(local, [], NOTHING, LATER) == ()
    assert (tmp_path / "theirs" / "weights.bin").exists()


# Killed, and raced


def interrupted(registry: Registry, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A collection that ends hard once `after` files are gone."""
    removed = []

    def remove(*arguments: Any) -> None:
        if len(removed) == after:
            raise KeyboardInterrupt
        removed.append(arguments)
        os.sync()
        truly(*arguments)

    truly = collection.remove
    with monkeypatch.context() as patch:
        patch.setattr(collection, "remove", remove)
        with pytest.raises(KeyboardInterrupt):
            collect(registry, [], NOTHING, LATER)


@pytest.mark.slow
@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_killed_collection_is_finished_by_the_next(
    local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    made = candidates(local, "m", evidence, 3)
    whole = look(local, [], NOTHING, LATER).going[0].size
    interrupted(local, monkeypatch, after)
    assert (tag(local, "m/1") or "").startswith("being freed since")
    with pytest.raises(PromotionRefused):
        promote(local, "m", 1, made[0].decision, by="Ada", reason="better")
    assert went(collect(local, [], NOTHING, LATER)) == [1, 2]
    assert (files(local, "m/1"), files(local, "m/2")) == (RECORD, RECORD)
    assert (tag(local, "m/1") or "").endswith(f" {whole} bytes")


@pytest.mark.slow
def test_what_is_wanted_after_a_kill_loses_the_mark_or_is_told_as_broken(
    local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = candidates(local, "m", evidence, 3)
    interrupted(local, monkeypatch, 1)
    alias(local, "m", "wanted", 1)
    alias(local, "m", "also", 2)
    first, second = collect(local, [], NOTHING, LATER)
    assert first.left == "alias wanted; generation_config.json went before: widen restore m/1 puts it back"
    assert (second.left, tag(local, "m/2")) == ("alias also", None)
    assert restore(local, "m/1", made[0].folder).freed is None


@pytest.fixture(params=["local", pytest.param("server", marks=pytest.mark.slow)])
def raced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(collection, "SETTLING", 0.2)
    found: Registry = request.getfixturevalue(request.param)
    return found


@pytest.mark.slow
def test_an_alias_set_while_it_works_keeps_the_version(
    raced: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set once the version is marked, before its first file goes: nothing of it may be gone."""
    candidates(raced, "aliased", evidence, 3)
    truly = collection._free

    def free(client: Any, registry: Registry, held: Held, mark: str) -> collection.Collected:
        if held.version == 1:
            alias(registry, "aliased", "late", 1)
        return truly(client, registry, held, mark)

    monkeypatch.setattr(collection, "_free", free)
    done = collect(raced, ["aliased"], NOTHING, LATER)
    assert [(one.version, one.removed, one.left) for one in done[:1]] == [(1, 0, "alias late was set meanwhile")]
    assert went(done) == [2]
    assert (tag(raced, "aliased/1"), files(raced, "aliased/1")) == (None, files(raced, "aliased/3"))
    assert files(raced, "aliased/2") == RECORD


@pytest.mark.slow
def test_an_alias_set_between_two_files_stops_it_and_is_told(
    raced: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = candidates(raced, "halfway", evidence, 2)
    truly = collection.remove

    def remove(registry: Registry, place: str, name: str) -> None:
        truly(registry, place, name)
        alias(registry, "halfway", "late", 1)

    monkeypatch.setattr(collection, "remove", remove)
    (done,) = collect(raced, ["halfway"], NOTHING, LATER)
    assert done.left == "alias late was set meanwhile: widen restore halfway/1 puts it back"
    assert len(files(raced, "halfway/1")) == len(files(raced, "halfway/2")) - 1
    assert restore(raced, "halfway/1", made[0].folder).freed is None
    assert files(raced, "halfway/1") == files(raced, "halfway/2")


@pytest.mark.slow
def test_a_promotion_through_a_server_that_came_before_the_mark_keeps_the_version(
    server: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has no lock: the promotion read the version before the mark, and is through when it is asked again."""
    made = candidates(server, "promoted-late", evidence, 2)
    truly = collection.time.sleep

    def settle(seconds: float) -> None:
        with asking(server) as client:  # the promotion's view is the one before the mark
            mark = client.get_model_version("promoted-late", "1").tags[FREED]
            client.delete_model_version_tag("promoted-late", "1", FREED)
            promote(server, "promoted-late", 1, made[0].decision, by="Ada", reason="better")
            client.set_model_version_tag("promoted-late", "1", FREED, mark)
        truly(0)

    monkeypatch.setattr(collection.time, "sleep", settle)
    (done,) = collect(server, ["promoted-late"], NOTHING, LATER)
    monkeypatch.undo()
    assert done.left is not None
    assert (done.removed, tag(server, "promoted-late/1")) == (0, None)
    assert files(server, "promoted-late@champion") > RECORD


@pytest.mark.slow
def test_freed_and_restored_through_a_server(server: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "SETTLING", 0.2)
    first, _ = candidates(server, "served-gc", evidence, 2)
    (done,) = collect(server, ["served-gc"], NOTHING, LATER)
    assert (done.version, done.gained, done.left) == (1, done.removed, None)
    assert files(server, "served-gc/1") == RECORD
    with pytest.raises(PromotionRefused, match="widen restore served-gc/1"):
        promote(server, "served-gc", 1, first.decision, by="Ada", reason="better")
    restore(server, "served-gc/1", first.folder)
    assert files(server, "served-gc/1") == files(server, "served-gc/2")
    promote(server, "served-gc", 1, first.decision, by="Ada", reason="better")
