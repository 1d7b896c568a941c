"""`widen plan` on a recipe with a gate: what each clause can show, or plainly that the documents cannot be counted."""

import sys
from pathlib import Path

import pytest

from flows.merge import MergeOptions
from flows.plan import show_plan
from tests.flows.conftest import ROOT

CHECKPOINTS = ROOT / "examples" / "quickstart" / "checkpoints"
MERGE = f"""\
name: small
merge:
  merge_method: widen
  base_model: {CHECKPOINTS / "base"}
  models: [{{model: {CHECKPOINTS / "tagger-v1"}}}]
"""
GATED = """\
evaluate: {tasks: [app_en], include_path: evaluation}
gates:
  parents: [{task: app_en, metric: acc, owner: tagger-v1, keep: 0.5}]
  champion: [{task: app_en, metric: acc, margin: 0.03}]
"""


def plan(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    (folder / "recipe.yaml").write_text(text)
    show_plan(folder / "recipe.yaml", None, MergeOptions(folder, "cpu", None, None, None, folder / "cache"))
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(("gate", "documents", "warning"))]


@pytest.fixture(autouse=True)
def no_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HF_HOME", str(tmp_path / "hub")), ("HF_HUB_OFFLINE", "1"), ("PREFECT_HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)


def test_a_clause_a_line_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evaluation").mkdir()
    monkeypatch.setattr("tasks.evaluate.count_documents", lambda *_: {"app_en": 600})
    keep, champion, warning = plan(tmp_path, MERGE + GATED, capsys)
    assert keep.endswith("keep 0.5 of its gain: 600 documents (not known before a first run)")
    assert "champion app_en/acc: margin 0.03: 600 documents, 687 needed; they resolve a margin of 0.0321" in champion
    assert "cannot resolve a margin below 0.0321" in warning


def test_data_sets_that_are_not_here_are_not_counted_and_nothing_is_loaded_to_find_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(sys.modules)
    unknown, *clauses = plan(tmp_path, MERGE + GATED.replace(", include_path: evaluation", ""), capsys)
    assert (
        unknown == "documents   unknown: lm-eval's data sets are not on this machine, and HF_HUB_OFFLINE=0 is not set"
    )
    assert "champion app_en/acc: margin 0.03: unknown documents, 687 needed" in clauses[1]
    assert "lm_eval" not in set(sys.modules) - before


def test_a_folder_of_tasks_that_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown, *_ = plan(tmp_path, MERGE + GATED, capsys)
    assert unknown.startswith("documents   unknown: evaluate.include_path: expected a folder of tasks")


def test_a_recipe_without_a_gate_says_nothing_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, MERGE, capsys) == []
