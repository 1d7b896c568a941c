"""What a Prefect server must know of a workspace before a worker is of use: pool, GPU slot, deployments, automations.

Pool and slot are made where they are missing and left as they are where somebody changed them; deployments follow
prefect.yaml, automations deploy/automations.yaml.
"""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from flows.follow.notifications import apply
from flows.follow.server import REMERGE
from flows.settings import settings
from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "widen"
BACKSTOP = "watch/watch"
"""The deployment whose schedule `WIDEN_BACKSTOP_SECONDS` sets, where prefect.yaml, which takes no variable, has one."""
DEPLOYMENTS = ("merge/merge", REMERGE, BACKSTOP)
"""Those of prefect.yaml."""
GPU_SLOT = "gpu"
"""The global concurrency limit around what uses a CUDA device; one at a time unless somebody sets more."""

_PATIENCE = 180.0  # seconds for a server to answer that starts at the same time


def establish(workspace: Path, webhook: str | None = None) -> None:
    """Bring the server of PREFECT_API_URL to where a worker of `workspace` can start, and have it call `webhook`.

    Raises EnvironmentFault when the server does not answer within three minutes, refuses the credentials, serves
    another workspace, or cannot take the deployments.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    with get_client(sync_client=True) as client:
        _wait(client)
        try:
            _require_free(client, workspace)
            for line in (_pool(client), _slot(client), *apply(webhook)):
                print(line, flush=True)
        except PrefectException as error:
            raise EnvironmentFault(f"Prefect server {client.api_url} refuses what a worker needs: {error}") from error
    print(_deploy(workspace), flush=True)
    if "backstop_seconds" in settings().model_fields_set:
        print(_pace(settings().backstop_seconds), flush=True)


def _wait(client: "SyncPrefectClient") -> None:
    import httpx

    deadline = monotonic() + _PATIENCE
    while (fault := client.api_healthcheck()) is not None:
        if monotonic() > deadline:
            raise EnvironmentFault(f"Prefect server {client.api_url} does not answer ({fault}); see PREFECT_API_URL")
        sleep(0.5)
    try:
        client.read_work_pools(limit=1)
    except httpx.HTTPStatusError as error:
        raise EnvironmentFault(
            f"Prefect server {client.api_url} refuses our credentials ({error.response.status_code}); it and the "
            "worker need the same WIDEN_USER and WIDEN_PASSWORD, or the same file .widen/services/credentials"
        ) from None


def _require_free(client: "SyncPrefectClient", workspace: Path) -> None:
    """Deployments go by name alone: a second workspace would take over the first one's, and end its following."""
    from prefect.exceptions import ObjectNotFound

    for name in DEPLOYMENTS:
        try:
            other = client.read_deployment_by_name(name).parameters.get("workspace")
        except ObjectNotFound:
            continue
        if other is None or not Path(other).is_dir() or Path(other).resolve() == workspace.resolve():
            continue  # a folder that is gone was moved, or lies on a machine that this worker takes over from
        raise EnvironmentFault(
            f"Prefect server {client.api_url} serves {other} already, and one server serves one workspace; name "
            f"another in PREFECT_API_URL or WIDEN_PREFECT_PORT, or free this one by `prefect deployment delete {name}`"
        )


def _pool(client: "SyncPrefectClient") -> str:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    except ObjectAlreadyExists:
        return f"work pool {POOL}: there"
    return f"work pool {POOL}: made"


def _slot(client: "SyncPrefectClient") -> str:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        held = client.read_global_concurrency_limit_by_name(GPU_SLOT)
    except ObjectNotFound:
        with_one = GlobalConcurrencyLimitCreate(name=GPU_SLOT, limit=1, active=True)
        try:
            client.create_global_concurrency_limit(with_one)
        except ObjectAlreadyExists:  # another workspace's worker came first
            return f"concurrency limit {GPU_SLOT}: there"
        return f"concurrency limit {GPU_SLOT}: made, 1"
    return f"concurrency limit {GPU_SLOT}: there, {held.limit}"


def _deploy(workspace: Path) -> str:
    if not (workspace / "prefect.yaml").is_file():
        return f"deployments: none, {workspace} has no prefect.yaml; `widen init {workspace}` adds what is missing"
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, cwd=workspace, env=os.environ, text=True, capture_output=True, check=False)
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-6:]
        raise EnvironmentFault(f"`prefect deploy --all` failed in {workspace}: {' '.join(last)}; see its prefect.yaml")
    return "deployments: as prefect.yaml says"


def _pace(seconds: float) -> str:
    from datetime import timedelta

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.schedules import IntervalSchedule
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(BACKSTOP)
        except ObjectNotFound:
            return f"schedule of {BACKSTOP}: none, prefect.yaml has no such deployment"
        for one in found.schedules:
            paced = IntervalSchedule(interval=timedelta(seconds=seconds))
            client.update_deployment_schedule(found.id, one.id, schedule=paced)
    return f"schedule of {BACKSTOP}: every {seconds:g} s"
