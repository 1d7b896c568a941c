"""A merge by units on real clusters, two Ray nodes of which one is killed and Dask's workers: one process's bytes."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.build import family
from tests.flows.conftest import run_widen

pytestmark = pytest.mark.slow
QUICKLY_DEAD = {
    "RAY_health_check_initial_delay_ms": "0", "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": "2",
}  # fmt: skip
SMALL = ("--shard-size", "4KB", "--device", "cpu")


@dataclass
class Cluster:
    """`ray start` twice: a head and a second node, each a group of processes that can be killed."""

    folder: Path
    port: int
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, name: str, *arguments: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, "--num-cpus", "1", "--block"]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.nodes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self, name: str) -> None:
        os.killpg(self.nodes[name].pid, signal.SIGKILL)
        self.nodes.pop(name).wait()

    def ready(self, nodes: int) -> bool:
        code = f"import ray; ray.init({self.address!r}, logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"
        found = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() == str(nodes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie below this folder, and their paths may not be long.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Cluster(folder, port)
    with pytest.MonkeyPatch.context() as patch:
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        settings["PYTHONPATH"] = str(Path(__file__).parents[2])
        for name, value in {**settings, **QUICKLY_DEAD}.items():
            patch.setenv(name, value)
        here = ("--node-ip-address", "127.0.0.1")
        made.start("head", "--head", "--port", str(port), *here, "--include-dashboard=false", "--temp-dir", str(folder))
        wait_for(lambda: made.ready(1))
        made.start("second", "--address", made.address, *here)
        wait_for(lambda: made.ready(2))
        yield made
        for name in list(made.nodes):
            made.kill(name)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small models, a recipe, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("models")
    family(folder / "in")
    models = "".join(f"  - model: {folder / 'in' / name}\n" for name in ("m1", "m2"))
    (folder / "r.yaml").write_text(f"merge_method: widen\nbase_model: {folder / 'in' / 'base'}\nmodels:\n{models}")
    done = run_widen("merge", folder / "r.yaml", "--out", folder / "local", *SMALL, cwd=folder, home=folder)
    assert done.returncode == 0, done.stderr
    return folder


def wait_for(condition: object, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "the cluster did not come up"
        time.sleep(0.5)


def same(folder: Path, other: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    files = [path.name for path in other.iterdir()]
    return names == set(files) and all((folder / name).read_bytes() == (other / name).read_bytes() for name in files)


def test_who_waits_for_ray_is_told_what_its_nodes_have(cluster: Cluster) -> None:
    code = "import ray; from tasks.cluster import Runner, Share, want\n"
    code += f"ray.init({cluster.address!r}, logging_level=40); print(want(Runner('ray', None, Share(64))))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith("one takes cpus=64 of a node, and there is in all CPU=2, memory=")


def test_two_ray_nodes_make_the_same_bytes_and_so_does_one_that_loses_the_other(cluster: Cluster, place: Path) -> None:
    ray = ("--runner", "ray", "--address", cluster.address, "--unit", "cpus=1", *SMALL)
    done = run_widen("merge", place / "r.yaml", "--out", place / "two", *ray, cwd=place, home=place)
    assert done.returncode == 0, done.stderr
    assert same(place / "two", place / "local")

    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "WIDEN_"))}
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "flows", "merge", str(place / "r.yaml"), "--out", str(place / "one"), *ray]
    merging = subprocess.Popen(
        command,
        cwd=place,
        env={**environment, "HOME": str(place), "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: len(list(place.glob(".one.staging-*/model-*"))) >= 2 or merging.poll() is not None)
    assert merging.poll() is None, "it ended before a node could be killed"
    cluster.kill("second")
    _, told = merging.communicate(timeout=180)
    assert merging.returncode == 0, told
    assert same(place / "one", place / "local")


def test_a_unit_that_fails_for_its_input_fails_the_merge_by_its_name(cluster: Cluster, place: Path) -> None:
    bad = place / "bad"
    shutil.copytree(place / "in" / "m2", bad)
    weights = load_file(bad / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, bad / "model.safetensors", {"format": "pt"})
    (place / "bad.yaml").write_text((place / "r.yaml").read_text().replace(str(place / "in" / "m2"), str(bad)))
    ray = ("--runner", "ray", "--address", cluster.address, "--unit", "cpus=1", *SMALL)
    done = run_widen("merge", place / "bad.yaml", "--out", place / "none", *ray, cwd=place, home=place)
    assert done.returncode == 3, done.stderr
    assert "merge model-" in done.stderr
    assert "model.norm.weight" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place / "none").exists()


def test_dask_makes_the_same_bytes(place: Path) -> None:
    dask = ("--runner", "dask", "--unit", "cpus=1", *SMALL)
    done = run_widen("merge", place / "r.yaml", "--out", place / "dask", *dask, cwd=place, home=place)
    assert done.returncode == 0, done.stderr
    assert same(place / "dask", place / "local")
