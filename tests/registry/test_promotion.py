"""The champion moves as far as a decision carries it, on a person's word, or back; never otherwise."""

import re
from collections.abc import Callable

import pytest

from registry.decision import NO_CHAMPION, Decision
from registry.errors import HistoryAltered, NotRegistered, PromotionRefused
from registry.history import finish_history, read_history
from registry.promotion import Promotion, promote, rollback
from registry.registration import Evidence, register
from registry.store import Registry, asking
from registry.versions import CHAMPION, MERGED, OVERRIDE, OVERRIDE_BY, download, read_decision, read_lineage, resolve
from tests.registry.conftest import add_version

SAID = {"by": "Ada", "reason": "the gate passed"}
BACK = {"by": "Bob", "reason": "too slow"}

Make = Callable[..., Evidence]


def test_promotes_moves_on_and_says_when_nothing_moved(local: Registry, evidence: Make) -> None:
    first, second = evidence(), evidence(salt="second")
    register(local, "quickstart", first)
    register(local, "quickstart", second)
    assert promote(local, "quickstart", 1, first.decision, **SAID) == Promotion(True, None, 1)
    assert promote(local, "quickstart", 1, first.decision, **SAID) == Promotion(False, 1, 1)
    assert promote(local, "quickstart", 2, second.decision, **SAID) == Promotion(True, 1, 2)
    assert resolve(local, "quickstart@champion").version.version == 2


@pytest.mark.parametrize(("floor", "verdict"), [(0.95, "FAIL"), (0.8, "INCONCLUSIVE")])
def test_only_a_pass_promotes(local: Registry, evidence: Make, floor: float, verdict: str) -> None:
    made = evidence(floor=floor)
    assert made.decision.verdict == verdict
    register(local, "quickstart", made)
    with pytest.raises(PromotionRefused, match=f"the gate says {verdict}: app_en/acc of merged") as caught:
        promote(local, "quickstart", 1, made.decision, **SAID)
    assert caught.value.exit_code == 4
    with pytest.raises(NotRegistered, match="no alias 'champion'"):
        resolve(local, "quickstart@champion")


def test_another_models_decision_does_not_promote(local: Registry, evidence: Make) -> None:
    register(local, "quickstart", evidence())
    with pytest.raises(PromotionRefused, match="registered with merged_digest"):
        promote(local, "quickstart", 1, evidence(salt="other").decision, **SAID)


def test_another_decision_about_the_same_model_does_not_promote(local: Registry, evidence: Make) -> None:
    register(local, "quickstart", evidence(floor=0.95))
    with pytest.raises(PromotionRefused, match="registered with decision_digest"):
        promote(local, "quickstart", 1, evidence(floor=0.1).decision, **SAID)


def test_unknown_versions_and_names_are_named(local: Registry, evidence: Make) -> None:
    made = evidence()
    with pytest.raises(NotRegistered, match=r"'quickstart' has no version 1|no model is registered"):
        promote(local, "quickstart", 1, made.decision, **SAID)
    register(local, "quickstart", made)
    with pytest.raises(NotRegistered, match="'quickstart' has no version 7"):
        promote(local, "quickstart", 7, made.decision, **SAID)
    with pytest.raises(NotRegistered, match="no model is registered as 'other'"):
        resolve(local, "other")
    with pytest.raises(NotRegistered, match="expected NAME, NAME@ALIAS or NAME/VERSION"):
        resolve(local, "quickstart/latest")


def test_a_plain_name_means_the_champion_or_else_the_latest(local: Registry, evidence: Make) -> None:
    first, second = evidence(), evidence(salt="second")
    register(local, "quickstart", first)
    register(local, "quickstart", second)
    recorded = read_lineage(local, "quickstart")
    assert recorded.chosen == "quickstart version 2, the latest (there is no champion)"
    assert recorded.lineage == second.lineage
    promote(local, "quickstart", 1, first.decision, **SAID)
    recorded = read_lineage(local, "quickstart")
    assert recorded.chosen == "quickstart version 1, the champion"
    assert recorded.lineage == first.lineage


@pytest.mark.slow
def test_mlflow_itself_loads_the_champion(local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.artifacts import download_artifacts
    from transformers import AutoModelForCausalLM

    made = evidence()
    promote(local, "quickstart", register(local, "quickstart", made).version, made.decision, **SAID)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    folder = download_artifacts("models:/quickstart@champion")
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0


def test_through_a_server(server: Registry, evidence: Make) -> None:
    from transformers import AutoModelForCausalLM

    made = evidence(salt="promoted")
    version = register(server, "promoted", made).version
    assert promote(server, "promoted", version, made.decision, **SAID) == Promotion(True, None, version)
    assert promote(server, "promoted", version, made.decision, **SAID).moved is False
    assert AutoModelForCausalLM.from_pretrained(download(server, "promoted@champion")).num_parameters() > 0


def champion(registry: Registry) -> int:
    return resolve(registry, "m@champion").version.version


def kinds(registry: Registry) -> list[tuple[str, int | None, int]]:
    history = read_history(registry, "m")
    assert history.faults == ()
    assert not history.unfinished
    assert history.alias == history.entries[-1].to_version
    return [(entry.kind, entry.from_version, entry.to_version) for entry in history.entries]


def test_every_promotion_is_an_entry_that_says_who_why_and_on_what(local: Registry, three: list[Decision]) -> None:
    assert kinds(local) == [("promotion", None, 1), ("promotion", 1, 2), ("promotion", 2, 3)]
    last = read_history(local, "m").entries[-1]
    assert (last.number, last.name, last.by, last.reason, last.flow_run) == (3, "m", "Ada", "the gate passed", "run c")
    assert (last.merged_digest, last.decision_digest) == (three[2].merged_digest, three[2].digest())
    assert last.verdict == "PASS"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", last.at)
    assert last.previous == read_history(local, "m").entries[1].digest()
    with asking(local) as client:  # what a person reads who opens MLflow's own page
        shown = client.get_model_version("m.history", "3")
    assert shown.description == last.line()
    assert shown.source == "models:/m/3"


def test_promoting_the_champion_again_adds_no_entry(local: Registry, three: list[Decision]) -> None:
    done = promote(local, "m", 3, three[2], **SAID)
    assert done == Promotion(False, 3, 3)
    assert done.entry is not None
    assert len(kinds(local)) == 3


def test_a_decision_holds_only_against_the_champion_it_was_asked_about(local: Registry) -> None:
    first, on_first = add_version(local, "m", "a", against=NO_CHAMPION)
    promote(local, "m", first, on_first, **SAID)
    none, on_none = add_version(local, "m", "b", against=NO_CHAMPION)
    with pytest.raises(
        PromotionRefused, match=f"against the champion none, the champion is now {on_first.merged_digest}"
    ):
        promote(local, "m", none, on_none, **SAID)
    other, on_other = add_version(local, "m", "c", against="0" * 64)
    with pytest.raises(PromotionRefused, match=f"against the champion {'0' * 64}.*; run the gate again"):
        promote(local, "m", other, on_other, **SAID)
    assert champion(local) == first
    fresh, on_fresh = add_version(local, "m", "d", against=on_first.merged_digest)
    assert promote(local, "m", fresh, on_fresh, **SAID) == Promotion(True, first, fresh)
    assert promote(local, "m", fresh, on_fresh, **SAID).moved is False  # it is the champion itself


@pytest.mark.parametrize(("floor", "verdict"), [(0.95, "FAIL"), (0.8, "INCONCLUSIVE")])
def test_an_override_names_person_reason_and_the_verdict_overridden(
    local: Registry, floor: float, verdict: str
) -> None:
    version, decision = add_version(local, "m", "a", floor=floor)
    with asking(local) as client:
        client.update_model_version("m", str(version), "What it is.")
    for by, override, missing in (("", "a customer waits", "--by"), ("Ada", "  ", "--override")):
        with pytest.raises(PromotionRefused, match=f"{missing}: expected text"):
            promote(local, "m", version, decision, by=by, reason="r", override=override)
    done = promote(local, "m", version, decision, by="Ada", reason="r", override="a customer\nwaits")
    assert done.entry is not None
    assert (done.entry.kind, done.entry.verdict, done.entry.reason) == ("override", verdict, "a customer waits")
    with asking(local) as client:
        held = client.get_model_version("m", str(version))
    assert (held.tags[OVERRIDE], held.tags[OVERRIDE_BY]) == ("a customer waits", "Ada")
    assert held.description.startswith(f"**Override**: the champion although its gate said {verdict}. Ada, ")
    assert held.description.endswith("\n\nWhat it is.")
    assert kinds(local) == [("override", None, version)]
    assert promote(local, "m", version, decision, **SAID).moved is False  # a run again does not undo it


def test_an_override_answers_for_another_champion_but_never_for_other_weights(local: Registry) -> None:
    version, decision = add_version(local, "m", "a", against="0" * 64)
    other = add_version(local, "m", "b")[1]
    with pytest.raises(PromotionRefused, match="registered with merged_digest"):
        promote(local, "m", version, other, **SAID, override="all the same")
    done = promote(local, "m", version, decision, **SAID, override="all the same")
    assert done.entry is not None
    assert (done.entry.kind, done.entry.verdict) == ("override", "PASS")
    assert done.entry.reason.startswith("all the same (overrides also: it was judged against the champion 000")


def test_an_override_that_nothing_needed_is_a_promotion(local: Registry) -> None:
    version, decision = add_version(local, "m", "a")
    promote(local, "m", version, decision, **SAID, override="to be sure")
    assert kinds(local) == [("promotion", None, version)]


def test_a_reason_is_one_line_of_bounded_text(local: Registry) -> None:
    version, decision = add_version(local, "m", "a")
    for bad in ("x" * 1501, "bell \a", "half a letter \udc80"):
        with pytest.raises(PromotionRefused, match="at most 1500 printable characters"):
            promote(local, "m", version, decision, by="Ada", reason=bad)
    promote(local, "m", version, decision, by="Zoë 王", reason="''; drop table; -- \"é\"")
    assert kinds(local) == [("promotion", None, version)]


def test_rolling_back_twice_goes_two_back(local: Registry, three: list[Decision]) -> None:
    assert rollback(local, "m", **BACK) == Promotion(True, 3, 2)
    assert rollback(local, "m", **BACK) == Promotion(True, 2, 1)
    with pytest.raises(PromotionRefused, match="no champion was before this one"):
        rollback(local, "m", **BACK)
    assert rollback(local, "m", 3, **BACK) == Promotion(True, 1, 3)
    assert rollback(local, "m", **BACK) == Promotion(True, 3, 1)
    assert kinds(local)[3:] == [("rollback", 3, 2), ("rollback", 2, 1), ("rollback", 1, 3), ("rollback", 3, 1)]
    assert champion(local) == 1
    assert rollback(local, "m", 1, **BACK) == Promotion(False, 1, 1)


def test_no_rollback_to_what_never_was_the_champion(local: Registry, three: list[Decision]) -> None:
    add_version(local, "m", "d")
    with pytest.raises(PromotionRefused, match=r"version 4 never was the champion \(these were: 1, 2, 3\)"):
        rollback(local, "m", 4, **BACK)
    with pytest.raises(PromotionRefused, match="--reason: expected text"):
        rollback(local, "m", by="Bob", reason=" ")
    add_version(local, "fresh", "a")
    with pytest.raises(PromotionRefused, match="no champion was before this one"):
        rollback(local, "fresh", **BACK)
    with pytest.raises(NotRegistered, match="no model is registered as 'other'"):
        rollback(local, "other", **BACK)


def test_a_deleted_champion_is_skipped_and_cannot_be_rolled_back_to(local: Registry, three: list[Decision]) -> None:
    with asking(local) as client:
        client.delete_model_version("m", "2")
    assert read_history(local, "m").deleted == {2}
    with pytest.raises(NotRegistered, match="'m' has no version 2"):
        rollback(local, "m", 2, **BACK)
    assert rollback(local, "m", **BACK) == Promotion(True, 3, 1)


def test_a_champion_of_before_the_history_is_adopted(local: Registry) -> None:
    add_version(local, "m", "a")
    with asking(local) as client:
        client.set_registered_model_alias("m", CHAMPION, "1")
    assert read_history(local, "m").entries == ()
    version, decision = add_version(local, "m", "b")
    assert promote(local, "m", version, decision, **SAID) == Promotion(True, 1, 2)
    assert kinds(local) == [("adoption", None, 1), ("promotion", 1, 2)]
    assert rollback(local, "m", **BACK) == Promotion(True, 2, 1)


def test_an_alias_moved_by_hand_stops_promotions_until_a_rollback_mends_it(
    local: Registry, three: list[Decision]
) -> None:
    version, decision = add_version(local, "m", "d")
    with asking(local) as client:
        client.set_registered_model_alias("m", CHAMPION, "2")
    said = "the alias champion says version 2, the history says version 3"
    assert said in str(read_history(local, "m").drift)
    assert finish_history(local, "m").alias == 2  # it is not a killed promotion: nobody moves it on
    for override in (None, "all the same"):
        with pytest.raises(HistoryAltered, match=said):
            promote(local, "m", version, decision, **SAID, override=override)
    with pytest.raises(HistoryAltered, match=f"{said}.*name the version"):
        rollback(local, "m", **BACK)
    assert rollback(local, "m", 3, **BACK) == Promotion(True, 3, 3)
    assert kinds(local)[-1] == ("rollback", 3, 3)
    assert promote(local, "m", version, decision, **SAID) == Promotion(True, 3, 4)


def test_a_deleted_champion_is_told_by_the_history(local: Registry, three: list[Decision]) -> None:
    with asking(local) as client:
        client.delete_model_version("m", "3")
    assert "is not set, the history says version 3, which was deleted" in str(read_history(local, "m").drift)
    assert rollback(local, "m", 2, **BACK) == Promotion(True, 3, 2)
    assert kinds(local)[-1] == ("rollback", 3, 2)


def test_the_decision_is_read_from_the_version_itself(local: Registry, evidence: Make) -> None:
    made = evidence()
    version = resolve(local, f"quickstart/{register(local, 'quickstart', made).version}").version
    assert read_decision(local, version) == made.decision


def test_a_decision_changed_after_registration_is_found(local: Registry, evidence: Make) -> None:
    from registry.errors import RegistryError

    register(local, "quickstart", evidence(floor=0.95))
    version = resolve(local, "quickstart/1").version
    assert local.artifact_root is not None
    (kept,) = local.artifact_root.rglob("gate.json")
    kept.write_text(kept.read_text().replace("FAIL", "PASS"))
    with pytest.raises(RegistryError, match=r"its gate\.json is .* was registered"):
        read_decision(local, version)


def test_no_model_takes_the_name_of_a_history(local: Registry, evidence: Make) -> None:
    from registry.errors import RegistryError

    with pytest.raises(RegistryError, match=r"names that end in \.history are kept"):
        register(local, "quickstart.history", evidence())


def test_moves_through_a_server(server: Registry) -> None:
    for salt in "ab":
        version, decision = add_version(server, "moved", salt)
        promote(server, "moved", version, decision, **SAID)
    failed, no = add_version(server, "moved", "c", floor=0.95)
    promote(server, "moved", failed, no, **SAID, override="a customer waits")
    assert rollback(server, "moved", **BACK) == Promotion(True, 3, 2)
    history = read_history(server, "moved")
    assert history.faults == ()
    assert [entry.kind for entry in history.entries] == ["promotion", "promotion", "override", "rollback"]
    assert resolve(server, "moved@champion").version.tag(MERGED) == history.entries[-1].merged_digest


def test_other_gates_on_the_champion_s_own_weights_are_no_stale_decision(local: Registry) -> None:
    """They were judged against the champion that these weights were to replace, not against themselves."""
    first, on_first = add_version(local, "m", "a", against=NO_CHAMPION)
    promote(local, "m", first, on_first, **SAID)
    again, on_again = add_version(local, "m", "a", floor=0.4, against=NO_CHAMPION)
    assert on_again.digest() != on_first.digest()
    assert promote(local, "m", again, on_again, **SAID).to_version == again
    failed, on_failed = add_version(local, "m", "a", floor=0.9, against=NO_CHAMPION)
    with pytest.raises(PromotionRefused, match="the gate says FAIL") as refused:
        promote(local, "m", failed, on_failed, **SAID)
    assert "judged against" not in str(refused.value)
