"""`widen promote`, `rollback` and `history`, as their user calls them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import promotion
from flows.cli import app
from registry.errors import HistoryAltered, PromotionRefused
from registry.history import read_history
from registry.registration import Evidence, register
from registry.store import Registry, asking

Make = Callable[..., Evidence]
Ask = Callable[..., str]


@pytest.fixture
def ask(local: Registry, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls the command in `local`'s workspace; what it printed. An error is raised with what was printed as a note."""
    assert local.database is not None
    workspace = local.database.parents[2]
    monkeypatch.setattr(promotion, "prepare", lambda _: None)

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--workspace", str(workspace)])
        if done.exception is not None:
            done.exception.add_note(done.output)
            raise done.exception
        return done.output

    return call


def test_promote_rollback_and_history(local: Registry, evidence: Make, ask: Ask) -> None:
    register(local, "quickstart", evidence())
    register(local, "quickstart", evidence(salt="second"))
    assert ask("history", "quickstart") == "quickstart: no entry yet; champion: no champion\n"
    said = ask("promote", "quickstart/1", "--by", "Ada", "--reason", "the first")
    assert "champion moved from no champion to version 1\nentry 1 (" in said
    assert "(gate PASS) by Ada: the first" in said
    ask("promote", "quickstart@candidate", "--by", "Ada")
    assert "version 2 is the champion already, nothing was moved" in ask("promote", "quickstart/2", "--by", "Ada")
    assert "from version 2 to version 1" in ask("rollback", "quickstart", "--by", "Bob", "--reason", "too slow")
    lines = ask("history", "quickstart").splitlines()
    entries = read_history(local, "quickstart").entries
    assert [line.split()[:2] for line in lines[:3]] == [[str(e.number), e.digest()[:12]] for e in entries]
    assert lines[2].endswith("rollback: version 2 -> version 1 (gate PASS) by Bob: too slow")
    assert "the gate said PASS" in lines[1]
    assert lines[3].startswith(f"head  {entries[-1].digest()} ")
    assert len(lines) == 4


def test_history_as_json_holds_whole_digests(local: Registry, evidence: Make, ask: Ask) -> None:
    register(local, "quickstart", evidence())
    ask("promote", "quickstart/1", "--by", "Ada")
    held = json.loads(ask("history", "quickstart", "--json"))
    (entry,) = read_history(local, "quickstart").entries
    assert (held["head"], held["champion"], held["faults"], held["void"]) == (entry.digest(), 1, [], [])
    assert held["entries"][0]["digest"] == entry.digest()
    assert held["entries"][0]["decision_digest"] == entry.decision_digest


def test_an_override_names_a_person_and_what_it_overrode(local: Registry, evidence: Make, ask: Ask) -> None:
    register(local, "quickstart", evidence(floor=0.95))
    with pytest.raises(PromotionRefused, match="the gate says FAIL"):
        ask("promote", "quickstart/1", "--by", "Ada")
    ask("promote", "quickstart/1", "--by", "Ada", "--override", "a customer waits")
    assert "override: no champion -> version 1 (gate FAIL) by Ada: a customer waits" in ask("history", "quickstart")


def test_history_tells_deleted_versions_and_faults(local: Registry, evidence: Make, ask: Ask) -> None:
    for salt in ("a", "b"):
        version = register(local, "quickstart", evidence(salt=salt)).version
        ask("promote", f"quickstart/{version}", "--by", "Ada")
    with asking(local) as client:
        client.delete_model_version("quickstart", "1")
    assert "(version deleted)" in ask("history", "quickstart").splitlines()[0]
    with asking(local) as client:
        client.set_model_version_tag("quickstart.history", "1", "digest", "0" * 64)
    with pytest.raises(HistoryAltered, match="entry 1 was altered") as caught:
        ask("history", "quickstart")
    assert caught.value.exit_code == 5
    assert "fault: entry 1 was altered" in caught.value.__notes__[0]


def test_history_finishes_what_a_killed_promotion_left(
    local: Registry, evidence: Make, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry import history

    register(local, "quickstart", evidence())
    with monkeypatch.context() as patch:
        patch.setattr(history, "_apply", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask("promote", "quickstart/1", "--by", "Ada")
    assert read_history(local, "quickstart").alias is None
    ask("history", "quickstart")
    assert read_history(local, "quickstart").alias == 1
    assert read_history(local, "quickstart").unfinished is False


def test_the_person_is_gits_user_or_else_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "desk")
    assert promotion.person(tmp_path) == "ada@desk"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for key, value in (("user.name", "Ada L"), ("user.email", "ada@example.org")):
        subprocess.run(["git", "-C", str(tmp_path), "config", key, value], check=True)
    assert promotion.person(tmp_path) == "Ada L <ada@example.org>"
    monkeypatch.setattr("getpass.getuser", lambda: {}["no name"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert promotion.person(tmp_path).startswith("uid ")
