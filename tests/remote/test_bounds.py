"""What lies on this machine's disk while a merge reads from and writes to a storage: within its bounds."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import widen
from tests.remote.conftest import family, upload
from tests.remote.outputs import ONE, OUT
from widen.remote import store
from widen.remote.store import Store


def on_disk(folder: Path, process: str) -> int:
    """Bytes of blocks below a folder, and of files that were removed there and are still mapped or open."""
    blocks, seen = 0, set()
    there = [Path(root) / name for root, folders, files in os.walk(folder) for name in (*folders, *files)]
    for path in there:
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        seen.add(status.st_ino)
        blocks += status.st_blocks * 512
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            target, status = str(entry.readlink()), entry.stat()
        except OSError:
            continue
        if target.startswith(str(folder)) and target.endswith(" (deleted)") and status.st_ino not in seen:
            seen.add(status.st_ino)
            blocks += status.st_blocks * 512
    return blocks


@pytest.mark.slow
def test_no_more_than_the_bound_lies_on_the_disk_at_any_time(bucket: Any, large: list[Path], tmp_path: Path) -> None:
    """A bound of half a model for inputs of three; of the output three files, of sixteen."""
    urls = [upload(bucket, one, one.name) for one in large]
    size = sum(path.stat().st_size for path in large[0].glob("*.safetensors"))
    bound, shard = size // 2, size // 10
    resources = widen.Resources(cache=tmp_path / "cache", remote_cache=bound, threads=2)
    most, done = [0], threading.Event()

    def sample() -> None:
        while not done.is_set():
            most.append(on_disk(tmp_path / "cache" / "remote", "self"))
            time.sleep(0.002)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        remote = widen.merge(urls[0], urls[1:], OUT, widen.Settings(shard_bytes=shard), recipe=ONE, resources=resources)
    finally:
        done.set()
        sampler.join()
    local = widen.merge(large[0], large[1:], tmp_path / "local", widen.Settings(shard_bytes=shard), recipe=ONE)
    assert remote.to_json() == local.to_json()
    assert len(most) > 50
    assert size // 4 < max(most) <= bound + 3 * shard * 1.1 + 2_000_000 < size, (max(most), size)


@pytest.mark.slow
def test_two_processes_share_a_cache_and_a_bound(bucket: Any, large: list[Path], tmp_path: Path) -> None:
    urls = [upload(bucket, one, one.name) for one in large]
    size = sum(path.stat().st_size for path in large[0].glob("*.safetensors"))
    code = """
import sys, widen
from widen.manifest import Recipe
cache, bound, out, *sources = sys.argv[1:]
resources = widen.Resources(cache=cache, remote_cache=int(bound), threads=1)
print(widen.merge(sources[0], sources[1:], out, recipe=Recipe("one", "1" * 64), resources=resources).digest)
"""
    outs = [tmp_path / "a", tmp_path / "b"]
    arguments = [[str(tmp_path / "cache"), str(size), str(out), *urls] for out in outs]
    running = [
        subprocess.Popen([sys.executable, "-c", code, *one], stdout=subprocess.PIPE, text=True) for one in arguments
    ]
    most = 0
    while any(one.poll() is None for one in running):
        most = max(most, on_disk(tmp_path / "cache" / "remote" / "blobs", "self"))
        time.sleep(0.02)
    digests = {one.communicate()[0] for one in running}
    local = widen.merge(large[0], large[1:], tmp_path / "local", recipe=ONE)
    assert digests == {f"{local.digest}\n"}
    assert size // 4 < most <= size * 1.3


def test_lanes_wait_for_a_storage_that_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *models = family(tmp_path / "in")
    there: list[int] = []
    real = store.Store.upload

    def slow(self: Store, local: Path, name: str) -> Any:
        there.append(len(list(local.parent.glob("*.safetensors"))))
        time.sleep(0.1)
        return real(self, local, name)

    monkeypatch.setattr(store.Store, "upload", slow)
    settings, resources = widen.Settings(shard_bytes=3000), widen.Resources(threads=6)
    sent = widen.merge(base, models, f"file://{tmp_path}/out", settings, recipe=ONE, resources=resources)
    assert len(there) > 8
    assert max(there) <= 3
    assert sent.digest == widen.merge(base, models, tmp_path / "local", settings, recipe=ONE).digest
