"""Stations evaluate and gate with a champion in a real registry; scoring itself is stood in for by known scores."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from flows import stations
from flows.compare import run
from flows.compare.bench import Bench
from flows.recipe import load_recipe
from flows.road import Road, plainly
from registry.decision import NO_CHAMPION, Decision
from registry.errors import GateError
from registry.lineage import SourceRecord, build
from registry.promotion import promote
from registry.provenance import collect
from registry.registration import Evidence, register
from registry.scorecard import Document, Scorecard, TaskScores
from registry.store import Registry, asking
from registry.versions import download
from tasks import champion
from tasks import evaluate as door
from tasks.fetch import Fetched
from tests.flows.test_recipe import WHOLE
from widen import Manifest
from widen.digests import hash_file
from widen.errors import InputsRefused
from widen.manifest import MANIFEST_FILE, Input
from widen.manifest import Recipe as MergedRecipe

GATES = """\
gates:
  parents: [{task: app_en, metric: acc, owner: tagger, keep: 0.5}]
  champion: [{task: app_en, metric: acc, margin: 0.1}]
registry: {name: quickstart}
"""


class Place:
    """A workspace with a recipe, whose merges are a few bytes; `right`: the documents each model answers correctly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.right = {"base": 60, "tagger": 160, "indonesian": 70}
        self.kept: set[str] = set()
        self.asked: list[tuple[str, Path]] = []
        recipe = folder / "recipe.yaml"
        recipe.write_text(WHOLE[: WHOLE.index("gates:")].replace("[app_en, bpb_id]", "[app_en]") + GATES)
        (folder / "evaluation").mkdir()
        self.road = Road(load_recipe(recipe), folder, "cpu", plainly)
        self.sources = tuple(self.source(name) for name in self.road.recipe.inputs)
        self.road.run_folder.mkdir(parents=True)
        self.measurements = self.road.run_folder / "measurements.json"
        inputs = ", ".join(f'{{"name": "{one.name}", "digest": "{one.name}"}}' for one in self.sources)
        self.measurements.write_text(f'{{"inputs": [{inputs}]}}')

    def source(self, name: str) -> Fetched:
        spec = self.road.recipe.inputs[name]
        return Fetched(name, self.folder, spec.path, spec.repo, spec.rev, "c" * 40, "d" * 32)

    def evaluate(self, model: str, folder: Path, digest: str, _settings: object, _cache: Path, out: Path) -> Path:
        """In place of lm-eval."""
        if digest not in self.kept:
            self.asked.append((model, folder))
            self.kept.add(digest)
        documents = tuple(Document(f"d{i:03}", "t", float(i < self.right[digest])) for i in range(200))
        scores = TaskScores("app_en", "acc", "none", "proportion", True, "1", "hash", documents)
        out.parent.mkdir(exist_ok=True)
        out.write_text(Scorecard(model, digest, "harness", (scores,)).to_json())
        return out

    def merge(self, weights: str, right: int) -> Path:
        """The merged folder with these bytes."""
        folder = self.road.merged_folder
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():  # linked, they are a registered version's too
            old.unlink()
        (folder / "model.safetensors").write_text(weights)
        files = {"model.safetensors": hash_file(folder / "model.safetensors")}
        inputs = [Input("model" if i else "base", one.name, "e" * 64, files, {}) for i, one in enumerate(self.sources)]
        made = MergedRecipe("quickstart", "f" * 64)
        manifest = Manifest({"name": "widen", "version": "1"}, made, "widen", {"t": 1.0}, inputs, {}, files, ())
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest.to_json()))
        self.right[manifest.digest] = right
        return folder

    def run(self, merged: Path) -> tuple[dict[str, Path], Decision]:
        cards = stations.evaluate(self.road, self.sources, self.measurements, merged)
        return cards, Decision.from_json(stations.gate(self.road, merged, cards).read_text())

    def promoted(self, merged: Path, cards: dict[str, Path], decision: Decision) -> int:
        records = tuple(SourceRecord(s.name, s.path, s.repo, s.rev, s.commit, s.content) for s in self.sources)
        lineage = build(merged / MANIFEST_FILE, records, "name: quickstart\n", decision, collect(), None, None)
        card = Scorecard.from_json(cards["merged"].read_text())
        done = register(self.road.registry, "quickstart", Evidence(merged, lineage, decision, card, {}))
        promote(self.road.registry, "quickstart", done.version, decision, by="Ada", reason="it passed")
        return done.version


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without content: migrating takes seconds, copying does not."""
    registry = Registry.at(None, tmp_path_factory.mktemp("empty"))
    with asking(registry, create=True) as client:
        client.search_registered_models()
    assert registry.database is not None
    return registry.database


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Place:
    made = Place(tmp_path)
    database = made.road.registry.database
    assert database is not None
    database.parent.mkdir(parents=True)
    shutil.copyfile(empty_store, database)
    monkeypatch.setattr(stations, "_score", lambda *_: None)
    monkeypatch.setattr(door, "evaluate", made.evaluate)
    monkeypatch.setattr(door, "is_scored", lambda digest, *_: digest in made.kept)
    monkeypatch.setattr(door, "count_documents", lambda *_: {"app_en": 50})
    return made


def test_first_run_next_run_and_each_again(place: Place) -> None:
    first = place.merge("first", 140)
    cards, decision = place.run(first)
    assert (set(cards), decision.against) == ({"base", "tagger", "indonesian", "merged"}, NO_CHAMPION)
    assert decision.passed
    assert place.promoted(first, cards, decision) == 1
    assert place.run(first)[1] == decision

    digest = Manifest.load(first).digest
    second = place.merge("second", 150)
    cards, decision = place.run(second)
    assert decision.against == digest
    assert Scorecard.from_json(cards["champion"].read_text()).get("app_en", "acc").value == 0.7
    assert decision.results[-1].references[0].model == "champion"
    assert place.promoted(second, cards, decision) == 2
    again, repeated = place.run(second)
    assert (set(again), repeated) == (set(cards), decision)
    assert place.promoted(second, again, repeated) == 2

    newest = Manifest.load(second).digest
    _, decision = place.run(place.merge("first", 140))  # an older merge is asked about the champion of now
    assert decision.against == newest


def test_scores_of_an_earlier_champion_do_not_stay(place: Place) -> None:
    stale = place.road.run_folder / "scorecards" / "champion.json"
    stale.parent.mkdir()
    stale.write_text("{}")
    stale.with_suffix(".samples.jsonl").write_text("")
    place.run(place.merge("first", 140))
    assert list(stale.parent.glob("champion*")) == []


def test_the_champions_files_are_fetched_only_to_be_scored(place: Place) -> None:
    first = place.merge("first", 140)
    digest = Manifest.load(first).digest
    place.promoted(first, *place.run(first))
    second = place.merge("second", 150)
    place.kept.discard(digest)
    place.asked.clear()
    assert place.run(second)[1].against == digest
    (merged, _), (champion, folder) = place.asked
    assert (merged, champion, (folder / "model.safetensors").read_text()) == ("merged", "champion", "first")
    place.asked.clear()
    place.run(second)
    assert place.asked == []


def test_a_champion_whose_bytes_were_changed_is_not_scored(place: Place) -> None:
    first = place.merge("first", 140)
    place.promoted(first, *place.run(first))
    place.kept.discard(Manifest.load(first).digest)
    (download(place.road.registry, "quickstart@champion") / "model.safetensors").write_text("other")
    with pytest.raises(InputsRefused, match=r"models:/quickstart/1: .*: model\.safetensors: expected SHA-256"):
        place.run(place.merge("second", 150))


def test_a_champion_that_moved_between_scores_and_gate_is_told(place: Place) -> None:
    first = place.merge("first", 140)
    place.promoted(first, *place.run(first))
    second = place.merge("second", 150)
    cards, _ = place.run(second)
    del cards["champion"]
    with pytest.raises(GateError, match="champion: no scorecard"):
        stations.gate(place.road, second, cards)


def test_the_station_alone_finds_the_champions_scores(place: Place) -> None:
    first = place.merge("first", 140)
    place.promoted(first, *place.run(first))
    place.run(place.merge("second", 150))
    gate = place.road.run_folder / "gate.json"
    before = gate.read_bytes()
    gate.unlink()
    stations.run_station("gate", place.road)
    assert gate.read_bytes() == before


def test_nothing_brought_here_to_be_scored_outlives_a_failure(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = place.road.cache

    def fail(*_: object) -> Path:
        for name in ("champion", "composed/base+tone"):
            (cache / name).mkdir(parents=True)
        raise InputsRefused("no")

    monkeypatch.setattr(door, "evaluate", fail)
    with pytest.raises(InputsRefused):
        stations.evaluate(place.road, place.sources, place.measurements, place.merge("first", 140))
    assert not {"champion", "composed"} & {path.name for path in cache.iterdir()}


def test_a_comparison_leaves_no_copy_of_the_champion(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first = place.merge("first", 140)
    place.promoted(first, *place.run(first))
    second = Manifest.load(place.merge("second", 150)).digest
    place.kept.clear()
    monkeypatch.setattr(champion, "held_folder", lambda *_: None)  # as with a server
    seen = []

    def scored(name: str, folder: Path, _digest: str, side: str) -> Scorecard:
        seen.append((folder / "model.safetensors").read_text())
        return Scorecard(name, side, "harness", ())

    bench = SimpleNamespace(road=place.road, evaluation=str, kept=place.folder, scored=scored)
    assert run._champion(cast(Bench, bench), second) == Scorecard("champion", "gate", "harness", ())
    assert seen == ["first"]
    assert not (place.road.cache / "champion").exists()


def test_what_cannot_resolve_its_margin_is_told_before_scoring(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tasks.power")
    merged = place.merge("first", 140)
    place.run(merged)
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(" (")[0] for line in told] == [
        "champion app_en/acc: margin 0.1: 50 documents cannot resolve a margin below 0.111"
    ]
    place.run(merged)
    assert len(caplog.records) == 1  # all scores are at hand by now: nothing is counted
