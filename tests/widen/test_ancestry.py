"""A merge that is a parent of another merge leads back to the first inputs."""

import json
from pathlib import Path

import pytest

import widen
from tests.build import family
from tests.widen.test_reuse import Listening, flip
from widen.manifest import Manifest


@pytest.fixture
def generations(tmp_path: Path) -> list[Path]:
    """base, m1 and m2; `first`, their merge; `second`, a merge of `first` and m2."""
    base, m1, m2 = family(tmp_path / "in")
    widen.merge(base, [m1, m2], tmp_path / "first")
    widen.merge(base, [tmp_path / "first", m2], tmp_path / "second")
    return [base, m1, m2, tmp_path / "first", tmp_path / "second"]


def test_a_merge_among_the_inputs_is_recorded_with_what_went_into_it(generations: list[Path]) -> None:
    first, second = generations[3:]
    own, later = Manifest.load(first), Manifest.load(second)
    assert [entry.merge for entry in own.inputs] == [None, None, None]
    assert [entry.merge is None for entry in later.inputs] == [True, False, True]
    record = later.inputs[1].merge
    assert record is not None
    assert (record.digest, record.recipe, record.method) == (own.digest, own.recipe.name, "widen")
    assert [(one.role, one.name, one.digest) for one in record.inputs] == [
        (one.role, one.name, one.digest) for one in own.inputs
    ]


def test_three_generations_lead_back_to_the_first(generations: list[Path], tmp_path: Path) -> None:
    base, m1, _, first, second = generations
    widen.merge(base, [second, m1], tmp_path / "third")
    record = Manifest.load(tmp_path / "third").inputs[1].merge
    assert record is not None
    inner = record.inputs[1].merge
    assert inner is not None
    assert inner.digest == Manifest.load(first).digest
    assert [one.name for one in inner.inputs] == ["base", "m1", "m2"]


def test_the_record_is_part_of_the_manifest_and_of_no_tensor(generations: list[Path], tmp_path: Path) -> None:
    base, _, m2, first, second = generations
    bare = tmp_path / "bare" / "first"
    bare.parent.mkdir()
    first.rename(bare)
    (bare / "widen-manifest.json").unlink()
    again = widen.merge(base, [bare, m2], tmp_path / "again")
    assert again.key == Manifest.load(second).key
    assert again.tensors == Manifest.load(second).tensors
    assert "merge" not in json.dumps([one.to_json() for one in again.inputs])


@pytest.mark.parametrize("harm", ["weights", "manifest"])
def test_a_manifest_about_other_weights_is_not_believed(harm: str, generations: list[Path], tmp_path: Path) -> None:
    base, _, m2, first, _ = generations
    if harm == "weights":
        flip(first / "model.safetensors", -1)
    else:
        path = first / "widen-manifest.json"
        content = json.loads(path.read_text())
        content["files"]["model.safetensors"]["sha256"] = "0" * 64
        path.write_text(json.dumps(content))
    notes = Listening()
    manifest = widen.merge(base, [first, m2], tmp_path / "again", progress=notes)
    assert [entry.merge for entry in manifest.inputs] == [None, None, None]
    assert [note for note in notes.heard if note.startswith("first: its widen-manifest.json is about other weights")]


def test_a_torn_manifest_is_as_good_as_none(generations: list[Path], tmp_path: Path) -> None:
    base, _, m2, first, _ = generations
    path = first / "widen-manifest.json"
    path.write_text(path.read_text()[:100])
    assert widen.merge(base, [first, m2], tmp_path / "again").inputs[1].merge is None
