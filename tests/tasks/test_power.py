"""What each clause can show before anything is scored: from the documents' number, the last run, or an assumption."""

from pathlib import Path

import pytest

from registry.gate import Absolute, Better, Champion, Clause, Parent, decide
from registry.power import Power
from registry.scorecard import Document, Kind, Scorecard, TaskScores
from tasks.power import ASSUMED, LAST_RUN, UNKNOWN, may_count, outlook, warn

ACC, BITS = Champion("app", "acc", 0.05), Champion("bpb", "bits_per_byte", 0.1)
KEEP = Parent("app", "acc", "tagger", keep=0.5)


def power(clause: Clause, last: Path = Path("none"), **documents: int) -> Power:
    (found,) = outlook((clause,), documents, last, 0.05)
    return found


def test_a_first_run_assumes_ten_percent_discordant_and_says_so() -> None:
    found = power(ACC, app=164)
    assert (found.documents, found.variance, found.source, found.needed) == (164, 0.10, ASSUMED, 248)
    assert found.warning is not None
    assert power(ACC, app=248).warning is None


@pytest.mark.parametrize("clause", [BITS, KEEP, Better("base", (("bpb", "bits_per_byte", None),), "mean")])
def test_a_first_run_knows_nothing_of_losses_and_kept_shares(clause: Clause) -> None:
    found = power(clause, app=100, bpb=100)
    assert (found.variance, found.source, found.resolvable, found.warning) == (None, UNKNOWN, None, None)


def test_documents_that_cannot_be_counted() -> None:
    assert (
        str(power(ACC))
        == "champion app/acc: margin 0.05: unknown documents, 248 needed (10% discordant documents assumed)"
    )
    assert power(Better("base", (("app", "acc", None), ("other", "acc", None))), app=100).documents is None


def test_a_floor_is_asked_of_a_model_at_it() -> None:
    found = power(Absolute("app", "acc", floor=0.8), app=100)
    assert found.variance == pytest.approx(0.16)
    assert found.margin is None
    assert power(Absolute("bpb", "bits_per_byte", ceiling=2.0), bpb=10).variance is None


def test_better_counts_its_tasks() -> None:
    tasks = (("app", "acc", None), ("other", "acc", None))
    any_of = power(Better("base", tasks), app=100, other=400)
    assert (any_of.documents, any_of.alpha) == (100, 0.025)
    mean = power(Better("base", tasks, "mean"), app=100, other=400)
    assert mean.documents == 500
    assert mean.variance == pytest.approx(500 * (0.1 / 100 + 0.1 / 400) / 4)


@pytest.fixture
def last_run(tmp_path: Path) -> Path:
    """A decision with other limits than are asked about now."""

    def card(name: str, right: int, loss: float) -> Scorecard:
        def scores(task: str, metric: str, kind: Kind, values: list[float]) -> TaskScores:
            documents = tuple(Document(f"d{i:03}", "t", value) for i, value in enumerate(values))
            return TaskScores(task, metric, "none", kind, kind == "proportion", "1", "hash", documents)

        acc = scores("app", "acc", "proportion", [float(i < right) for i in range(200)])
        bits = scores("bpb", "bits_per_byte", "mean", [loss + loss * (i % 7) / 50 for i in range(200)])
        return Scorecard(name, name, "harness", (acc, bits))

    clauses = (Champion("app", "acc", 0.3), Champion("bpb", "bits_per_byte", 0.5), KEEP)
    parents = {"tagger": card("tagger", 160, 1.5)}
    decision = decide(
        clauses, card("merged", 140, 1.0), card("base", 60, 2.0), parents, 0.05, card("champion", 150, 1.1)
    )
    (tmp_path / "gate.json").write_text(decision.to_json())
    return tmp_path / "gate.json"


def test_later_runs_know_from_the_last_one_whatever_the_margin_was(last_run: Path) -> None:
    acc, bits, keep = (power(clause, last_run) for clause in (ACC, BITS, KEEP))
    assert (acc.documents, acc.variance, acc.margin) == (200, pytest.approx(0.05 * 0.95), 0.05)
    assert bits.source == keep.source == LAST_RUN
    assert bits.warning is None
    assert bits.variance is not None
    assert bits.variance < 0.001
    assert keep.margin == pytest.approx(0.25)  # half of what the tagger gained
    assert power(Parent("app", "acc", "tagger", keep=0.9), last_run).source == UNKNOWN
    assert power(ACC, last_run, app=1000).documents == 1000  # counted now


@pytest.mark.parametrize("text", ["", "{}", "[]", "\x00"])
def test_a_last_run_that_cannot_be_read_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text(text)
    assert power(ACC, tmp_path / "gate.json").source == ASSUMED


def test_only_what_is_short_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn(outlook((ACC, Champion("app", "acc", 0.2)), {"app": 164}, Path("none"), 0.05))
    assert len(caplog.records) == 1
    assert "164 documents cannot resolve a margin below 0.0614" in caplog.text


def test_counting_needs_files_or_leave_to_fetch_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert not may_count(None)
    assert may_count("evaluation")
    (tmp_path / "datasets").mkdir()
    assert may_count(None)
    (tmp_path / "datasets").rmdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert may_count(None)
