"""The three tasks around the registry: files in, files and values out; and what is tried again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.decision import Decision
from registry.errors import GateError, PromotionRefused, RegistryError, RegistryUnreachable
from registry.gate import Absolute
from registry.promotion import Promotion
from registry.registration import Evidence, Registered
from registry.scorecard import Document, Scorecard, TaskScores
from registry.store import Registry
from registry.versions import read_lineage
from tasks.gate import gate
from tasks.promote import promote
from tasks.register import is_unreachable, register

Make = Callable[..., Evidence]


def write(folder: Path, model: str, digest: str, right: int) -> Path:
    documents = tuple(Document(f"d{i:03}", "t", i < right) for i in range(100))
    scores = TaskScores("app_en", "acc", "none", "proportion", True, "1", "hash", documents)
    path = folder / f"{model}.json"
    path.write_text(Scorecard(model, digest, "harness", (scores,)).to_json())
    return path


@pytest.fixture
def cards(tmp_path: Path, evidence: Make) -> tuple[Evidence, dict[str, Path]]:
    made = evidence()
    digest = made.lineage.merged_digest
    return made, {
        "merged": write(tmp_path, "merged", digest, 80),
        "base": write(tmp_path, "base", "b" * 64, 40),
    }


def test_gate_register_promote(local: Registry, cards: tuple[Evidence, dict[str, Path]], tmp_path: Path) -> None:
    made, scorecards = cards
    clauses = (Absolute("app_en", "acc", floor=0.5),)
    out = gate.fn(clauses, scorecards, "base", (), "merged", 0.05, tmp_path / "runs" / "gate.json")
    assert Decision.from_json(out.read_text()).passed
    assert [p.name for p in out.parent.iterdir()] == ["gate.json"]
    recipe, validation = tmp_path / "recipe.yaml", tmp_path / "validation.json"
    recipe.write_text("name: quickstart\n")
    validation.write_text("{}")
    sources = tuple(entry.source for entry in made.lineage.inputs)
    done = register.fn(
        local, "quickstart", made.folder, out, scorecards, sources, recipe, "merged", validation, None, "run-7"
    )
    assert done == Registered("quickstart", 1, "models:/quickstart/1", False)
    lineage = read_lineage(local, "quickstart").lineage
    assert (lineage.flow_run, lineage.recipe_text) == ("run-7", "name: quickstart\n")
    assert promote.fn(local, "quickstart", 1, out, "Ada") == Promotion(True, None, 1)
    with pytest.raises(RegistryError, match=r"absent\.json: not found"):
        register.fn(local, "quickstart", made.folder, tmp_path / "absent.json", scorecards, sources, recipe, "merged")
    with pytest.raises(RegistryError, match="nobody: no scorecard among base, merged"):
        register.fn(local, "quickstart", made.folder, out, scorecards, sources, recipe, "nobody")


def test_the_gate_writes_a_failure_and_promotion_refuses_it(
    local: Registry, cards: tuple[Evidence, dict[str, Path]], tmp_path: Path
) -> None:
    clauses = (Absolute("app_en", "acc", floor=0.95),)
    made, scorecards = cards
    out, recipe = tmp_path / "gate.json", tmp_path / "recipe.yaml"
    recipe.write_text("name: quickstart\n")
    gate.fn(clauses, scorecards, "base", (), "merged", 0.05, out)
    sources = tuple(entry.source for entry in made.lineage.inputs)
    register.fn(local, "quickstart", made.folder, out, scorecards, sources, recipe, "merged")
    with pytest.raises(PromotionRefused, match="the gate says FAIL"):
        promote.fn(local, "quickstart", 1, out, "Ada")
    with pytest.raises(GateError, match="cannot read the gate's decision"):
        promote.fn(local, "quickstart", 1, tmp_path / "absent.json", "Ada")


def test_the_gate_writes_nothing_when_it_cannot_ask(cards: tuple[Evidence, dict[str, Path]], tmp_path: Path) -> None:
    out = tmp_path / "gate.json"
    with pytest.raises(GateError, match="without a clause"):
        gate.fn((), cards[1], "base", (), "merged", 0.05, out)
    with pytest.raises(GateError, match="tagger: no scorecard; found base, merged"):
        gate.fn((), cards[1], "base", ("tagger",), "merged", 0.05, out)
    swapped = {"merged": cards[1]["base"], "base": cards[1]["merged"]}
    with pytest.raises(GateError, match="expected the scorecard of merged, found that of base"):
        gate.fn((), swapped, "base", (), "merged", 0.05, out)
    with pytest.raises(GateError, match="cannot read its scorecard"):
        gate.fn((), {**cards[1], "merged": tmp_path / "absent"}, "base", (), "merged", 0.05, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("error", "again"),
    [(RegistryUnreachable("x"), True), (RegistryError("x"), False), (PromotionRefused("x"), False), (None, False)],
)
def test_only_an_unreachable_registry_is_asked_again(error: Exception | None, again: bool) -> None:
    class State:
        def result(self, raise_on_failure: bool) -> Any:
            assert not raise_on_failure
            return error

    assert is_unreachable(None, None, State()) is again
    for task in (register, promote):
        assert (task.retries, task.retry_condition_fn) == (2, is_unreachable)
