"""What of a real DVC cache goes: only what no pin of the work tree or of a branch names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.dvc_cache import orphans
from tasks.fetch import Source, fetch

Git = Callable[..., str]


def objects(workspace: Path) -> set[Path]:
    return {path for path in (workspace / ".dvc" / "cache" / "files" / "md5").rglob("*") if path.is_file()}


def removed(workspace: Path) -> tuple[set[Path], int]:
    """What goes, and the bytes that went."""
    before = objects(workspace)
    gained = sum(one.remove() for one in orphans(workspace) if one.remove is not None)
    return before - objects(workspace), gained


@pytest.mark.slow
def test_only_what_no_pin_names_goes(hub: Path, workspace: Path, git: Git) -> None:
    base = Source("base", "checkpoints/base", str(hub), "v1")
    old, new = (Source("tagger", "checkpoints/tagger", str(hub), rev) for rev in ("v1", "v2"))
    fetch(base, workspace)
    fetch(old, workspace)
    git(workspace, "branch", "follow/quickstart")
    first = objects(workspace)
    fetch(new, workspace)
    second = objects(workspace) - first
    assert second
    assert removed(workspace) == (set(), 0)  # the branch names the first, the work tree the second
    git(workspace, "branch", "-D", "follow/quickstart")
    (told,) = orphans(workspace)
    assert objects(workspace) == first | second  # to look removes nothing
    gone, gained = removed(workspace)
    assert gone
    assert gone < first
    assert gained == told.bytes > 3_000_000
    for source in (base, new):  # whole, though nothing is fetched: the hub is not asked
        hidden = hub.rename(hub.with_name("away"))
        try:
            assert (workspace / "sources" / source.name / "model.safetensors").is_file()
        finally:
            hidden.rename(hub)
        (workspace / "sources" / source.name / "config.json").unlink()
        assert (fetch(source, workspace).folder / "config.json").is_file()
    assert removed(workspace) == (set(), 0)
    assert fetch(old, workspace).commit != fetch(new, workspace).commit  # what went can be had again


def test_an_uncommitted_pin_and_a_locked_output_count(workspace: Path) -> None:
    cache = workspace / ".dvc" / "cache" / "files" / "md5"
    for digest in ("a" * 32, "b" * 32, "c" * 32):
        (cache / digest[:2]).mkdir(parents=True)
        (cache / digest[:2] / digest[2:]).write_text("x")
    (workspace / "data.dvc").write_text(f"outs:\n- md5: {'a' * 32}\n  path: data\n")
    (workspace / "dvc.lock").write_text(f"stages: {{made: {{outs: [{{md5: {'b' * 32}}}]}}}}\n")
    assert {path.name for path in removed(workspace)[0]} == {"c" * 30}


def test_without_a_cache_there_is_nothing(workspace: Path) -> None:
    assert list(orphans(workspace)) == []
