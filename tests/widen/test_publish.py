"""Nothing half-written under a final name: full disks, kills, and what a dead process leaves behind."""

import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import widen
from tests.build import LLAMA, family
from widen.digests import DigestCache, Fingerprint, hash_file
from widen.errors import EnvironmentFault, InputsRefused
from widen.manifest import Manifest
from widen.shards import ShardFile, Slot
from widen.staging import lock_of, staged_folder, write_atomically

ROOT = Path(__file__).parents[2]
MERGE = """
    import sys, widen
    base, model, out, s = sys.argv[1:]
    print("ready", flush=True)
    settings = widen.Settings(s=float(s), shard_bytes=9_000)
    widen.merge(base, [model], out, settings, recipe=widen.manifest.Recipe("r", "0"), any_settings=True)
"""


def start_merge(*arguments: object, limit: str = "") -> "subprocess.Popen[str]":
    code = "import widen.manifest\n" + limit + textwrap.dedent(MERGE)
    command = [sys.executable, "-c", code, *(str(one) for one in arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return family(tmp_path_factory.mktemp("family"), sizes=(0.1,))


def test_a_disk_that_is_too_small_is_told_before_any_work(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    elements = free.f_bavail * free.f_frsize // 2 + (1 << 30)
    rows = elements // 32
    for name in ("base", "model"):
        (tmp_path / name).mkdir()
        config = LLAMA | {"num_hidden_layers": 0, "vocab_size": rows, "tie_word_embeddings": True}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        shape, size = [rows, 32], rows * 64
        entry = {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}
        header = json.dumps({"model.embed_tokens.weight": entry}).encode()
        with (tmp_path / name / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)  # sparse: no byte of it is on the disk
    with pytest.raises(EnvironmentFault, match="GB free"):
        widen.merge(tmp_path / "base", [tmp_path / "model"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "model"]


def test_a_disk_that_fills_later_leaves_the_earlier_output(pair: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = widen.merge(*pair_of(pair), out, recipe=widen.manifest.Recipe("r", "0"))
    # A limit on file sizes is the same failing write, and needs no disk of its own.
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "import tempfile; resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))\n"
    process = start_merge(*pair, out, 0.5, limit=limit)
    _, said = process.communicate(timeout=300)
    assert process.returncode
    assert "EnvironmentFault" in said
    assert Manifest.load(out).digest == first.digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def pair_of(pair: list[Path]) -> tuple[Path, list[Path]]:
    return pair[0], pair[1:]


KILLS = 50


@pytest.mark.slow
def test_killed_at_random_moments_the_earlier_output_stays_whole_and_the_last_run_ends_the_same(
    pair: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = widen.merge(*pair_of(pair), out, recipe=widen.manifest.Recipe("r", "0"))
    second = widen.merge(*pair_of(pair), tmp_path / "other", widen.Settings(s=0.5, shard_bytes=9_000))
    started = time.monotonic()
    start_merge(*pair, tmp_path / "timing", 0.5).communicate(timeout=300)
    whole = time.monotonic() - started
    moments, finished = random.Random("killed at random moments"), 0
    for _ in range(KILLS):
        process = start_merge(*pair, out, 0.5)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(whole * moments.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        manifest = Manifest.load(out)
        assert manifest.digest in (first.digest, second.digest)
        assert manifest.damage(out) == []
        if manifest.digest == second.digest:
            finished += 1
            shutil.rmtree(out)
            widen.merge(*pair_of(pair), out, recipe=widen.manifest.Recipe("r", "0"))
    process = start_merge(*pair, out, 0.5)
    process.communicate(timeout=300)
    assert process.returncode == 0
    last = Manifest.load(out)
    assert last.digest == second.digest
    assert last.tensors == second.tensors
    assert {path.name for path in tmp_path.iterdir()} == {"out", "other", "timing"}
    assert finished < KILLS


def test_an_exception_in_the_middle_publishes_nothing(tmp_path: Path) -> None:
    def failing() -> None:
        with staged_folder(tmp_path / "out") as staging:
            (staging.folder / "model-00001-of-00002.safetensors").write_bytes(b"complete")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    dead = tmp_path / ".out.staging-dead"
    dead.mkdir()
    lock_of(dead).touch()
    lock_of(tmp_path / ".out.staging-unmade").touch()
    with staged_folder(tmp_path / "out") as living:
        assert living.interrupted == (dead,)
        with staged_folder(tmp_path / "out") as other:
            assert other.interrupted == ()
            assert living.folder.exists()
            (other.folder / "x").write_text("second")
        (living.folder / "x").write_text("first")
    assert (tmp_path / "out" / "x").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


STAGE = """
    import signal, sys
    from pathlib import Path
    from widen.staging import staged_folder

    WRITES = ("open", "fcntl.flock", "ctypes.call_function")
    left, begun = int(sys.argv[2]), False

    def dies(event, arguments):
        global left, begun
        begun = begun or any(".staging-" in str(one) for one in arguments)
        if begun and event.startswith(("os.", "shutil.", *WRITES)):
            left -= 1
            if left < 0:
                signal.raise_signal(signal.SIGKILL)

    sys.addaudithook(dies)
    with staged_folder(Path(sys.argv[1])) as staging:
        (staging.folder / "x").write_text("new")
"""


def test_killed_before_any_call_to_the_disk_nothing_is_left_that_the_next_does_not_find(tmp_path: Path) -> None:
    """Making, filling, exchanging and removing a staging folder, each ended before its every step in turn."""
    out, step, ended = tmp_path / "out", 0, False
    out.mkdir()
    (out / "x").write_text("old")
    while not ended:
        command = [sys.executable, "-c", textwrap.dedent(STAGE), str(out), str(step)]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        assert code in (0, -signal.SIGKILL)
        ended = code == 0
        assert (out / "x").read_text() in ("old", "new")
        with staged_folder(out) as staging:
            (staging.folder / "x").write_text("old")
        assert [path.name for path in tmp_path.iterdir()] == ["out"], f"killed before step {step}"
        step += 1
    assert step > 10


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [one.name for one in path.parent.iterdir()] == ["record.json"]


def test_a_folder_that_cannot_be_written_is_told(pair: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot write"):
        widen.merge(*pair_of(pair), tmp_path / "file" / "out")


def test_a_tensor_file_is_what_the_library_reads(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    slots = [Slot("b", "F64", (2, 2)), Slot("a", "F32", (3,)), Slot("é", "F32", ()), Slot("none", "F32", (0, 4))]
    file = ShardFile(tmp_path / "x.safetensors", slots)
    file.write("a", 4, np.float32([1, 2]))
    file.write("b", 0, np.arange(4.0))
    file.write("é", 0, np.float32([7]))
    file.write("a", 0, np.float32([0]))
    assert file.sha256(slots[1]) == hashlib.sha256(np.float32([0, 1, 2]).tobytes()).hexdigest()
    file.close()
    assert (tmp_path / "x.safetensors").stat().st_size == file.size
    loaded = load_file(tmp_path / "x.safetensors")
    assert [loaded[slot.name].tolist() for slot in slots[:3]] == [[[0.0, 1.0], [2.0, 3.0]], [0.0, 1.0, 2.0], 7.0]


def test_a_digest_is_kept_only_for_a_file_at_rest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    fresh = DigestCache(tmp_path / "cache").compute(path)
    assert fresh == hash_file(path)
    assert not (tmp_path / "cache").exists()  # written a moment ago: it could change within one clock tick
    os.utime(path, (1, 1))
    DigestCache(tmp_path / "cache").compute(path)
    assert DigestCache(tmp_path / "cache").get(path) == fresh
    path.write_bytes(b"two")
    assert DigestCache(tmp_path / "cache").get(path) is None


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    before = Fingerprint.of(path)
    digest = hash_file(path)
    path.write_bytes(b"longer")
    with pytest.raises(InputsRefused, match="changed while it was read"):
        DigestCache().put(path, before, digest)
