"""Two promotions at once, round after round: one wins, the other is told by name, no entry is lost or half there."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import pytest

from registry import history as log
from registry import promotion
from registry.decision import NO_CHAMPION, Decision
from registry.entry import Entry
from registry.errors import PromotionRefused
from registry.history import History, read_history
from registry.promotion import promote, rollback
from registry.store import Registry
from tests.flows.conftest import ROOT
from tests.registry.conftest import add_version

# Promotes what each line of its input names, and says in a line what came of it.
WRITER = """
import json, sys
from registry.decision import Decision
from registry.errors import PromotionRefused
from registry.promotion import promote
from registry.store import Registry, asking

registry, name, who = Registry(sys.argv[1]), sys.argv[2], sys.argv[3]
with asking(registry, create=True):
    print("ready", flush=True)
for line in sys.stdin:
    version, decision = json.loads(line)
    try:
        done = promote(registry, name, version, Decision.from_json(decision), by=who, reason="at once")
        said = [done.moved, ""]
    except PromotionRefused as refused:
        said = [False, str(refused)]
    print(json.dumps(said), flush=True)
"""

WHO = ("Ada", "Bob")


@contextmanager
def writers(registry: Registry, name: str) -> Iterator[list["subprocess.Popen[str]"]]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": dict(os.environ)}
    started = [subprocess.Popen([sys.executable, "-c", WRITER, registry.uri, name, who], **pipes) for who in WHO]  # type: ignore[call-overload]
    try:
        for one in started:
            assert one.stdout.readline() == "ready\n"
        yield started
    finally:
        for one in started:
            one.stdin.close()
            one.wait(60)
            one.stdout.close()


def compete(registry: Registry, name: str, rounds: int) -> None:
    """Every decision was asked of the champion of its round: who comes late is told so, however late."""
    add_version(registry, name, "nobody")
    against = NO_CHAMPION
    with writers(registry, name) as both:
        for number in range(1, rounds + 1):
            made = [add_version(registry, name, f"{number} {who}", against=against) for who in WHO]
            for one, (version, decision) in zip(both, made, strict=True):
                one.stdin.write(json.dumps([version, decision.to_json()]) + "\n")
            for one in both:
                one.stdin.flush()
            said = [json.loads(one.stdout.readline()) for one in both]
            against = judge(registry, name, number, made, said)


def judge(registry: Registry, name: str, number: int, made: list, said: list) -> str:  # type: ignore[type-arg]
    assert sorted(moved for moved, _ in said) == [False, True], said
    won = [moved for moved, _ in said].index(True)
    told = said[1 - won][1]
    history = read_history(registry, name)
    assert (history.faults, history.unfinished) == ((), False)
    assert len(history.entries) == number
    last = history.entries[-1]
    assert (last.by, last.to_version) == (WHO[won], made[won][0])
    assert history.alias == last.to_version
    assert f"by {WHO[won]} at {last.at}" in told or last.merged_digest in told, told
    assert all(void.entry.by == WHO[1 - won] for void in history.void if void.lost_to == last.number)
    return made[won][1].merged_digest


def threads(registry: Registry, name: str, made: list) -> list:  # type: ignore[type-arg]
    """Promotes in two threads, in the order of WHO; what came of each, as WRITER says it."""

    def work(who: str, version: int, decision: Decision) -> list:  # type: ignore[type-arg]
        try:
            return [promote(registry, name, version, decision, by=who, reason="at once").moved, ""]
        except PromotionRefused as refused:
            return [False, str(refused)]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: work(one[0], *one[1]), zip(WHO, made, strict=True)))


def test_rounds_of_two_threads_under_the_lock(local: Registry) -> None:
    against = NO_CHAMPION
    for number in range(1, 4):
        made = [add_version(local, "m", f"{number} {who}", against=against) for who in WHO]
        against = judge(local, "m", number, made, threads(local, "m", made))
        assert read_history(local, "m").void == ()


def test_two_rollbacks_at_once_do_not_go_two_back(
    local: Registry, three: list[Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Barrier(2)

    def read_together(registry: Registry, name: str) -> History:
        found = read_history(registry, name)
        gate.wait(60)
        return found

    def work(who: str) -> str:
        try:
            return str(rollback(local, "m", by=who, reason="too slow").to_version)
        except PromotionRefused as refused:
            return str(refused)

    monkeypatch.setattr(promotion, "read_history", read_together)
    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(work, WHO))
    after = read_history(local, "m")
    assert (after.alias, after.void, after.faults) == (2, (), ())
    assert said[0] == "2"
    assert f"another move came first: entry 4 ({after.head[:12]}), rollback of version 2 by" in said[1]


def collide(registry: Registry, name: str, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both hold their entry until both have one that names the same entry before it, whatever the decisions say."""
    write = log._write
    add_version(registry, name, "nobody")
    for number in range(1, rounds + 1):
        gate, waited = Barrier(2), set[str]()

        def together(client: Any, entry: Entry, gate: Barrier = gate, waited: set[str] = waited) -> Exception | None:
            if entry.by not in waited:  # a second try goes on alone
                waited.add(entry.by)
                gate.wait(60)
            return write(client, entry)

        made = [add_version(registry, name, f"{number} {who}") for who in WHO]
        with monkeypatch.context() as patch:
            patch.setattr(log, "_write", together)
            said = threads(registry, name, made)
        judge(registry, name, number, made, said)
        history = read_history(registry, name)
        assert [void.lost_to for void in history.void][number - 1 :] == [history.entries[-1].number]


@pytest.mark.slow
def test_three_collisions_through_a_server(server: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    collide(server, "collided", 3, monkeypatch)


@pytest.mark.slow
def test_twenty_collisions_through_a_server_on_postgresql(
    postgres_server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    collide(postgres_server, "collided", 20, monkeypatch)


@pytest.mark.slow
def test_twenty_rounds_of_two_processes_on_sqlite(local: Registry) -> None:
    compete(local, "m", 20)


@pytest.mark.slow
def test_twenty_rounds_of_two_processes_through_a_server_on_postgresql(postgres_server: Registry) -> None:
    compete(postgres_server, "m", 20)
    history = read_history(postgres_server, "m")
    numbers = sorted([one.number for one in history.entries] + [void.entry.number for void in history.void])
    assert numbers == list(range(1, len(numbers) + 1))
