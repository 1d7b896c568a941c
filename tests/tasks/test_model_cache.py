"""Models in a cache of Hugging Face, laid out by huggingface_hub's own functions, and what is refused of them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from huggingface_hub.file_download import repo_folder_name

from registry.attest.places import hub_name, package_url, uri
from registry.lineage import Input, SourceRecord
from tasks.fetch import fetch
from tasks.model_cache import cache_folder, local_folder
from tasks.remake import fetch_recorded
from tasks.sources import Source, refuse_unsafe
from tests.build import llama_weights, write_checkpoint
from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused, RecipeError

OLD, NEW = "1" * 40, "2" * 39 + "a"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two commits of acme/chat: blobs, links to them, and refs."""
    for name in ("HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    held = cache / repo_folder_name(repo_id="acme/chat", repo_type="model")
    for seed, commit in enumerate((OLD, NEW)):
        made = write_checkpoint(tmp_path / commit, llama_weights(seed), shards=2)
        snapshot = held / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (held / "blobs").mkdir(exist_ok=True)
        for file in sorted(made.iterdir()):
            file.rename(held / "blobs" / f"{commit[-1]}-{file.name}")
            (snapshot / file.name).symlink_to(Path("../../blobs") / f"{commit[-1]}-{file.name}")
    (held / "refs" / "refs" / "pr").mkdir(parents=True)
    for ref, commit in (("main", NEW), ("v1", OLD), ("refs/pr/1", OLD)):
        (held / "refs" / ref).write_text(commit)
    return held


def source(path: object, rev: str | None = None, commit: str | None = None) -> Source:
    asked = Source("chat", str(path), None, rev, commit)
    refuse_unsafe(asked)
    return asked


@pytest.mark.parametrize(
    ("rev", "commit"),
    [(None, NEW), ("main", NEW), ("v1", OLD), ("refs/pr/1", OLD), (OLD, OLD), (NEW.upper(), NEW), ("1111", OLD)],
)
@pytest.mark.parametrize("by_name", [True, False])
def test_a_snapshot_is_used_where_it_lies(
    rev: str | None, commit: str, by_name: bool, hub: Path, tmp_path: Path
) -> None:
    before = sorted(hub.rglob("*"))
    fetched = fetch(source("acme/chat" if by_name else hub, rev), tmp_path)
    assert fetched.folder == hub / "snapshots" / commit
    assert (fetched.rev, fetched.commit, fetched.repo) == (rev or "main", commit, None)
    assert len(Checkpoint.open(fetched.folder).tensors) == 21
    assert sorted(hub.rglob("*")) == before
    assert fetched.upstream == fetch(source(hub, commit=commit), tmp_path).upstream
    if rev in (None, "main", "v1"):
        theirs = snapshot_download("acme/chat", revision=rev, cache_dir=hub.parent, local_files_only=True)
        assert Path(theirs) == fetched.folder


def test_a_folder_of_that_name_comes_first(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "acme" / "chat").mkdir(parents=True)
    found = local_folder(source("acme/chat"), tmp_path)
    assert (found.folder, found.commit) == (tmp_path / "acme" / "chat", None)
    with pytest.raises(RecipeError, match="a local folder has none"):
        local_folder(source("acme/chat", "v1"), tmp_path)


def test_what_is_nowhere_says_where_it_was_looked_for(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        local_folder(source("acme/chit"), tmp_path)
    for part in ("no source's name", str(tmp_path / "acme" / "chit"), str(hub.parent), "hf download acme/chit"):
        assert part in str(caught.value)
    with pytest.raises(RecipeError, match="expected the folder of a checkpoint, found nothing"):
        local_folder(source("./acme/chit/"), tmp_path)
    with pytest.raises(RecipeError, match="found no snapshots"):
        local_folder(source(hub.parent / "models--acme--chit"), tmp_path)


@pytest.mark.parametrize("rev", ["v2", "12", "../v1", "refs/pr/2", "v*"])
def test_a_revision_that_the_cache_lacks(rev: str, hub: Path, tmp_path: Path) -> None:
    (hub / "v1").write_text(NEW)
    with pytest.raises(RecipeError, match=r"sources\.chat\.rev: expected a branch, tag or commit that is in the cache"):
        local_folder(Source("chat", str(hub), None, rev), tmp_path)
    with pytest.raises(RecipeError, match="no revision, because a local folder or a storage has none"):
        source(tmp_path, rev)


def test_an_incomplete_snapshot_is_refused_with_what_is_missing(hub: Path, tmp_path: Path) -> None:
    shard = "model-00002-of-00002.safetensors"
    (hub / "blobs" / f"a-{shard}").unlink()
    with pytest.raises(InputsRefused, match=rf"incomplete: {shard} is not there.*acme/chat --revision {NEW}"):
        local_folder(source(hub), tmp_path)
    (hub / "snapshots" / NEW / shard).unlink()
    (hub / "snapshots" / NEW / "config.json").unlink()
    with pytest.raises(InputsRefused, match=rf"incomplete: config.json, {shard} are not there"):
        local_folder(source(hub), tmp_path)
    (hub / "snapshots" / NEW / "model.safetensors.index.json").unlink()
    with pytest.raises(InputsRefused, match=r"model\.safetensors are not there"):
        local_folder(source(hub), tmp_path)
    (hub / "refs" / "main").write_text("3" * 40)
    with pytest.raises(InputsRefused, match=r"is commit 3+, of which the cache .* has no files"):
        local_folder(source(hub), tmp_path)


@pytest.mark.parametrize("content", ["../../../../elsewhere", "x", "", "\udcff"])
def test_a_ref_that_is_no_commit_is_not_followed(content: str, hub: Path, tmp_path: Path) -> None:
    (hub / "refs" / "main").write_bytes(os.fsencode(content))
    with pytest.raises(RecipeError, match="in the cache"):
        local_folder(source(hub), tmp_path)


def test_a_link_out_of_the_cache_is_not_followed(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (hub / "snapshots" / NEW / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(InputsRefused, match=r"tokenizer\.json is a link out of the cache"):
        local_folder(source(hub), tmp_path)


@pytest.mark.parametrize("linked", ["snapshots/" + NEW, "snapshots"])
def test_a_snapshot_that_is_a_link_out_of_the_cache_is_not_followed(linked: str, hub: Path, tmp_path: Path) -> None:
    (hub / linked).rename(tmp_path / "elsewhere")
    (hub / linked).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputsRefused, match=rf"snapshots/{NEW} is a link out of the cache's folder .*not followed"):
        local_folder(source(hub), tmp_path)


def test_the_same_snapshot_under_another_name_of_the_cache_is_used(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    hub.rename(tmp_path / "disk" / hub.name)
    hub.symlink_to(tmp_path / "disk" / hub.name)
    assert local_folder(source(hub), tmp_path).folder == tmp_path / "disk" / hub.name / "snapshots" / NEW


@pytest.mark.parametrize("commit", ["..", "../../../secret", "/etc", NEW[:12]])
def test_a_forged_record_s_commit_is_no_path(commit: str, hub: Path, tmp_path: Path) -> None:
    entry = Input("model", SourceRecord("chat", str(hub), None, "main", NEW), "d" * 64, ())
    assert fetch_recorded(entry, None, tmp_path, tmp_path) == hub / "snapshots" / NEW
    (hub / "snapshots" / NEW[:12]).mkdir()
    with pytest.raises(RecipeError, match=r"sources\.chat\.commit: expected a full commit, found"):
        fetch_recorded(replace(entry, source=replace(entry.source, commit=commit)), None, tmp_path, tmp_path)


def test_the_cache_is_huggingface_hub_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    default = tmp_path / ".cache" / "huggingface" / "hub"
    assert cache_folder(tmp_path / "w") == default
    monkeypatch.setenv("HF_HOME", str(tmp_path / "w" / ".widen" / "huggingface"))
    assert cache_folder(tmp_path / "w") == default
    for name, value, expected in (
        ("XDG_CACHE_HOME", "~/x", tmp_path / "x" / "huggingface" / "hub"),
        ("HF_HOME", "$HOME/home", tmp_path / "home" / "hub"),
        ("HUGGINGFACE_HUB_CACHE", "~/old", tmp_path / "old"),
        ("HF_HUB_CACHE", "~/new", tmp_path / "new"),
    ):
        monkeypatch.setenv(name, value)
        assert cache_folder(tmp_path / "w") == expected


def test_its_commit_is_recorded(hub: Path) -> None:
    for path in (str(hub), "acme/chat"):
        record = SourceRecord("chat", path, None, "main", NEW, None, None)
        assert hub_name(record) == "acme/chat"
        assert package_url(record) == ("acme", "chat", NEW)
    assert uri(record) == f"hf://acme/chat@{NEW}"
    assert uri(SourceRecord("chat", "acme/chat", None, None, None, None, None)) == "file:acme/chat"
    assert json.loads((hub / "snapshots" / NEW / "config.json").read_text())["model_type"] == "llama"
