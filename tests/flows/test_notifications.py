"""Notifications: events of a real Prefect server become calls of a real webhook, and nothing tells its secret."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
import yaml

from flows.assets import asset
from flows.follow.notifications import ANY_BLOCK, AUTOMATIONS, apply
from flows.follow.server import send_event
from tests.flows.machine import asked_of, bare_environment, prefect_server
from widen.errors import EnvironmentFault

pytestmark = pytest.mark.slow

TOLD = {
    "update": "quickstart-0123456789ab",
    "recipe": "quickstart",
    "reason": 'the gate says FAIL: app_en/acc {{ 1 + 1 }} "below" 0.5',
    "version": "4",
    "report": "runs/quickstart/report.html",
    "moved": "tagger: v1 -> v2",
}


class Webhook:
    """A chat's address: keeps what it is sent."""

    def __init__(self) -> None:
        self.calls: Queue[tuple[str, Any]] = Queue()
        self.answer = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.calls.put((self.path, json.loads(body)))
                self.send_response(hook.answer)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook-s3cr3t"

    def next(self) -> str:
        """The next text that arrives."""
        path, body = self.calls.get(timeout=60)
        assert path == "/hook-s3cr3t"
        assert set(body) == {"text"}
        return str(body["text"])

    def rests(self) -> bool:
        """Whether nothing more comes."""
        try:
            self.calls.get(timeout=3)
        except Empty:
            return True
        return False


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    """A local HTTP server."""
    hook = Webhook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    thread.join()
    hook.server.server_close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server's log lies."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine whose Prefect server runs."""
    environment = bare_environment(place)
    with prefect_server(environment, place / "server.log"):
        yield environment


@pytest.fixture
def asking(server: dict[str, str]) -> Iterator[dict[str, str]]:
    """This process as that server's client."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        yield server


@pytest.fixture(scope="module")
def loaded(server: dict[str, str], webhook: Webhook, place: Path) -> None:
    """The automations made, and the server's triggers aware of them: they hear of it by a message."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: server["PREFECT_API_URL"]}):
        assert apply(None) == ()  # without an address and a block nothing is made
        assert automations(server) == {}
        told = apply(webhook.url)
        assert told[0] == "block webhook/widen: there"
        assert [line.rpartition(": ")[2] for line in told[1:]] == ["made"] * 3
        for _ in range(30):
            send_event("widen.failed", "probe", place, {"recipe": "probe", "reason": "loading"})
            with suppress(Empty):
                webhook.calls.get(timeout=2)
                break
        while not webhook.rests():
            pass


def automations(server: dict[str, str]) -> dict[str, Any]:
    return {one["name"]: one for one in asked_of(server, "/automations/filter", {})}


@pytest.mark.usefixtures("loaded")
def test_a_held_candidate_calls_the_webhook(asking: dict[str, str], webhook: Webhook, place: Path) -> None:
    send_event("widen.held", "quickstart", place, TOLD)
    text = webhook.next()
    assert text.splitlines() == [
        "quickstart: version 4 is held",
        f"Why: {TOLD['reason']}",
        "The champion stays. Nothing is tried again until a source or the recipe changes.",
        "What moved: tagger: v1 -> v2",
        "Report: runs/quickstart/report.html",
        f"What to do next: widen status quickstart --workspace {place}",
    ]
    send_event("widen.promoted", "quickstart", place, TOLD)
    assert webhook.rests()


@pytest.mark.usefixtures("loaded")
def test_what_is_not_known_is_left_out(asking: dict[str, str], webhook: Webhook, place: Path) -> None:
    send_event("widen.failed", "quickstart", place, TOLD | {"version": "", "report": "", "moved": ""})
    assert webhook.next().splitlines() == [
        "quickstart: the re-merge failed",
        f"Why: {TOLD['reason']}",
        f"What to do next: widen status quickstart --workspace {place}",
    ]


@pytest.mark.usefixtures("loaded")
def test_a_run_of_the_remerge_that_failed_calls_the_webhook(
    asking: dict[str, str], webhook: Webhook, place: Path
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Failed

    asked = {"update": "quickstart-0123456789ab", "workspace": "W"}
    with get_client(sync_client=True) as client:
        for name in ("merge", "remerge"):  # a person who runs a merge sees that it failed
            run = client.create_flow_run(flow(lambda: None, name=name), parameters=asked)
            client.set_flow_run_state(run.id, Failed(message="the disk is on fire"), force=True)
    first, why, update, page, status = webhook.next().splitlines()
    assert first == f"remerge: the run {run.name} failed"
    assert update == "Update: quickstart-0123456789ab"
    assert why == "Why: the disk is on fire"
    assert page.endswith(f"/runs/flow-run/{run.id}")
    assert status == "What to do next: widen status --workspace W"
    assert webhook.rests()


@pytest.mark.usefixtures("loaded")
def test_again_changes_nothing_but_what_differs(asking: dict[str, str], webhook: Webhook) -> None:
    from prefect.client.orchestration import get_client

    before = automations(asking)
    paused = before["widen: candidate held"]
    with get_client(sync_client=True) as client:
        client.pause_automation(paused["id"])
    assert {line.rpartition(": ")[2] for line in apply(None)[1:]} == {"up to date"}
    after = automations(asking)
    assert {name: one["id"] for name, one in after.items()} == {name: one["id"] for name, one in before.items()}
    assert [name for name, one in after.items() if not one["enabled"]] == ["widen: candidate held"]
    blocks = asked_of(asking, "/block_documents/filter", {})
    assert len({one["id"] for one in blocks if one["name"] == "widen"}) == 1
    assert {one["actions"][0]["block_document_id"] for one in after.values()} == {blocks[0]["id"]}
    assert webhook.url not in json.dumps(blocks)  # shown as asterisks


def test_the_file_is_one_that_prefect_takes(asking: dict[str, str], place: Path) -> None:
    text = asset(AUTOMATIONS).read_text()
    assert text.count(ANY_BLOCK) == 1 + len(yaml.safe_load(text)["automations"])  # and in the command above them
    file = place / "automations.yaml"
    file.write_text(text.replace("widen: ", "by hand: "))
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "automation", "create", "--from-file", str(file)],
        env=asking, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "by hand: candidate held" in automations(asking)


@pytest.mark.usefixtures("loaded", "asking")
def test_the_servers_log_tells_no_address(webhook: Webhook, place: Path) -> None:
    webhook.answer = 500
    send_event("widen.failed", "quickstart", place, TOLD)
    webhook.next()
    webhook.answer = 200
    send_event("widen.failed", "quickstart", place, TOLD)
    webhook.next()  # the one before is done with
    assert "s3cr3t" not in (place / "server.log").read_text()


def test_a_server_that_is_not_there_is_named_without_the_address() -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(EnvironmentFault, match="did not take the webhook") as caught,
    ):
        apply("http://127.0.0.1:9/hook-s3cr3t")
    assert "s3cr3t" not in str(caught.value)
