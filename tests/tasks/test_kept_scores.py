"""Kept scores under the hands of several writers, and damaged ones."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from registry.scorecard import Document, Scorecard, TaskScores
from tasks.kept_scores import at_hand, keep, publish, unreferenced


def card(count: int) -> Scorecard:
    documents = tuple(Document(f"d{i}", "t", 0.5) for i in range(count))
    return Scorecard(
        "m", "digest", "harness", (TaskScores("app", "acc", "none", "mean", True, "1", "hash", documents),)
    )


def samples(count: int) -> list[dict[str, object]]:
    return [{"doc_id": i, "text": "x" * 200} for i in range(count)]


def test_writers_at_once_leave_one_whole_answer(tmp_path: Path) -> None:
    kept, failed, counts = tmp_path / "kept.jsonl", [], (3, 50, 400)
    keep(kept, card(3), samples(3))

    def write(count: int) -> None:
        try:
            for _ in range(15):
                keep(kept, card(count), samples(count))
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(count,)) for count in counts for _ in range(2)]
    for one in writers:
        one.start()
    while any(one.is_alive() for one in writers):
        published = publish("run", [kept], tmp_path / "out.json")
        lines = (tmp_path / "out.samples.jsonl").read_text().splitlines()
        assert len(lines) == len(published.tasks[0].documents)  # the scorecard's own samples
    for one in writers:
        one.join()
    assert failed == []
    assert [path.name for path in tmp_path.glob("*kept*")] == ["kept.jsonl"]


@pytest.mark.parametrize("text", ["", "{}\n", '{"schema": "widen-scorecard/1"}\n', "\x00\xff"])
def test_a_damaged_file_is_not_at_hand(tmp_path: Path, text: str) -> None:
    (tmp_path / "kept.jsonl").write_bytes(text.encode("latin1"))
    assert at_hand(tmp_path / "kept.jsonl") is None
    assert at_hand(tmp_path / "absent.jsonl") is None


def test_samples_are_plain_json(tmp_path: Path) -> None:
    import numpy as np

    row = {"acc": np.float64(0.5), "n": np.int64(2), "right": np.True_, "named": {"b", "a"}, "other": 1j}
    keep(tmp_path / "kept.jsonl", card(1), [row])
    publish("run", [tmp_path / "kept.jsonl"], tmp_path / "out.json")
    held = json.loads((tmp_path / "out.samples.jsonl").read_text())
    assert held == {"task": "app", "acc": 0.5, "n": 2, "right": True, "named": ["a", "b"], "other": "1j"}


def test_scores_of_models_that_nobody_refers_to_go_once_they_are_old(tmp_path: Path) -> None:
    for name, old in (("wanted", True), ("young", False), ("unwanted", True), ("damaged", True)):
        path = tmp_path / f"{name}.jsonl"
        keep(path, replace(card(2), digest=name), samples(2))
        if name == "damaged":
            path.write_text("{}\n")
        if old:
            os.utime(path, (0, 0))
    (found,) = unreferenced(tmp_path, {"wanted"}, 30, time.time())
    assert found.bytes == sum((tmp_path / f"{name}.jsonl").stat().st_size for name in ("unwanted", "damaged"))
    assert found.remove is not None
    assert found.remove() == found.bytes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["wanted.jsonl", "young.jsonl"]
