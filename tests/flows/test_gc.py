"""`widen gc` and `widen restore` on the demo's merge: what is said, what is touched, and the same bytes afterwards."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import gc, restore, verify
from flows.cli import app
from flows.road import Road, plainly
from flows.stations import source_record
from registry.errors import NotVerified, PromotionRefused, RegistryError
from registry.scorecard import Document, Scorecard, TaskScores
from registry.store import Registry, asking
from registry.versions import FREED, download, resolve
from tasks.fetch import Fetched
from tasks.kept_scores import keep, unreferenced
from tasks.run_lock import run_lock
from tests.flows.conftest import Ran
from tests.registry.test_s3 import BUCKET, KEYS, client, moto, objects
from widen.digests import digest_of, hash_file

MODEL = "copy/1"
ALL = ("--keep-candidates", "0", "--keep-days", "0")


def register_again(demo: Ran, place: Registry, name: str = "copy") -> None:
    """The demo's merge as a version that no alias names, in another registry."""
    from tasks.register import register

    road = Road.open(demo.workspace / "recipes" / "quickstart.yaml", demo.workspace, "cpu", plainly)
    runs = road.run_folder
    cards = {path.stem: path for path in (runs / "scorecards").glob("*.json")}
    sources = tuple(
        source_record(road, Fetched(**{**one, "folder": demo.workspace / one["folder"]}))
        for one in json.loads((runs / "sources.json").read_bytes())
    )
    register.fn(place, name, road.merged_folder, runs / "gate.json", cards, sources, road.recipe.path, "merged",
                runs / "validation.json", runs / "validation")  # fmt: skip
    with asking(place) as held:
        held.delete_registered_model_alias(name, "candidate")


@pytest.fixture
def place(demo: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo's workspace beside its hub, with a registry of its own that holds its merge as `copy`."""
    workspace = tmp_path / "workspace"
    shutil.copytree(demo.workspace, workspace, symlinks=True, ignore=shutil.ignore_patterns("registry", "prefect"))
    (tmp_path / "hub").symlink_to(demo.folder / "hub")
    register_again(demo, Registry.at(None, workspace))
    for module in (gc, restore, verify):
        monkeypatch.setattr(module, "prepare", lambda _: None)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    return workspace


def ask(workspace: Path, *arguments: str) -> str:
    """What the command prints; what it raises is raised."""
    done = CliRunner().invoke(app, [*arguments, "--workspace", str(workspace)])
    if done.exception is not None:
        done.exception.add_note(done.output)
        raise done.exception
    return done.output


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything in a folder: times, links and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_nlink,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def weights(workspace: Path, reference: str = MODEL) -> str:
    return hash_file(download(Registry.at(None, workspace), reference) / "model.safetensors").sha256


def litter(workspace: Path) -> None:
    """What killed and forgotten runs leave, all of it old."""
    left = workspace / "merged" / ".quickstart.staging-killed"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"x" * 100_000)
    (workspace / ".widen" / "fetch-killed").mkdir()
    (workspace / "runs" / "forgotten").mkdir()
    (workspace / "runs" / "forgotten" / "gate.json").write_text("{}")
    unknown = workspace / ".widen" / "scorecards" / ("0" * 64 + ".jsonl")
    unknown.write_text("{}\n")
    old = time.time() - 90 * 86_400
    for path in (left / "model.safetensors", left, workspace / ".widen" / "fetch-killed", unknown):
        os.utime(path, (old, old))
    orphan = workspace / ".dvc" / "cache" / "files" / "md5" / "00" / ("0" * 30)
    orphan.parent.mkdir()
    orphan.write_bytes(b"y" * 50_000)


SAID = (
    "  goes    copy/1",
    "nothing keeps it",
    "left by a killed run: merged/.quickstart.staging-killed",
    "left by a killed run: .widen/fetch-killed",
    "1 scorecards of models that no version",
    "DVC's cache: 1 objects",
    "runs/forgotten is of no recipe",
    "nothing was changed: widen gc --apply does it",
)


def test_a_dry_run_says_what_goes_and_why_the_rest_stays_and_changes_nothing(place: Path, tmp_path: Path) -> None:
    litter(place)
    before = tree(tmp_path)
    told = ask(place, "gc", *ALL)
    assert tree(tmp_path) == before
    for line in SAID:
        assert line in told, told
    assert "  stays   copy/1" in (kept := ask(place, "gc"))
    assert "younger than 30 days; one of the newest 5 candidates" in kept
    assert tree(tmp_path) == before


def test_scores_of_a_model_with_an_adapter_stay_while_a_run_has_them(tmp_path: Path) -> None:
    """It is no input, no merge and no version: its scorecard alone says what it is."""
    task = TaskScores("bpb", "acc", "none", "proportion", True, "1", "hash", (Document("d", "t", 1.0),))
    for model, run in (("base+tone", "recipe"), ("base+gone", "")):
        card = Scorecard(model, digest_of(model), "harness", (task,))
        keep(tmp_path / ".widen/scorecards" / f"{model}.jsonl", card, [])
        if run:
            (tmp_path / "runs" / run / "scorecards").mkdir(parents=True)
            (tmp_path / "runs" / run / "scorecards" / f"{model}.json").write_text(card.to_json())
    store = Registry.at(None, tmp_path)
    with asking(store, create=True):
        known = gc._scored(store, tmp_path)
    assert known == {digest_of("base+tone")}
    (gone,) = unreferenced(tmp_path / ".widen/scorecards", known, 0, time.time() + 1)
    assert gone.remove is not None
    gone.remove()
    assert [path.name for path in (tmp_path / ".widen/scorecards").iterdir()] == ["base+tone.jsonl"]


def test_applied_it_does_what_it_said(place: Path) -> None:
    litter(place)
    pinned = len([path for path in (place / ".dvc" / "cache" / "files" / "md5").rglob("*") if path.is_file()])
    scores = len(list((place / ".widen" / "scorecards").iterdir()))
    told = ask(place, "gc", "--apply", *ALL)
    assert "  done    copy/1    removed 3.5 MB, the disk gains 0 B" in told  # merged/ of the demo has the same bytes
    assert not (place / "merged" / ".quickstart.staging-killed").exists()
    assert not (place / ".widen" / "fetch-killed").exists()
    assert (place / "runs" / "forgotten" / "gate.json").exists()
    after = [path for path in (place / ".dvc" / "cache" / "files" / "md5").rglob("*") if path.is_file()]
    assert len(after) == pinned - 1
    assert len(list((place / ".widen" / "scorecards").iterdir())) == scores - 1
    told = ask(place, "gc", *ALL)
    assert "  freed   copy/1" in told
    assert "goes" not in told


def test_while_a_run_is_alive_its_workspace_is_left_alone(place: Path) -> None:
    litter(place)
    before = tree(place / "merged")
    with run_lock(place, "a run of quickstart"):
        told = ask(place, "gc", "--apply", *ALL)
    assert "left    all of it: a run of quickstart, process" in told
    assert tree(place / "merged") == before


@pytest.mark.slow
def test_freed_verified_and_restored_to_the_same_bytes(place: Path) -> None:
    expected = weights(place)
    ask(place, "gc", "--apply", *ALL)
    quick = ask(place, "verify", MODEL, "--quick")
    assert "absent  files      its weights were freed" in quick
    assert "is what was recorded; it has no files to compare" in quick
    whole = ask(place, "verify", MODEL)
    assert "tensors merged again, each with the SHA-256 that was recorded" in whole
    assert "ok      signature" in whole
    with pytest.raises(PromotionRefused, match="widen restore copy/1 puts them back"):
        ask(place, "promote", MODEL, "--by", "Ada")
    told = ask(place, "restore", MODEL)
    assert "restored: copy/1 has its weights again" in told
    assert weights(place) == expected
    assert "ok      files      6 files" in ask(place, "verify", MODEL, "--quick")
    with pytest.raises(RegistryError, match="there is nothing to restore"):
        ask(place, "restore", MODEL)
    ask(place, "promote", MODEL, "--by", "Ada")
    assert "alias champion; the champion by the history" in ask(place, "gc", *ALL)


@pytest.mark.slow
def test_what_cannot_be_made_again_is_not_restored(place: Path) -> None:
    ask(place, "gc", "--apply", *ALL)
    with pytest.raises(NotVerified, match="copy version 1 is not restored: inputs failed"):
        ask(place, "restore", MODEL, "--source", "base=../nowhere")
    version = resolve(Registry.at(None, place), MODEL).version
    assert (version.tag(FREED) or "").endswith("bytes")


@pytest.mark.slow
def test_verified_freed_and_restored_in_a_bucket(
    demo: Ran, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files lie on S3; the database says where, so that no command needs to be told."""
    with moto(tmp_path / "moto.log") as address:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        client().create_bucket(Bucket=BUCKET)
        bucket = Registry.at("sqlite:///bucket.db", place, f"s3://{BUCKET}/x")
        register_again(demo, bucket, "far")
        whole = objects()
        at = ("--registry", "sqlite:///bucket.db")
        assert "ok      files      6 files" in ask(place, "verify", "far/1", "--quick", *at)
        assert "removed 3.5 MB, the disk gains 3.5 MB" in ask(place, "gc", "far", "--apply", *ALL, *at)
        assert {key.rpartition("/")[2] for key in whole - objects()} >= {"model.safetensors", "tokenizer.json"}
        ask(place, "restore", "far/1", *at)
        assert objects() == whole
        assert "ok      files      6 files" in ask(place, "verify", "far/1", "--quick", *at)
