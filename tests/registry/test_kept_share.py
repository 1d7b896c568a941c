"""The share of a gain that a merge keeps, against figures worked out by hand and a bootstrap of the documents."""

import math
import random

import pytest

from registry.clauses import Parent
from registry.errors import GateError
from registry.kept_share import gain_is_clear, kept_share, mean_kept, score_interval
from registry.scorecard import Document, Scorecard, TaskScores

TAGS = Parent("tag", "acc", "tagger", keep=0.5)
READS = Parent("read", "bpb", "reader", keep=0.5)


def card(model: str, tag: list[float], read: list[float], clusters: bool = False) -> Scorecard:
    def documents(name: str, scores: list[float], weight: float) -> tuple[Document, ...]:
        return tuple(
            Document(f"{name}{i:04}", "t", score, weight, f"c{i // 2}" if clusters else None)
            for i, score in enumerate(scores)
        )

    tagged = TaskScores("tag", "acc", "none", "proportion", True, "1", "h", documents("d", tag, 1.0))
    read_ = TaskScores("read", "bpb", "none", "ratio", False, "1", "h", documents("d", read, 2.0))
    return Scorecard(model, model, "harness", (tagged, read_))


BASE = card("base", [0, 0, 0, 0, 1, 0, 0, 0], [8.0] * 8)
OWNER = card("tagger", [1, 1, 1, 1, 1, 1, 1, 0], [8.0] * 8)
READER = card("reader", [0, 0, 0, 0, 1, 0, 0, 0], [4.0] * 8)
MERGED = card("merged", [1, 1, 1, 0, 1, 0, 0, 0], [5.0] * 8)


def test_shares_by_hand() -> None:
    # tag: base 1/8, owner 7/8, merged 4/8: (4 - 1) / (7 - 1); read: bits 4, 2 and 2.5 a byte: (4 - 2.5) / (4 - 2)
    tag, read = kept_share(TAGS, MERGED, BASE, OWNER), kept_share(READS, MERGED, BASE, READER)
    assert (tag.value, read.value) == (0.5, 0.75)
    assert mean_kept([tag, read]).value == 0.625
    assert math.isclose(sum(tag.terms.values()), 0.0, abs_tol=1e-15)


def test_base_and_owner_keep_none_and_all_for_certain() -> None:
    for model, share in ((BASE, 0.0), (OWNER, 1.0)):
        found = kept_share(TAGS, model, BASE, OWNER).interval(0.05)
        assert (found.estimate, found.lower, found.upper) == (share, share, share)


def test_a_document_of_two_tasks_counts_once() -> None:
    """Its errors in both add before they are squared; taken for two documents, the interval would be another."""
    shares = [kept_share(TAGS, MERGED, BASE, OWNER), kept_share(READS, MERGED, BASE, READER)]
    found = mean_kept(shares)
    assert sorted(found.terms) == [f"d{i:04}" for i in range(8)]
    assert found.interval(0.05).clusters == 8


def test_the_interval_by_hand() -> None:
    """Errors (m - s o - (1 - s) b) / gain / n with s = 1/2 and gain 3/4, each less its own mean, which is zero."""
    terms = [0.5, 0.5, 0.5, -0.5, 0.0, -0.5, -0.5, 0.0]
    expected = [term / 0.75 / 8 for term in terms]
    found = kept_share(TAGS, MERGED, BASE, OWNER)
    assert [found.terms[f"d{i:04}"] for i in range(8)] == pytest.approx(expected)
    se = math.sqrt(8 / 7 * sum(term * term for term in expected))
    assert found.interval(0.05).upper == pytest.approx(0.5 + 1.894578605061305 * se)  # t with 7 degrees of freedom


def test_clusters_are_the_units() -> None:
    cards = [card(one.model, *([d.score for d in t.documents] for t in reversed(one.tasks)), clusters=True)
             for one in (MERGED, BASE, OWNER)]  # fmt: skip
    assert sorted(kept_share(TAGS, *cards).terms) == ["c0", "c1", "c2", "c3"]


def test_the_difference_is_formed_document_by_document() -> None:
    """Two merges that err on the same documents differ for certain; from each interval by itself nobody could tell."""
    rng = random.Random(1)
    hard = [rng.random() for _ in range(400)]
    reader = card("reader", [0] * 400, [2 + 8 * h for h in hard])
    base = card("base", [0] * 400, [10 + 8 * h for h in hard])
    one = kept_share(READS, card("merged", [0] * 400, [5 + 9 * h for h in hard]), base, reader)
    two = kept_share(READS, card("merged", [0] * 400, [5.02 + 9 * h for h in hard]), base, reader)
    assert one.interval(0.05).lower < two.interval(0.05).upper
    difference = one.minus(two).interval(0.05)
    assert difference.estimate == pytest.approx(0.02 / 8)
    assert difference.lower > 0
    assert difference.upper - difference.lower < 1e-9


def test_the_level_holds_against_a_bootstrap() -> None:
    rng = random.Random(5)
    n = 300
    base_right = [float(rng.random() < 0.3) for _ in range(n)]
    owner_right = [float(rng.random() < 0.8) for _ in range(n)]
    merged_right = [o if rng.random() < 0.7 else b for o, b in zip(owner_right, base_right, strict=True)]
    zeros = [0.0] * n
    cards = [card("merged", merged_right, zeros), card("base", base_right, zeros), card("tagger", owner_right, zeros)]
    found = kept_share(TAGS, *cards).interval(0.05)
    drawn = []
    for _ in range(2000):
        picked = [rng.randrange(n) for _ in range(n)]
        m, b, o = (sum(one[i] for i in picked) for one in (merged_right, base_right, owner_right))
        drawn.append((m - b) / (o - b))
    drawn.sort()
    assert found.lower == pytest.approx(drawn[100], abs=0.02)
    assert found.upper == pytest.approx(drawn[1900], abs=0.02)


def test_an_owner_without_a_gain_is_refused() -> None:
    with pytest.raises(GateError, match=r"owner tagger.*has no gain over the base there \(0\.125 against 0\.125\)"):
        kept_share(TAGS, MERGED, BASE, card("tagger", [0, 0, 0, 0, 1, 0, 0, 0], [8.0] * 8))
    with pytest.raises(GateError, match="at least one clause"):
        mean_kept([])


def test_scores_keep_their_own_direction() -> None:
    assert score_interval(MERGED, "read", "bpb", "none", 0.05).estimate == 2.5
    assert score_interval(MERGED, "tag", "acc", "none", 0.05).estimate == 0.5
    assert gain_is_clear(TAGS, BASE, OWNER, 0.05)
    assert not gain_is_clear(TAGS, BASE, card("tagger", [1, 0, 0, 0, 1, 0, 0, 0], [8.0] * 8), 0.05)
