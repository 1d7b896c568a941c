"""`widen verify` on the demo's champion: it holds, and every single changed byte is found and named."""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.verify import VerifyOptions, verify_model
from registry.errors import NotVerified
from registry.store import Registry
from registry.versions import download, resolve
from tests.flows.conftest import Ran, run_widen
from widen.errors import RecipeError
from widen.manifest import Manifest

MODEL = "quickstart/1"
NORM = "model.layers.3.input_layernorm.weight"


@contextmanager
def changed(path: Path, old: bytes | None = None, new: bytes | None = None, place: int = -1) -> Iterator[None]:
    """A file with one byte flipped, or `old` replaced by `new`, for as long as the block lasts."""
    before, mode = path.read_bytes(), path.stat().st_mode
    after = bytearray(before)
    if old is None or new is None:
        after[place] ^= 1
    else:
        assert old in before
        after = bytearray(before.replace(old, new, 1))
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)  # linked elsewhere: the other names keep the true bytes
    path.write_bytes(after)
    path.chmod(mode)
    try:
        yield
    finally:
        aside.replace(path)


def options(demo: Ran, **more: object) -> VerifyOptions:
    asked = {"registry": None, "quick": True, "device": "cpu", "scratch": None, "sources": (), "public_key": None}
    return VerifyOptions(**{"workspace": demo.workspace, **asked, **more})  # type: ignore[arg-type]


def artifacts(demo: Ran) -> Path:
    registry = Registry.at(None, demo.workspace)
    assert registry.artifact_root is not None
    return registry.artifact_root / resolve(registry, MODEL).version.run_id / "artifacts"


def checkpoint(demo: Ran) -> Path:
    return download(Registry.at(None, demo.workspace), MODEL)


def refused(demo: Ran, capsys: pytest.CaptureFixture[str], **more: object) -> str:
    """What a verification that must fail prints."""
    with pytest.raises(NotVerified, match="failed") as error:
        verify_model(MODEL, options(demo, **more))
    assert error.value.exit_code == 4
    return "\n".join(line for line in capsys.readouterr().out.splitlines() if "FAILED" in line)


@pytest.mark.slow
def test_in_a_fresh_workspace_every_digest_is_reproduced(demo: Ran, tmp_path: Path) -> None:
    """Nothing of the workspace that made it: only the registry's address, and the hub beside a new workspace."""
    beside = tmp_path / "elsewhere"
    beside.mkdir()
    (beside / "hub").symlink_to(demo.folder / "hub")
    assert run_widen("init", beside / "new", cwd=tmp_path, home=tmp_path).returncode == 0
    registry = Registry.at(None, demo.workspace).uri
    arguments = ("verify", "quickstart/1", "--workspace", beside / "new", "--registry", registry)
    done = run_widen(*arguments, cwd=tmp_path, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("  ")] == [
        [state, name] for state, name in CHECKS
    ]
    count = len(Manifest.load(checkpoint(demo)).tensors)
    assert f"{count} tensors merged again, the same SHA-256 each" in done.stdout


def test_in_any_folder_the_merge_comes_out_again(demo: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same in this process, and from a folder that is no workspace."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "hub").symlink_to(demo.folder / "hub")
    verify_model(MODEL, options(demo, quick=False, workspace=here, registry=Registry.at(None, demo.workspace).uri))
    told = capsys.readouterr().out
    assert [tuple(line.split()[:2]) for line in told.splitlines() if line.startswith("  ")] == CHECKS
    assert "merges again to the same bytes" in told
    assert list(here.iterdir()) == []


CHECKS = [("ok", name) for name in ("record", "files", "signature", "history", "recipe", "inputs", "merge")]

RECORDS = {
    "lineage.json": (b'"t":1.0', b'"t":1.5', "lineage.json"),
    "gate.json": (b'"verdict":"PASS"', b'"verdict":"FAIL"', "gate.json"),
    "recipe.yaml": (b"s: 1.0", b"s: 1.1", "recipe.yaml: line"),
    "widen-manifest.json": (b'"role":"base"', b'"role":"bose"', "widen-manifest.json"),
    "validation.json": (None, None, "validation.json"),
    "scorecards/tagger.json": (None, None, "scorecards/tagger.json"),
    "provenance/statement.json": (b"checkpoints/tagger", b"checkpoints/tigger", "provenance/statement.json"),
    "provenance/model.sig": (None, None, "FAILED  signature"),
    "provenance/public_key.pem": (b"KEY", b"kEY", "provenance/public_key.pem"),
}


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_changed_byte_of_the_record_is_named(name: str, demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, told = RECORDS[name]
    with changed(artifacts(demo) / name, old, new):
        assert told in refused(demo, capsys)
    verify_model(MODEL, options(demo))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "widen-manifest.json"])
def test_a_changed_byte_of_the_checkpoint_is_named(name: str, demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    with changed(checkpoint(demo) / name, place=100):
        assert f"{name}: expected SHA-256" in refused(demo, capsys)


def test_a_changed_element_of_the_output_is_named(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    from widen import Checkpoint

    entry = Checkpoint.open(checkpoint(demo)).tensors[NORM]
    with changed(checkpoint(demo) / entry.file, place=entry.start + 5 * entry.kind.itemsize):
        told = refused(demo, capsys, quick=False)
    assert f"tensor {NORM}, element [5]: expected" in told
    assert "FAILED  files" in told
    assert "FAILED  merge" in told


def test_a_missing_and_a_foreign_file_are_named(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(demo)
    (folder / "pickle.bin").write_bytes(b"")
    (folder / "config.json").rename(folder.parent / "config.json")
    try:
        told = refused(demo, capsys)
    finally:
        (folder / "pickle.bin").unlink()
        (folder.parent / "config.json").rename(folder / "config.json")
    assert "config.json: was registered and is gone" in told
    assert "pickle.bin: was not registered" in told


def test_a_changed_byte_of_an_input_is_named(demo: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hub's history is as it was; what its storage holds is not."""
    weights = (demo.workspace / "sources" / "tagger" / "model.safetensors").read_bytes()
    stored = [path for path in (demo.folder / "hub" / ".dvc-storage").rglob("*") if path.is_file()]
    (held,) = [path for path in stored if path.stat().st_size == len(weights) and path.read_bytes() == weights]
    with changed(held):
        told = refused(demo, capsys, quick=False)
    assert "FAILED  inputs" in told
    assert "input tagger" in told


def test_another_model_in_the_place_of_an_input_is_named_by_its_tensor(
    demo: Ran, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recorded commit is gone with the repository; what is offered in its place is not what was merged."""
    from registry.audit import Record
    from registry.lineage import Input, SourceRecord
    from tasks.remake import check_input, fetch_recorded

    registry = Registry.at(None, demo.workspace)
    record = Record(resolve(registry, MODEL).version, "", artifacts(demo))
    entry = next(one for one in record.lineage.inputs if one.name == "tagger")
    merged = next(one for one in Manifest.load(checkpoint(demo)).inputs if one.name == "tagger")
    local = Input(entry.role, SourceRecord("tagger", "sources/tagger"), entry.digest, entry.files)
    folder = fetch_recorded(local, None, demo.workspace, demo.workspace)
    assert check_input(local, merged, folder) == f"tagger {len(entry.files)} files"
    other = fetch_recorded(local, "sources/indonesian", demo.workspace, demo.workspace)
    with pytest.raises(
        NotVerified, match=r"input tagger: config.json|input tagger: model.safetensors.*first tensor that"
    ):
        check_input(local, merged, other)


def test_a_changed_tag_is_named(demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    database = Registry.at(None, demo.workspace).database
    assert database is not None
    tag = "SELECT value FROM model_version_tags WHERE key = 'input.base' AND version = 1"
    change = "UPDATE model_version_tags SET value = ? WHERE key = 'input.base' AND version = 1"
    with sqlite3.connect(database) as store:
        (before,) = store.execute(tag).fetchone()
        store.execute(change, ("0" * 64,))
    store.close()
    try:
        assert "the version's tag input.base" in refused(demo, capsys)
    finally:
        with sqlite3.connect(database) as store:
            store.execute(change, (before,))
        store.close()


HARMS = {"digest": "1" * 64, "entry": "{}"}


@pytest.mark.parametrize("key", sorted(HARMS))
def test_a_changed_entry_of_the_history_is_named(key: str, demo: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    database = Registry.at(None, demo.workspace).database
    assert database is not None
    where = "name = 'quickstart.history' AND version = 1 AND key = ?"
    with sqlite3.connect(database) as store:
        (before,) = store.execute(f"SELECT value FROM model_version_tags WHERE {where}", (key,)).fetchone()
        store.execute(f"UPDATE model_version_tags SET value = ? WHERE {where}", (HARMS[key], key))
    store.close()
    try:
        told = refused(demo, capsys)
    finally:
        with sqlite3.connect(database) as store:
            store.execute(f"UPDATE model_version_tags SET value = ? WHERE {where}", (before, key))
        store.close()
    assert "FAILED  history" in told
    assert "entry 1" in told


def test_the_signature_is_checked_with_the_key_that_is_given(
    demo: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from registry.attest.keys import PUBLIC_FILE, generate

    verify_model(MODEL, options(demo, public_key=demo.folder / "keys" / PUBLIC_FILE))
    assert f"checked with {demo.folder / 'keys' / PUBLIC_FILE}" in capsys.readouterr().out
    generate(tmp_path / "other")
    told = refused(demo, capsys, public_key=tmp_path / "other" / PUBLIC_FILE)
    assert "FAILED  signature" in told
    assert "no valid signature by the key" in told


def test_a_place_for_an_input_that_is_none_is_refused(demo: Ran) -> None:
    with pytest.raises(RecipeError, match=r"--source tagr: no such input; the merge has base, tagger, indonesian"):
        verify_model(MODEL, options(demo, quick=False, sources=("tagr=../hub",)))
    with pytest.raises(RecipeError, match="expected NAME=PLACE"):
        verify_model(MODEL, options(demo, sources=("tagger",)))
    with pytest.raises(RecipeError, match=r"--scratch .*: expected a folder that is there"):
        verify_model(MODEL, options(demo, scratch=demo.folder / "nowhere"))


@pytest.mark.slow
def test_a_hub_that_has_moved_is_found_where_it_is_said_to_be(
    demo: Ran, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = demo.folder / "hub"
    here = tuple(f"{name}={hub}" for name in ("base", "tagger", "indonesian"))
    folder = tmp_path / "no workspace"
    folder.mkdir()
    registry = Registry.at(None, demo.workspace).uri
    with pytest.raises(NotVerified):
        verify_model(MODEL, options(demo, quick=False, workspace=folder, registry=registry))
    assert "input base cannot be fetched" in capsys.readouterr().out
    verify_model(MODEL, options(demo, quick=False, workspace=folder, registry=registry, sources=here))
    assert subprocess.run(["git", "status", "--porcelain"], cwd=hub, capture_output=True, check=True).stdout == b""
