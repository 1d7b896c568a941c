"""`widen merge --runner ray|dask` from a storage to a storage: nobody has a model on a disk, or is told a key."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import widen
from tests.remote.conftest import KEY, SECRET, family, keys, upload
from tests.remote.outputs import OUT, contents, current, tensors_of
from widen.checkpoint import Checkpoint
from widen.manifest import MANIFEST_FILE, Manifest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPE = """
name: both
sources:
  base: {path: s3://models/in/base}
  m1: {path: s3://models/in/m1}
  m2: {path: s3://models/in/m2}
merge:
  base_model: base
  models: [{model: m1}, {model: m2}]
  merge_method: widen
"""
ASKED = ("--unit", "cpus=1", "--shard-size", "8KB", "--device", "cpu")


@pytest.fixture
def place(bucket: Any, tmp_path: Path) -> Path:
    """A recipe of three models in the storage, and beside it what one process makes of them as files."""
    models = family(tmp_path / "in")
    for one in models:
        upload(bucket, one, f"in/{one.name}")
    widen.merge(models[0], models[1:], tmp_path / "local", widen.Settings(shard_bytes=8000))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def begun(place: Path, temporary: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """The command; what it says lies in `place`/said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "WIDEN_", "RAY_"))}
    own = {"PYTHONPATH": str(ROOT), "HOME": str(place / "work"), "TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
    command = [sys.executable, "-P", "-m", "flows", "merge", "recipe.yaml", "--out", OUT, *arguments, *ASKED]
    with (place / "said").open("wb") as said:
        return subprocess.Popen(
            command, cwd=place / "work", env=kept | own, stdout=said, stderr=said, start_new_session=True
        )


def require_same(bucket: Any, place: Path) -> None:
    local, folder = Manifest.load(place / "local"), current(bucket)["folder"]
    for path in (place / "local").iterdir():
        if path.name != MANIFEST_FILE:  # it names the recipe
            assert bucket.Object(f"out/{folder}/{path.name}").get()["Body"].read() == path.read_bytes(), path.name
    assert contents(Checkpoint.open(OUT)) == tensors_of(local)


def require_no_secret(*folders: Path) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
        assert KEY.encode() not in path.read_bytes(), path


def test_ray_merges_from_a_storage_to_a_storage(bucket: Any, place: Path, temporary: Path) -> None:
    code, said = begun(place, temporary, "--runner", "ray").wait(), (place / "said").read_text()
    assert code == 0, said
    assert f"{OUT}: 12 tensors, digest {Manifest.load(place / 'local').digest}" in said
    require_same(bucket, place)
    require_no_secret(place, temporary)
    weights = [path for path in place.joinpath("work").rglob("*.safetensors") if "headers" not in path.parts]
    assert weights == []


def test_a_killed_merge_on_dask_goes_on_with_what_its_units_sent(bucket: Any, place: Path, temporary: Path) -> None:
    killed = begun(place, temporary, "--runner", "dask")
    while len([key for key in keys(bucket, "out/") if "/widen-finished/" in key]) < 2:
        assert killed.poll() is None, (place / "said").read_text()
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert "out/widen-current.json" not in keys(bucket, "out/")
    code, said = begun(place, temporary, "--runner", "dask").wait(), (place / "said").read_text()
    assert code == 0, said
    require_same(bucket, place)
    assert "taken from an earlier run" in said
    require_no_secret(place, temporary)
