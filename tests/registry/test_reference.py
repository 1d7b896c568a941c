"""Which champion a merge is compared with; a run that is repeated is compared with what it was compared with."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.decision import NO_CHAMPION, Decision
from registry.errors import GateError, RegistryError
from registry.gate import Champion, Parent, decide
from registry.promotion import promote
from registry.reference import Incumbent, incumbent
from registry.registration import Evidence, register
from registry.scorecard import Scorecard
from registry.store import Registry, asking
from registry.versions import resolve
from tasks.champion import fetch_champion, find_champion
from tasks.gate import gate
from tests.registry.conftest import card
from widen.errors import InputsRefused

Make = Callable[..., Evidence]
CLAUSES = (Champion("app_en", "acc", 0.2), Parent("app_en", "acc", "tagger", margin=0.2))
BASE, TAGGER = card("base", "b" * 64, 40), card("tagger", "c" * 64, 78)


def judged(made: Evidence, champion: Scorecard | None) -> Evidence:
    """The same evidence with a decision against `champion`."""
    decision = decide(CLAUSES, made.merged, BASE, {"tagger": TAGGER}, 0.05, champion)
    assert decision.passed
    lineage = dataclasses.replace(made.lineage, decision_digest=decision.digest())
    return dataclasses.replace(made, decision=decision, lineage=lineage)


def promoted(registry: Registry, made: Evidence) -> Evidence:
    done = register(registry, "quickstart", made)
    promote(registry, "quickstart", done.version, made.decision, by="Ada", reason="it passed")
    return made


def test_nothing_to_compare_with_before_a_first_promotion(local: Registry, evidence: Make, tmp_path: Path) -> None:
    assert incumbent(Registry.at(None, tmp_path / "nowhere"), "quickstart", "a" * 64) is None
    assert incumbent(local, "quickstart", "a" * 64) is None
    register(local, "quickstart", evidence())
    assert incumbent(local, "quickstart", "a" * 64) is None


def test_the_champion_and_for_itself_what_it_was_judged_against(local: Registry, evidence: Make) -> None:
    first = promoted(local, judged(evidence(), None))
    assert first.decision.against == NO_CHAMPION
    found = incumbent(local, "quickstart", "a" * 64)
    assert found is not None
    assert (found.version.version, found.digest) == (1, first.lineage.merged_digest)
    assert incumbent(local, "quickstart", first.lineage.merged_digest) is None

    champion = dataclasses.replace(first.merged, model="champion")
    second = promoted(local, judged(evidence(salt="second"), champion))
    newest = incumbent(local, "quickstart", "a" * 64)
    assert newest is not None
    assert newest.version.version == 2
    again = incumbent(local, "quickstart", second.lineage.merged_digest)
    assert again == Incumbent(resolve(local, "quickstart/1").version, first.lineage.merged_digest)
    assert judged(second, champion).decision.digest() == second.decision.digest()
    assert register(local, "quickstart", second).reused


def test_a_champion_of_a_gate_that_asked_about_none(local: Registry, evidence: Make) -> None:
    made = promoted(local, evidence())
    assert made.decision.against is None
    assert incumbent(local, "quickstart", made.lineage.merged_digest) is None


def test_a_server_answers_the_same(server: Registry, evidence: Make, tmp_path: Path) -> None:
    made = evidence(salt="on a server")
    register(server, "compared", made)
    promote(server, "compared", 1, made.decision, by="Ada", reason="it passed")
    found = find_champion.fn(server, "compared", "a" * 64)
    assert found is not None
    assert found.digest == made.lineage.merged_digest
    # The test's manifest is not the engine's, so the files are brought and then refused: never scored as that model.
    with pytest.raises(InputsRefused, match="models:/compared/1: expected the model registered as"):
        fetch_champion.fn(server, found, tmp_path / "champion")
    assert any((tmp_path / "champion").iterdir())


def test_a_record_that_was_changed_or_is_gone_is_an_error(local: Registry, evidence: Make) -> None:
    first = promoted(local, judged(evidence(), None))
    second = promoted(local, judged(evidence(salt="second"), dataclasses.replace(first.merged, model="champion")))
    with asking(local) as client:
        client.delete_model_version("quickstart", "1")
    with pytest.raises(RegistryError, match="quickstart has no version with those any more"):
        incumbent(local, "quickstart", second.lineage.merged_digest)
    with asking(local) as client:
        client.set_model_version_tag("quickstart", "2", "decision_digest", "0" * 64)
    with pytest.raises(RegistryError, match="changed after registration"):
        incumbent(local, "quickstart", second.lineage.merged_digest)
    with asking(local) as client:
        client.delete_model_version_tag("quickstart", "2", "merged_digest")
    with pytest.raises(RegistryError, match="no tag merged_digest, so it was not registered by widen"):
        incumbent(local, "quickstart", "a" * 64)


def written(folder: Path, *cards: Scorecard) -> dict[str, Path]:
    for one in cards:
        (folder / f"{one.model}.json").write_text(one.to_json())
    return {one.model: folder / f"{one.model}.json" for one in cards}


def test_the_gate_task_takes_the_champions_scores_and_no_others(tmp_path: Path) -> None:
    champion = card("champion", "e" * 64, 79)
    files = written(tmp_path, card("merged", "a" * 64, 80), BASE, TAGGER, champion)
    asked = (CLAUSES, files, "base", ("tagger",), "merged", 0.05, tmp_path / "gate.json")
    decision = Decision.from_json(gate.fn(*asked, ("champion", champion.digest)).read_text())
    assert (decision.against, decision.passed) == (champion.digest, True)
    assert Decision.from_json(gate.fn(*asked).read_text()).against == NO_CHAMPION
    with pytest.raises(GateError, match=r"the champion is now ffff.*, the scores are of eeee.*; evaluate it again"):
        gate.fn(*asked, ("champion", "f" * 64))
    del files["champion"]
    with pytest.raises(GateError, match="champion: no scorecard; found base, merged, tagger; evaluate it first"):
        gate.fn(*asked, ("champion", champion.digest))
