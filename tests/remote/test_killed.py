"""Killed while it sends: the old model stays, and the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import widen
from tests.remote.conftest import BUCKET, Line, client, family, upload
from tests.remote.outputs import ONE, OUT, contents, tensors_of
from widen.checkpoint import Checkpoint

MERGE = """
import sys, widen
from widen.manifest import Recipe
from widen.remote import driver
driver.UPLOAD_PART = 5 << 20
cache, base, *models = sys.argv[1:]
settings = widen.Settings(shard_bytes=12_000_000)
resources = widen.Resources(cache=cache, threads=2)
widen.merge(base, models, "s3://models/out", settings, recipe=Recipe("one", "1" * 64), resources=resources)
"""


@pytest.mark.slow
def test_killed_while_it_sends_the_old_model_stays_and_the_next_run_goes_on(
    bucket: Any, line: Line, large: list[Path], tmp_path: Path
) -> None:
    urls = [upload(bucket, one, one.name) for one in large]
    small, *others = family(tmp_path / "in")
    old = widen.merge(small, others, OUT, recipe=ONE)
    line.stall_puts = 30_000_000
    command = [sys.executable, "-c", MERGE, str(tmp_path / "cache"), *urls]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        assert line.stalled.wait(120)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGKILL)
    line.stall_puts = None
    assert client().list_multipart_uploads(Bucket=BUCKET).get("Uploads"), "it was killed in the middle of one"
    assert contents(Checkpoint.open(OUT)) == tensors_of(old)
    settings = widen.Settings(shard_bytes=12_000_000)
    resources = widen.Resources(cache=tmp_path / "cache", threads=2)
    line.asked.clear()
    again = widen.merge(urls[0], urls[1:], OUT, settings, recipe=ONE, resources=resources)
    local = widen.merge(large[0], large[1:], tmp_path / "local", settings, recipe=ONE)
    assert again.files == local.files
    assert again.reuse.reused > 0
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)
    assert client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
    assert list((tmp_path / "cache" / "remote" / "scratch").iterdir()) == []
