"""The champion moves only as far as a decision carries it."""

from collections.abc import Callable

import pytest

from registry.errors import NotRegistered, PromotionRefused
from registry.promotion import Promotion, promote
from registry.registration import Evidence, register
from registry.store import Registry
from registry.versions import download, read_lineage, resolve

Make = Callable[..., Evidence]


def test_promotes_moves_on_and_says_when_nothing_moved(local: Registry, evidence: Make) -> None:
    first, second = evidence(), evidence(salt="second")
    register(local, "quickstart", first)
    register(local, "quickstart", second)
    assert promote(local, "quickstart", 1, first.decision) == Promotion(True, None, 1)
    assert promote(local, "quickstart", 1, first.decision) == Promotion(False, 1, 1)
    assert promote(local, "quickstart", 2, second.decision) == Promotion(True, 1, 2)
    assert resolve(local, "quickstart@champion").version.version == 2


@pytest.mark.parametrize(("floor", "verdict"), [(0.95, "FAIL"), (0.8, "INCONCLUSIVE")])
def test_only_a_pass_promotes(local: Registry, evidence: Make, floor: float, verdict: str) -> None:
    made = evidence(floor=floor)
    assert made.decision.verdict == verdict
    register(local, "quickstart", made)
    with pytest.raises(PromotionRefused, match=f"the gate says {verdict}: app_en/acc of merged") as caught:
        promote(local, "quickstart", 1, made.decision)
    assert caught.value.exit_code == 4
    with pytest.raises(NotRegistered, match="no alias 'champion'"):
        resolve(local, "quickstart@champion")


def test_another_models_decision_does_not_promote(local: Registry, evidence: Make) -> None:
    register(local, "quickstart", evidence())
    with pytest.raises(PromotionRefused, match="registered with merged_digest"):
        promote(local, "quickstart", 1, evidence(salt="other").decision)


def test_another_decision_about_the_same_model_does_not_promote(local: Registry, evidence: Make) -> None:
    register(local, "quickstart", evidence(floor=0.95))
    with pytest.raises(PromotionRefused, match="registered with decision_digest"):
        promote(local, "quickstart", 1, evidence(floor=0.1).decision)


def test_unknown_versions_and_names_are_named(local: Registry, evidence: Make) -> None:
    made = evidence()
    with pytest.raises(NotRegistered, match=r"'quickstart' has no version 1|no model is registered"):
        promote(local, "quickstart", 1, made.decision)
    register(local, "quickstart", made)
    with pytest.raises(NotRegistered, match="'quickstart' has no version 7"):
        promote(local, "quickstart", 7, made.decision)
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
    promote(local, "quickstart", 1, first.decision)
    recorded = read_lineage(local, "quickstart")
    assert recorded.chosen == "quickstart version 1, the champion"
    assert recorded.lineage == first.lineage


def test_mlflow_itself_loads_the_champion(local: Registry, evidence: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.artifacts import download_artifacts
    from transformers import AutoModelForCausalLM

    made = evidence()
    promote(local, "quickstart", register(local, "quickstart", made).version, made.decision)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local.uri)
    folder = download_artifacts("models:/quickstart@champion")
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0


def test_through_a_server(server: Registry, evidence: Make) -> None:
    from transformers import AutoModelForCausalLM

    made = evidence(salt="promoted")
    version = register(server, "promoted", made).version
    assert promote(server, "promoted", version, made.decision) == Promotion(True, None, version)
    assert promote(server, "promoted", version, made.decision).moved is False
    assert AutoModelForCausalLM.from_pretrained(download(server, "promoted@champion")).num_parameters() > 0
