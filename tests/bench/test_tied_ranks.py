"""The parents that stand for merged LoRAs, and the table that says what WIDEN's ranks make of them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench.low_rank import FILE, TARGETS, cut, unchanged_columns
from bench.tied_ranks import CHECKPOINTS, HEAD, Bench, _kept

BASE, TAGGER = CHECKPOINTS / "base", CHECKPOINTS / "tagger-v1"


@pytest.mark.parametrize(("targets", "inside"), [("q, v", 12), ("linear", 42)])
def test_a_cut_change_has_its_rank_where_it_is_and_nothing_elsewhere(targets: str, inside: int, tmp_path: Path) -> None:
    parent = cut(BASE, TAGGER, 3, TARGETS[targets], torch.float32, tmp_path / "parent")
    before, after = load_file(BASE / FILE), load_file(parent / FILE)
    touched = {name for name in before if not torch.equal(before[name].float(), after[name])}
    assert len(touched) == inside
    for name in touched:
        sizes = torch.linalg.svdvals(after[name].double() - before[name].double())
        assert sizes[2] > 1e3 * sizes[3], name
    assert {path.name for path in parent.iterdir()} == {path.name for path in BASE.iterdir()}


def test_columns_are_counted_by_what_a_column_is(tmp_path: Path) -> None:
    parent = cut(BASE, TAGGER, 2, TARGETS["q, v"], torch.bfloat16, tmp_path / "parent")
    weights = load_file(BASE / FILE)
    columns = {
        name: one.shape[0 if "embed_tokens" in name or one.dim() == 1 else 1] for name, one in weights.items()
    }  # fmt: skip
    touched = sum(count for name, count in columns.items() if "q_proj" in name or "v_proj" in name)
    assert unchanged_columns(BASE, parent, TARGETS["q, v"]) == (1 - touched / sum(columns.values()), 0.0)
    assert unchanged_columns(BASE, BASE, TARGETS["q, v"]) == (1.0, 1.0)


def test_what_is_kept_is_a_share_of_the_owner_s_gain_also_of_a_loss() -> None:
    base, owner = {"app_en": 0.3, "bpb_id": 3.5}, {"app_en": 0.9, "bpb_id": 1.5}
    found = {"app_en": 0.6, "bpb_id": 2.0}
    assert [_kept(task, found, base, owner) for task in base] == pytest.approx([0.5, 0.75])
    assert _kept("app_en", found, base, base) == 0.0


@pytest.mark.slow
def test_a_row_for_every_way_to_rank(tmp_path: Path) -> None:
    rows = list(Bench(tmp_path, limit=2).rows("linear:2:bfloat16", [1.0]))
    assert [row.split("|")[4].strip() for row in rows[1:]] == ["order", "average", "changed"]
    assert len({row.count("|") for row in [*rows[1:], HEAD.split("\n")[0]]}) == 1
