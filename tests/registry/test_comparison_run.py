"""A comparison in a real MLflow registry: a parent and its children, taken up where they were left."""

from pathlib import Path

import pytest

from registry.comparison_run import CANDIDATE, COMPARISON, ComparisonRun, Entry, comparison_run
from registry.errors import RegistryError
from registry.store import Registry, asking

INPUTS = {"base": "b" * 64, "tagger": "t" * 64}
PARAMS = {"methods": "widen, ties", "seed": "0"}


def entry(name: str, objective: float = 0.5) -> Entry:
    return Entry(
        f"key of {name}",
        name,
        "d" * 64,
        "s" * 64,
        {"method": name},
        {"objective": objective, "selection/app_en/acc": 0.7},
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry.at(None, tmp_path_factory.mktemp("workspace"))


def runs_of(registry: Registry, name: str) -> list:
    with asking(registry) as client:
        experiment = client.get_experiment_by_name(f"{name}.compare")
        return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def test_one_parent_holds_every_candidate(registry: Registry, tmp_path: Path) -> None:
    picture = tmp_path / "comparison.png"
    picture.write_bytes(b"picture")
    with comparison_run(registry, "whole", "c" * 64, PARAMS, INPUTS) as run:
        run.record(entry("widen"))
        run.record(entry("ties", 0.4))
        run.judged("key of widen", {"gate/app_en/acc": 0.6})
        run.finish({"objective": 0.5}, {"picture": picture}, {"recipe.yaml": "name: whole"})
    found = runs_of(registry, "whole")
    (parent,) = [one for one in found if COMPARISON in one.data.tags]
    children = {one.data.tags[CANDIDATE]: one for one in found if CANDIDATE in one.data.tags}
    assert {one.info.status for one in found} == {"FINISHED"}
    assert parent.data.params == PARAMS
    assert parent.data.tags["widen.input.tagger"] == INPUTS["tagger"]
    assert parent.data.metrics == {"objective": 0.5}
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {parent.info.run_id}
    assert children["key of widen"].data.metrics == {
        "objective": 0.5,
        "selection/app_en/acc": 0.7,
        "gate/app_en/acc": 0.6,
    }
    assert children["key of ties"].data.params == {"method": "ties"}
    assert {one.data.tags["widen.settings"] for one in children.values()} == {"s" * 64}
    with asking(registry) as client:
        assert {one.path for one in client.list_artifacts(parent.info.run_id)} == {"comparison.png", "recipe.yaml"}
        assert client.search_registered_models() == []


def interrupted(registry: Registry) -> ComparisonRun:
    """A comparison that Ctrl-C ended after its first candidate."""
    held = []
    try:
        with comparison_run(registry, "again", "c" * 64, PARAMS, INPUTS) as run:
            held.append(run)
            run.record(entry("widen"))
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return held[0]


def test_a_second_time_continues_the_same_runs(registry: Registry) -> None:
    run = interrupted(registry)
    assert {one.info.status for one in runs_of(registry, "again")} == {"KILLED", "FINISHED"}
    with asking(registry) as client:  # as a kill leaves it: begun, and not told
        begun = client.create_run(run.experiment, tags={"mlflow.parentRunId": run.run_id, CANDIDATE: "key of ties"})
    with comparison_run(registry, "again", "c" * 64, PARAMS, INPUTS) as again:
        assert again.run_id == run.run_id
        assert set(again.recorded) == {"key of widen"}
        again.record(entry("widen", 0.9))
        again.record(entry("ties"))
        assert again.recorded["key of ties"] == begun.info.run_id
    found = runs_of(registry, "again")
    assert len(found) == 3
    assert {one.info.status for one in found} == {"FINISHED"}
    assert [one.data.metrics["objective"] for one in found if one.data.tags.get(CANDIDATE) == "key of widen"] == [0.5]


def test_another_comparison_is_another_parent(registry: Registry) -> None:
    for key in ("one", "two"):
        with comparison_run(registry, "other", key, PARAMS, INPUTS):
            pass
    assert len(runs_of(registry, "other")) == 2


def test_an_error_marks_the_run_and_is_told(registry: Registry) -> None:
    with pytest.raises(ValueError, match="mine"), comparison_run(registry, "failed", "c", PARAMS, INPUTS):
        raise ValueError("mine")
    assert [one.info.status for one in runs_of(registry, "failed")] == ["FAILED"]


def test_parameters_are_never_cut(registry: Registry) -> None:
    long = Entry("key", "widen", "d", "s", {"t": "x" * 6001}, {})
    with (
        pytest.raises(RegistryError, match="parameters t: longer"),
        comparison_run(registry, "l", "c", PARAMS, {}) as run,
    ):
        run.record(long)
