"""What an error makes of an update: held, failed and worth another attempt, or a bug."""

import errno
import json
from pathlib import Path

import pytest
from httpx import ConnectError

from flows.follow.outcome import failure, told
from flows.recipe import load_recipe
from flows.road import Road, plainly
from registry.errors import (
    ChampionMoved,
    GateError,
    HistoryAltered,
    NotRegistered,
    PromotionRefused,
    RegistryUnreachable,
)
from tasks.updates import Outcome, Update
from tests.flows.conftest import ROOT
from widen.errors import EnvironmentFault, InputsRefused, RecipeError


@pytest.fixture
def road(tmp_path: Path) -> Road:
    return Road(load_recipe(ROOT / "recipes" / "quickstart.yaml"), tmp_path, "cpu", plainly)


def came_to_the_gate(road: Road, verdict: str) -> Road:
    road.run_folder.mkdir(parents=True)
    (road.run_folder / "gate.json").write_text(json.dumps({"verdict": verdict}))
    (road.run_folder / "registered.json").write_text(json.dumps({"version": 7}))
    road.seconds["promote"] = 0.1
    return road


HELD, AGAIN, BUG = ("held", False), ("failed", True), ("failed", False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputsRefused("noise"), HELD),
        (RecipeError("no such key"), HELD),
        (GateError("nothing gained"), HELD),
        (NotRegistered("gone"), HELD),
        (ChampionMoved("the champion is now another"), AGAIN),
        (HistoryAltered("repair it"), AGAIN),
        (RegistryUnreachable("nobody answers"), AGAIN),
        (EnvironmentFault("the disk is full"), AGAIN),
        (ConnectError("refused"), AGAIN),
        (ConnectionResetError("reset"), AGAIN),
        (TimeoutError("late"), AGAIN),
        (OSError(errno.ENOSPC, "no space"), AGAIN),
        (FileNotFoundError(errno.ENOENT, "where?"), BUG),
        (ZeroDivisionError(), BUG),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_error_ends_an_update_as(error: Exception, expected: tuple[str, bool], road: Road) -> None:
    for far in (None, road):
        outcome = failure(error, far)
        assert (outcome.state, outcome.transient) == expected
        assert outcome.version is None


def test_a_refused_promotion_is_held_unless_the_gate_passed(road: Road) -> None:
    refusal = PromotionRefused("the gate says FAIL")
    held = failure(refusal, came_to_the_gate(road, "FAIL"))
    assert (held.state, held.reason, held.version) == ("held", "the gate says FAIL", 7)
    (road.run_folder / "gate.json").write_text(json.dumps({"verdict": "PASS"}))
    assert failure(refusal, road).transient


def test_an_event_has_every_key_and_only_text(road: Road) -> None:
    update = Update("quickstart-0123456789ab", "recipes/quickstart.yaml", {}, ("a", "b"), 1.0)
    facts = told(None, update, Outcome("held", 2.0, "why"))
    assert facts == {
        "update": "quickstart-0123456789ab",
        "recipe": "quickstart",
        "reason": "why",
        "version": "",
        "report": "",
        "moved": "a\nb",
    }
    came_to_the_gate(road, "FAIL")
    (road.run_folder / "report.html").write_text("")
    facts = told(road, update, Outcome("held", 2.0, "why", version=7))
    assert (facts["version"], facts["report"]) == ("7", str(road.run_folder / "report.html"))
