"""What a cluster has, and what a unit takes of it, in words and in numbers."""

from types import SimpleNamespace

import pytest

from tasks.cluster import Runner, Share, room, want


def test_who_waits_is_told_what_a_unit_takes_and_what_there_is() -> None:
    told = want(Runner("local", None, Share(4, 1, 32_000_000_000, {"nvme": 1})))
    assert told.startswith("one takes cpus=4, gpus=1, memory=32.0GB, nvme=1 of a node, and there is in all CPU=")


def test_dask_is_counted_by_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import Client, LocalCluster
    from prefect.context import FlowRunContext

    workers = {"n_workers": 2, "threads_per_worker": 3, "processes": False, "dashboard_address": None}
    with LocalCluster(**workers) as cluster, Client(cluster) as client:
        flow = SimpleNamespace(task_runner=SimpleNamespace(client=client))
        monkeypatch.setattr(FlowRunContext, "get", lambda: flow)
        assert "in all CPU=6, memory=" in want(Runner("dask"))
        assert room(Runner("dask")) == 6
        assert room(Runner("dask", None, Share(2, 1))) == 2
