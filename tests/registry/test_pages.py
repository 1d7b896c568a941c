"""The registry's page of a version: descriptions, tags, a run a scored model; repeated, overridden, on a server."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from registry.errors import NotRegistered, RegistryError
from registry.pages import PAGE, REPORT, VALUES, publish, read_page, refresh, standing
from registry.registration import Evidence, register
from registry.report import Event, Override, Report, build
from registry.scorecard import Scorecard
from registry.store import Registry, asking
from registry.versions import CHAMPION, Version, read_artifact, resolve
from tests.registry.conftest import card

Make = Callable[..., Evidence]


def published(registry: Registry, made: Evidence, name: str = "quickstart") -> tuple[Report, Version]:
    register(registry, name, made)
    version = resolve(registry, f"{name}@candidate").version
    cards: list[Scorecard] = [made.merged, card("base", "b" * 64, 40)]
    report = build(name, version.version, made.decision, made.lineage, cards, standing=standing(version))
    return publish(registry, report), resolve(registry, f"{name}@candidate").version


def descriptions(registry: Registry, version: Version) -> tuple[str, str, str]:
    """Of the registered model, the version and its run."""
    with asking(registry) as client:
        model = client.get_registered_model(version.name).description
        told = client.get_model_version(version.name, str(version.version)).description
        note = client.get_run(version.run_id).data.tags["mlflow.note.content"]
    return str(model), str(told), str(note)


def children(registry: Registry, version: Version) -> dict[str, dict[str, float]]:
    with asking(registry) as client:
        experiment = client.get_run(version.run_id).info.experiment_id
        runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{version.run_id}'")
    assert {run.info.status for run in runs} <= {"FINISHED"}
    return {str(run.info.run_name): dict(run.data.metrics) for run in runs}


@pytest.mark.parametrize("kind", ["local", "server"])
def test_a_version_is_told_where_the_registry_shows_it(
    kind: str, evidence: Make, request: pytest.FixtureRequest
) -> None:
    registry: Registry = request.getfixturevalue(kind)
    report, version = published(registry, evidence(salt=kind), f"told-{kind}")
    model, told, note = descriptions(registry, version)
    assert told == note
    assert told.startswith("✓ PASS: Every question of the gate was answered with yes (1 of 1).")
    for one in (
        "0.8000 [",
        "checkpoints/tagger of ../hub at v1",
        f"/runs/{version.run_id}/artifacts/{PAGE}",
        "widen verify",
    ):
        assert one in told, one
    assert model.startswith("Merges of tagger into base by the recipe quickstart.")
    assert version.tag(REPORT) == f"runs:/{version.run_id}/{PAGE}"
    assert children(registry, version) == {"merged": {"app_en/acc": 0.8}, "base": {"app_en/acc": 0.4}}
    chosen, page = read_page(registry, f"told-{kind}")
    assert "the latest" in chosen
    assert page.startswith("<!DOCTYPE html>")
    assert Report.from_json(read_artifact(registry, version, VALUES)) == report
    assert "<svg" in read_artifact(registry, version, "charts/scores.svg")


def test_telling_it_again_doubles_nothing(local: Registry, evidence: Make) -> None:
    made = evidence()
    _, version = published(local, made)
    first = descriptions(local, version)
    published(local, made)
    assert descriptions(local, version) == first
    assert len(children(local, version)) == 2
    with asking(local) as client:
        experiment = client.get_run(version.run_id).info.experiment_id
        runs = client.search_runs([experiment])
        assert len(runs) == 3
        assert {len(client.get_metric_history(run.info.run_id, "app_en/acc")) for run in runs} == {1}


@pytest.mark.parametrize(("right", "word"), [(30, "FAIL"), (50, "INCONCLUSIVE")])
def test_what_did_not_pass_says_so_first_and_an_override_later(
    right: int, word: str, local: Registry, evidence: Make
) -> None:
    made = evidence(right=right)
    _, version = published(local, made)
    assert descriptions(local, version)[1].split("\n")[0][2:].startswith(f"{word}: ")
    override = Override("Ana Ruiz", "the old one is gone", "2031-05-01T10:00:00Z")
    with asking(local) as client:
        client.set_registered_model_alias("quickstart", CHAMPION, "1")
    refresh(local, "quickstart", 1, override, [Event(1, "override", "none to version 1", "Ana Ruiz", "2031-05-01")])
    told = descriptions(local, version)[1]
    assert told.startswith(f"! OVERRIDDEN: Ana Ruiz promoted this version against the gate, which said {word}")
    assert "Standing when this was written: the champion." in told
    page = read_page(local, "quickstart@champion")[1]
    assert page.index("OVERRIDDEN") < page.index("the old one is gone") < page.index("none to version 1")
    assert len(children(local, version)) == 2
    refresh(local, "quickstart", 1)
    assert descriptions(local, version)[1] == told
    published(local, made)
    assert descriptions(local, version)[1].startswith("! OVERRIDDEN: ")


def test_a_description_of_somebodys_own_is_left_alone(local: Registry, evidence: Make) -> None:
    _, version = published(local, evidence())
    with asking(local) as client:
        client.update_registered_model("quickstart", "Ours. Ask Ana.")
    refresh(local, "quickstart", 1)
    assert descriptions(local, version)[0] == "Ours. Ask Ana."


def test_what_is_not_there_is_named(local: Registry, evidence: Make) -> None:
    made = evidence()
    report, version = published(local, made)
    with pytest.raises(NotRegistered, match="has no version 7"):
        publish(local, dataclasses.replace(report, version=7))
    other = evidence(salt="without a report")
    register(local, "quickstart", other)
    with pytest.raises(RegistryError, match="models:/quickstart/2: no report was logged"):
        read_page(local, "quickstart/2")
    with pytest.raises(RegistryError, match="models:/quickstart/2: no report was logged"):
        refresh(local, "quickstart", 2)
    with asking(local) as client:
        client.log_text(version.run_id, json.dumps({"schema": "other"}), VALUES)
    with pytest.raises(RegistryError, match=r"expected schema widen-report/1, found 'other'"):
        refresh(local, "quickstart", 1)
