"""A node that cannot do its part of a merge into a storage says which it is, what it expected, and what to do."""

import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import widen
from tests.remote.conftest import BUCKET, KEY, SECRET, client, family, keys
from tests.remote.nodes import Nodes, process_of
from tests.remote.outputs import ONE, OUT, SMALL, Heard
from tests.tasks.conftest import served
from widen.dispatched import Dispatch, Done
from widen.errors import EnvironmentFault
from widen.manifest import Manifest
from widen.remote import cache as caches
from widen.units import Unit, do_unit

NODE = socket.gethostname()


def merge(folder: Path, dispatch: Dispatch, **more: Any) -> Manifest:
    base, *models = family(folder / "in")
    return widen.merge(base, models, OUT, SMALL, recipe=ONE, dispatch=dispatch, **more)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "nobody answers there: check the address .AWS_ENDPOINT_URL"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials: set AWS_ACCESS_KEY_ID and"),
        ({"AWS_PROFILE": "nobodys"}, "AWS_PROFILE names a profile that is not configured here"),
    ],
    ids=["no way", "no credentials", "no such profile"],
)  # fmt: skip
def test_a_node_that_does_not_reach_the_bucket_is_named(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            for name, value in environment.items():
                patch.setenv(name, value) if value else patch.delenv(name)
            do_unit(units[0])

    with pytest.raises(EnvironmentFault, match=rf"^{NODE}: s3://models/out/widen-merge-\w+/.*: {told}") as fault:
        merge(tmp_path, dispatch)
    assert not any(secret in str(fault.value) for secret in (KEY, SECRET))


def test_a_node_whose_environment_names_another_storage_is_told(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has a bucket of the same name."""

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p"]
        with monkeypatch.context() as patch, served(lambda port: [*command, str(port)]) as other:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{other.port}")
            client().create_bucket(Bucket=BUCKET)
            do_unit(units[0])

    with pytest.raises(EnvironmentFault, match=rf"^{NODE}: s3://models/out/\S+: expected widen-claim.json .* another"):
        merge(tmp_path, dispatch)


def test_a_node_without_the_driver_is_named(bucket: Any, tmp_path: Path) -> None:
    def dispatch(units: Sequence[Unit], done: Done) -> None:
        with process_of(units[0], "sys.modules['s3fs'] = None") as process:
            _, told = process.communicate()
        raise EnvironmentFault(told.decode())

    with pytest.raises(EnvironmentFault, match=rf"Fault: {NODE}: s3://.*; it needs s3fs .widen.s3.") as fault:
        merge(tmp_path, dispatch)
    assert "Traceback" not in str(fault.value)


def test_a_scratch_that_is_too_small_is_named(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(tmp_path / "nodes")

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        monkeypatch.setattr("widen.staging.free_space", lambda _: 1000)
        nodes(units, done)

    with pytest.raises(EnvironmentFault, match=rf"^{NODE}: {tmp_path}/.*/scratch: .* needs 0.06 GB, the disk has 0.00"):
        merge(tmp_path, dispatch)
    assert [key for key in keys(bucket, "out/") if "safetensors" in key] == []


def test_a_scratch_that_cannot_be_written_is_named(bucket: Any, tmp_path: Path) -> None:
    nodes = Nodes(tmp_path / "nodes")

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        cache = Path(str(nodes.there(units[0]).job.resources.cache))
        (cache / "remote").mkdir(parents=True)
        (cache / "remote" / "scratch").write_text("in the way")
        nodes(units, done)

    with pytest.raises(EnvironmentFault, match=rf"^{NODE}: {tmp_path}/.*/remote/scratch: cannot write .File exists."):
        merge(tmp_path, dispatch)


def test_a_cache_that_a_node_cannot_have_is_warned_of_once_and_leaves_nothing_behind(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for known in (caches.remote_cache, caches._temporary):
        known.cache_clear()
    heard, there = Heard(), list[Path]()

    def dispatch(units: Sequence[Unit], done: Done) -> None:
        for unit in units:
            own = widen.Resources(cache=tmp_path / "file" / "cache", threads=1)
            made = do_unit(replace(unit, job=replace(unit.job, resources=own)))
            there.extend((tmp_path / "temporary").rglob("*"))
            done(unit, made)

    merge(tmp_path, dispatch, progress=heard, resources=widen.Resources(cache=tmp_path / "here"))
    warned = [note for note in heard.notes if note.startswith("warning: ")]
    told = f"cache {tmp_path}/file/cache: cannot be made (Not a directory); choose another; units there keep nothing"
    assert warned == [f"warning: {NODE}: {told} between them"]
    assert there == []


def test_a_node_without_any_place_for_files_is_named(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("widen.units.gettempdir", nowhere)
    with pytest.raises(EnvironmentFault, match=rf"^{NODE}: expected a cache, or a folder for temporary files.*TMPDIR"):
        merge(tmp_path, lambda units, _: do_unit(units[0]))
