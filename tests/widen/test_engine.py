"""What keeps a merge within its bounds and tells about it: memory budget, reading ahead, profile, outlook."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import widen
from tests.build import LLAMA, family, llama_weights, write_checkpoint
from widen.api import outlook
from widen.checkpoint import Checkpoint
from widen.errors import InputsRefused, RecipeError
from widen.memory import LEAST, MemoryBudget, default_budget
from widen.profile import Profile, Span
from widen.readahead import Readahead

ROOT = Path(__file__).parents[2]


def test_a_budget_lets_in_what_fits_and_makes_the_rest_wait() -> None:
    budget, inside, most = MemoryBudget(100), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        with budget.hold(40):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.005)
            with lock:
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert most[0] == 2
    assert budget.peak == 80


def test_what_is_larger_than_the_budget_goes_alone() -> None:
    budget = MemoryBudget(10)
    with budget.hold(50):
        waiting = threading.Thread(target=lambda: budget.hold(1).__enter__())
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    assert budget.peak == 50


def test_the_default_budget_is_a_share_of_what_is_there() -> None:
    assert LEAST <= default_budget() < 1 << 45


def reading(folder: Path, window: int) -> tuple[Profile, Readahead, list[int]]:
    checkpoint = Checkpoint.open(write_checkpoint(folder, llama_weights()))
    profile = Profile()
    sizes = [entry.size for entry in checkpoint.tensors.values()]
    return profile, Readahead([[(checkpoint, name)] for name in checkpoint.tensors], profile, window), sizes


def settled(profile: Profile, count: int) -> list[int]:
    """What was read once `count` tensors were, or nothing more came."""
    for _ in range(400):
        if len(profile.spans) >= count:
            break
        time.sleep(0.005)
    time.sleep(0.05)
    return sorted(span.size for span in profile.spans)


def test_reading_ahead_stops_at_the_window_and_goes_on_as_work_begins(tmp_path: Path) -> None:
    profile, ahead, sizes = reading(tmp_path / "m", window=1)
    with ahead:
        assert settled(profile, 1) == sizes[:1]
        ahead.begin(0)
        assert settled(profile, 2) == sorted(sizes[:2])
        ahead.begin(1)
        ahead.begin(2)
        assert settled(profile, 4) == sorted(sizes[:4])


def test_reading_ahead_reads_all_within_a_wide_window(tmp_path: Path) -> None:
    profile, ahead, sizes = reading(tmp_path / "m", window=1 << 30)
    with ahead:
        assert settled(profile, len(sizes)) == sorted(sizes)
        for number in range(len(sizes)):
            ahead.begin(number)


def test_work_waits_until_its_bytes_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr("widen.readahead._fetch", lambda *_: let_go.wait(20))
    _, ahead, _ = reading(tmp_path / "m", window=1)
    with ahead:
        lane = threading.Thread(target=ahead.begin, args=(0,))
        lane.start()
        lane.join(0.05)
        assert lane.is_alive()
        let_go.set()
        lane.join(20)
        assert not lane.is_alive()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("error", [OSError("no such advice"), ValueError("whatever else")])
def test_readers_that_fail_leave_it_to_the_lane(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr("widen.readahead._advise", failing)
    base, *models = family(tmp_path)
    assert len(widen.merge(base, models, tmp_path / "out").tensors) == 21


def spans(*rows: tuple[str, float, float, float]) -> Profile:
    profile = Profile()
    profile.spans = [Span(stage, f"t{number}", start, stop, computing, 10**9)
                     for number, (stage, start, stop, computing) in enumerate(rows)]  # fmt: skip
    return profile


def test_a_profile_sums_stages_and_names_busy_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    profile = spans(("hash", 0, 2, 2), ("measure", 0, 1, 0.9), ("measure", 1, 2, 0.9))
    assert [(row.stage, row.seconds, row.computing) for row in profile.totals()] == [
        ("hash", 2, 2), ("measure", 2, 1.8)
    ]  # fmt: skip
    assert profile.wall == 2
    assert profile.verdict() == "the processors bound this run: 2 of them 95% busy, most with `hash`"
    assert "hash" in profile.table().splitlines()[1]


def test_a_profile_names_what_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    profile = spans(("measure", 0, 2, 1), ("write to disk", 0, 4, 0.2))
    assert profile.verdict() == "waiting in `write to disk` bounds this run: 2 processors were 15% busy"
    assert Profile().verdict() == "nothing was done"


def test_a_merge_profiles_every_stage(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    profile = Profile()
    manifest = widen.merge(base, models, tmp_path / "out", profile=profile)
    sizes = {row.stage: row.size for row in profile.totals()}
    read = 3 * sum(entry.size for entry in Checkpoint.open(base).tensors.values())
    assert sizes["hash inputs"] == read
    assert sizes["combine"] == sizes["hash outputs"] == sizes["write"] == read // 3
    assert sizes["hash files"] == sum(one.size for name, one in manifest.files.items() if name.endswith("tensors"))
    assert {"read", "measure", "weigh", "combine", "write to disk"} <= sizes.keys()


@pytest.mark.parametrize("name", ["p.svg", "p.png"])
def test_a_profile_is_drawn(name: str, tmp_path: Path) -> None:
    from flows.profile_picture import draw

    base, *models = family(tmp_path)
    profile = Profile()
    widen.merge(base, models, tmp_path / "out", profile=profile)
    draw(profile, tmp_path / "pictures" / name)
    start = (tmp_path / "pictures" / name).read_bytes()[:100]
    assert start.startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")


def test_a_picture_without_a_format_is_refused_before_any_work(tmp_path: Path) -> None:
    from flows.profile_picture import require_picture

    with pytest.raises(RecipeError, match=r"\.svg"):
        require_picture(tmp_path / "profile")


def test_everything_that_is_not_finite_is_named_and_nothing_is_published(tmp_path: Path) -> None:
    base, one, _ = family(tmp_path)
    weights = llama_weights()
    bad = ["lm_head.weight", "model.layers.1.self_attn.v_proj.weight", "model.norm.weight"]
    for number, name in enumerate(bad):
        weights[name].view(-1)[number] = (float("nan"), float("inf"), -float("inf"))[number]
    broken = write_checkpoint(tmp_path / "broken", weights)
    with pytest.raises(InputsRefused) as refused:
        widen.merge(base, [one, broken], tmp_path / "out", resources=widen.Resources(threads=3))
    assert [line.split(":")[1].strip() for line in str(refused.value).splitlines()] == bad
    assert "1 NaN, 0 Inf" in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "broken", "m1", "m2"]


# Outlook


def test_the_outlook_says_what_the_merge_then_does(tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    size = sum(entry.size for entry in Checkpoint.open(base).tensors.values())
    resources = widen.Resources(threads=2, cache=tmp_path / "cache")
    settings = widen.Settings(shard_bytes=20_000)
    before, problems = outlook(base, models, tmp_path / "out", settings, resources=resources)
    assert problems == []
    assert (before.read, before.write) == (3 * size, size)
    assert before.kinds == {"embedding": 1, "matrix": 15, "vector": 5}
    assert (before.measured, before.pairs, before.reused, before.unread) == (42, 42, 0, 21)
    manifest = widen.merge(base, models, tmp_path / "out", settings, resources=resources)
    assert before.files == sum(name.startswith("model-") for name in manifest.files)


def test_the_outlook_counts_what_an_earlier_output_holds(tmp_path: Path) -> None:
    import os

    folders = family(tmp_path)
    for folder in folders:
        for path in folder.iterdir():
            os.utime(path, (10**9, 10**9))
    base, *models = folders
    resources = widen.Resources(cache=tmp_path / "cache")
    recipe = widen.manifest.Recipe("r", "0")
    widen.merge(base, models, tmp_path / "out", recipe=recipe, resources=resources)
    same, _ = outlook(base, models, tmp_path / "out", recipe=recipe, resources=resources)
    assert (same.reused, same.unread, same.read) == (21, 0, 0)
    other, _ = outlook(base, models, tmp_path / "out", widen.Settings(t=0.5), recipe, resources=resources)
    assert (other.reused, other.measured, other.pairs) == (0, 0, 42)


def test_the_estimate_follows_the_rates_of_the_last_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("widen.outlook.CALIBRATING_BYTES", 0)
    base, *models = family(tmp_path)
    resources = widen.Resources(cache=tmp_path / "cache")
    assert outlook(base, models, resources=resources)[0].rates_of == "a reference machine"
    widen.merge(base, models, tmp_path / "out", resources=resources)
    after, _ = outlook(base, models, tmp_path / "other", resources=resources)
    assert after.rates_of == "the last merge here"
    assert 0 < after.seconds < 600


@pytest.mark.parametrize("kept", ["", "[]", '{"read": 1}', '{"read": 0, "measure": "x"}'])
def test_damaged_rates_are_as_good_as_none(kept: str, tmp_path: Path) -> None:
    base, *models = family(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "rates.json").write_text(kept)
    found, _ = outlook(base, models, resources=widen.Resources(cache=tmp_path / "cache"))
    assert found.rates_of == "a reference machine"


def test_the_outlook_tells_why_a_merge_would_be_refused(tmp_path: Path) -> None:
    base, one, _ = family(tmp_path)
    other = write_checkpoint(tmp_path / "other", llama_weights(config=LLAMA | {"vocab_size": 97}), vocab_size=97)
    found, problems = outlook(base, [one, other])
    assert {problem.tensor for problem in problems} >= {"lm_head.weight", "model.embed_tokens.weight"}
    assert sum(found.kinds.values()) == 19


def recipe_file(folder: Path, base: Path, *models: Path) -> Path:
    lines = [f"- model: {model}" for model in models]
    path = folder / "recipe.yaml"
    path.write_text("\n".join(["merge_method: widen", f"base_model: {base}", "models:", *lines]) + "\n")
    return path


def widen_command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows", *(str(one) for one in arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_prints_the_plan_and_then_the_merge_with_its_profile(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, *family(tmp_path, torch.bfloat16))
    common = ["--workspace", tmp_path, "--cache", tmp_path / "cache", "--out", tmp_path / "out"]
    planned = widen_command("plan", recipe, *common)
    assert planned.returncode == 0, planned.stderr
    assert "21 (1 embedding, 15 matrix, 5 vector)" in planned.stdout
    assert "0 of 21 tensors for certain; 21 were never read" in planned.stdout
    assert not (tmp_path / "out").exists()
    extra = ["--memory", "100MB", "--threads", "2", "--shard-size", "20KB", "--profile", tmp_path / "p.svg"]
    merged = widen_command("merge", recipe, *common, *extra)
    assert merged.returncode == 0, merged.stderr
    assert "bound" in merged.stderr
    assert (tmp_path / "p.svg").exists()
    assert (tmp_path / "out" / "model.safetensors.index.json").exists()


@pytest.mark.slow
def test_the_plan_of_models_that_do_not_fit_ends_with_3(tmp_path: Path) -> None:
    base, one, _ = family(tmp_path)
    other = write_checkpoint(tmp_path / "other", llama_weights(config=LLAMA | {"vocab_size": 97}), vocab_size=97)
    planned = widen_command("plan", recipe_file(tmp_path, base, one, other), "--cache", tmp_path / "cache")
    assert planned.returncode == 3
    assert "other shape" in planned.stderr
    assert "Traceback" not in planned.stderr


def test_without_a_place_for_a_cache_the_command_merges_all_the_same(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    merged = widen_command("merge", recipe_file(tmp_path, *family(tmp_path)), "--out", tmp_path / "out")
    assert merged.returncode == 0, merged.stderr
    asked = widen_command(
        "merge", tmp_path / "recipe.yaml", "--out", tmp_path / "b", "--cache", tmp_path / "file" / "c"
    )
    assert asked.returncode == 5
    assert "cannot be made" in asked.stderr


@pytest.mark.parametrize("option", ["--memory", "--shard-size"])
def test_a_size_that_is_none_ends_with_2(option: str, tmp_path: Path) -> None:
    base, one, two = family(tmp_path)
    merged = widen_command("merge", recipe_file(tmp_path, base, one, two), "--out", tmp_path / "o", option, "lots")
    assert merged.returncode == 2
    assert "expected a number with KB, MB or GB" in merged.stderr
