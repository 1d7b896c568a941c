"""The gate: each clause's three answers, and everything that must not pass vacuously."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.decision import Decision, Verdict, overall
from registry.errors import GateError
from registry.gate import Absolute, Clause, Parent, decide
from registry.intervals import tango, wilson
from registry.scorecard import Document, Kind, Scorecard, TaskScores

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def scores(
    values: Sequence[float],
    kind: Kind = "proportion",
    higher: bool = True,
    weights: Sequence[float] | None = None,
    clusters: Sequence[str] | None = None,
    task: str = "app",
) -> TaskScores:
    held = tuple(
        Document(f"d{i:05}", "t", v, weights[i] if weights else 1.0, clusters[i] if clusters else None)
        for i, v in enumerate(values)
    )
    return TaskScores(task, "m", "none", kind, higher, "1", "hash", held)


def card(model: str, *tasks: TaskScores) -> Scorecard:
    return Scorecard(model, f"digest of {model}", "harness", tasks)


def right(model: str, *counts: int) -> Scorecard:
    """0/1 scores: runs of wrong and right documents in turn, beginning with wrong."""
    return card(model, scores([float(i % 2) for i, count in enumerate(counts) for _ in range(count)]))


def ask(clause: Clause, merged: Scorecard, base: Scorecard, alpha: float = 0.05, **parents: Scorecard) -> Decision:
    return decide((clause,), merged, base, parents, alpha)


BASE = right("base", 80, 20)
OWNER = right("owner", 20, 80)
OTHER = right("other", 75, 25)


@pytest.mark.parametrize(
    ("floor", "verdict"), [(wilson(70, 100, 0.05).lower, PASS), (0.7, INCONCLUSIVE), (0.8, FAIL), (0.62, PASS)]
)
def test_absolute_takes_wilsons_bound(floor: float, verdict: Verdict) -> None:
    decision = ask(Absolute("app", "m", floor=floor), right("merged", 30, 70), BASE)
    (result,) = decision.results
    assert decision.verdict is verdict
    assert (result.estimate, result.lower, result.n) == (0.7, wilson(70, 100, 0.05).lower, 100)


def test_absolute_of_a_loss_turns_the_sign() -> None:
    random = np.random.default_rng(1)
    weights = random.integers(50, 100, 80).astype(float).tolist()
    losses = [w * float(v) for w, v in zip(weights, random.normal(1.0, 0.05, 80), strict=True)]
    merged = card("merged", scores(losses, "ratio", False, weights))
    (result,) = ask(Absolute("app", "m", ceiling=1.1), merged, BASE).results
    assert result.verdict is PASS
    assert (result.merged, result.estimate) == (pytest.approx(1.0, abs=0.03), -result.merged)
    assert ask(Absolute("app", "m", ceiling=0.9), merged, BASE).verdict is FAIL
    with pytest.raises(GateError, match="lower is better there, so give a ceiling"):
        ask(Absolute("app", "m", floor=0.5), merged, BASE)


@pytest.mark.parametrize(("margin", "verdict"), [(0.12, PASS), (0.05, INCONCLUSIVE), (0.005, FAIL)])
def test_a_margin_is_tangos_bound_against_the_owner(margin: float, verdict: Verdict) -> None:
    merged = right("merged", 24, 76)  # loses four of the owner's documents, gains none
    (result,) = ask(Parent("app", "m", "owner", margin=margin), merged, BASE, owner=OWNER).results
    found = tango(0, 4, 100, 0.05)
    assert result.verdict is verdict
    assert (result.estimate, result.lower, result.upper) == (-0.04, found.lower, found.upper)
    assert (result.threshold, result.merged) == (-margin, 0.76)
    assert [(r.model, r.value) for r in result.references] == [("owner", 0.8)]


def test_a_margin_is_met_only_when_the_bound_is_above_it() -> None:
    merged, found = right("merged", 24, 76), tango(0, 4, 100, 0.05)
    edges = ((-found.lower, INCONCLUSIVE), (-found.lower + 1e-9, PASS), (-found.upper, INCONCLUSIVE))
    for margin, verdict in (*edges, (-found.upper - 1e-9, FAIL)):
        assert ask(Parent("app", "m", "owner", margin=margin), merged, BASE, owner=OWNER).verdict is verdict


@pytest.mark.parametrize(("keep", "verdict"), [(0.4, PASS), (0.8, INCONCLUSIVE), (1.0, FAIL)])
def test_keep_is_a_share_of_the_owners_gain(keep: float, verdict: Verdict) -> None:
    merged = right("merged", 30, 70)  # keeps 50 of the 60 points that the owner gained
    (result,) = ask(Parent("app", "m", "owner", keep=keep), merged, BASE, owner=OWNER).results
    assert result.verdict is verdict
    assert result.estimate == pytest.approx(0.7 - keep * 0.8 - (1 - keep) * 0.2)
    assert result.margin == pytest.approx((1 - keep) * 0.6)


def test_keep_on_a_loss_and_superiority_over_the_rest() -> None:
    random = np.random.default_rng(2)
    weights = random.integers(50, 100, 200).astype(float)

    def losses(model: str, bits: float) -> Scorecard:
        values = weights * (bits + random.normal(0, 0.02, 200))
        return card(model, scores(values.tolist(), "ratio", False, weights.tolist()))

    base, owner, other = losses("base", 2.0), losses("owner", 1.0), losses("other", 1.9)
    clause = Parent("app", "m", "owner", keep=0.6, superior=True)
    decision = ask(clause, losses("merged", 1.2), base, owner=owner, other=other)
    assert decision.verdict is PASS
    assert [result.question for result in decision.results] == ["non-inferior", "superior"]
    assert decision.results[0].estimate == pytest.approx(0.2, abs=0.02)
    assert ask(clause, losses("merged", 1.6), base, owner=owner, other=other).verdict is FAIL
    worse = ask(clause, losses("merged", 1.2), base, owner=owner, other=losses("other", 1.1))
    assert [result.verdict for result in worse.results] == [PASS, FAIL]


def test_clusters_widen_the_interval() -> None:
    random = np.random.default_rng(3)
    owner = (random.random(200) < 0.7).astype(float)
    merged = owner.copy()
    merged[:16] = 0.0  # every loss in two passages
    clusters = [f"passage {i // 8}" for i in range(200)]
    results = []
    for names in (None, clusters):
        cards = [card(n, scores(v.tolist(), clusters=names)) for n, v in (("merged", merged), ("owner", owner))]
        base = card("base", scores([0.0] * 200, clusters=names))
        results.append(ask(Parent("app", "m", "owner", margin=0.1), cards[0], base, owner=cards[1]).results[0])
    assert results[0].estimate == results[1].estimate
    assert results[1].lower < results[0].lower
    assert results[1].clusters == 25


def test_clusters_that_all_agree_still_have_a_width() -> None:
    clusters = [f"c{i // 10}" for i in range(60)]
    merged = card("merged", scores([1.0] * 60, clusters=clusters))
    (result,) = ask(Absolute("app", "m", floor=0.9), merged, BASE).results
    assert (result.verdict, result.lower) == (INCONCLUSIVE, wilson(6, 6, 0.05).lower)


def test_clusters_that_all_differ_alike_are_one_document_each() -> None:
    clusters = [f"c{i // 10}" for i in range(60)]
    cards = [card(name, scores([value] * 60, clusters=clusters)) for name, value in (("merged", 1.0), ("base", 0.0))]
    owner = card("owner", cards[0].tasks[0])
    (result,) = ask(Parent("app", "m", "owner", margin=0.1), cards[0], cards[1], owner=owner).results
    assert (result.verdict, result.lower) == (INCONCLUSIVE, tango(0, 0, 6, 0.05).lower)


def test_documents_are_paired_by_key_whatever_their_order() -> None:
    owner = OWNER.get("app", "m")
    turned = dataclasses.replace(owner, documents=tuple(reversed(owner.documents)))
    clause = Parent("app", "m", "owner", margin=0.1)
    merged = right("merged", 24, 76)
    assert ask(clause, merged, BASE, owner=card("owner", turned)) == ask(clause, merged, BASE, owner=OWNER)


def test_documents_that_occur_twice_pair_in_order_or_are_refused() -> None:
    def twice(model: str, *values: float) -> Scorecard:
        held = tuple(Document("same", "t", v) for v in values) + (Document("z", "t", 1.0),) * 40
        return card(model, TaskScores("app", "m", "none", "proportion", True, "1", "hash", held))

    clause = Parent("app", "m", "owner", margin=0.1)
    (result,) = ask(clause, twice("merged", 1, 0), twice("base", 0, 0), owner=twice("owner", 1, 0)).results
    assert result.variance == 0
    with pytest.raises(
        GateError, match="app/m: merged has 42 documents and owner has 43; 0 only in the former, 1 only"
    ):
        ask(clause, twice("merged", 1, 0), twice("base", 0, 0), owner=twice("owner", 1, 0, 0))


def changed(field: str, value: object) -> Scorecard:
    return card("owner", dataclasses.replace(OWNER.get("app", "m"), **{field: value}))


@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (changed("version", "2"), "task version '1' against '2'"),
        (changed("task_hash", "other"), "task hash 'hash' against 'other'"),
        (
            changed("prompts_hash", "b"),
            "app/m: merged and owner .*: prompts '' against 'b'; the same task was put in other",
        ),
        (changed("kind", "mean"), "kind of metric 'proportion' against 'mean'"),
        (changed("higher_is_better", False), "higher is better True against False"),
        (changed("filter", "strict"), "owner: no scores for app/m"),
        (changed("documents", ()), "owner: zero documents were scored on app/m"),
        (changed("task", "other"), r"owner: no scores for app/m\[none\]; the scorecard holds other/m\[none\]"),
        (dataclasses.replace(OWNER, harness="newer"), "harness 'harness' against 'newer'"),
        (right("owner", 20, 79), "merged has 100 documents and owner has 99"),
        (card("owner", scores([1.0] * 100, weights=[2.0] * 100)), "a weight is a property of the document"),
    ],
)
def test_what_cannot_be_compared_is_an_error(owner: Scorecard, message: str) -> None:
    with pytest.raises(GateError, match=message):
        ask(Parent("app", "m", "owner", margin=0.5), right("merged", 24, 76), BASE, owner=owner)


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        (Absolute("app", "m", floor=0.0), "every model passes this"),
        (Absolute("gone", "m", floor=0.5), "merged: no scores for gone/m"),
        (Absolute("app", "m", ceiling=0.5), "higher is better there, so give a floor"),
        (Parent("app", "m", "owner", margin=1.0), "every model passes this"),
        (
            Parent("app", "m", "nobody", margin=0.1),
            "nobody is not a parent of this merge; the parents are lesser, owner",
        ),
        (Parent("app", "m", "lesser", keep=0.5), "lesser has no gain over the base there"),
    ],
)
def test_nothing_passes_vacuously(clause: Clause, message: str) -> None:
    lesser = right("lesser", 80, 20)
    with pytest.raises(GateError, match=message):
        ask(clause, right("merged", 24, 76), BASE, owner=OWNER, lesser=lesser)


def test_no_clause_is_an_error() -> None:
    with pytest.raises(GateError, match="a gate without a clause decides nothing"):
        decide((), OWNER, BASE, {}, 0.05)


def test_superior_needs_another_parent() -> None:
    with pytest.raises(GateError, match="there is no other parent"):
        ask(Parent("app", "m", "owner", margin=0.5, superior=True), right("merged", 24, 76), BASE, owner=OWNER)


def test_a_single_document_has_no_error_to_speak_of() -> None:
    one = [card(name, scores([1.0], "mean")) for name in ("merged", "owner", "base")]
    with pytest.raises(GateError, match="app/m of merged and owner and base: a standard error needs at least two"):
        ask(Parent("app", "m", "owner", margin=0.5), one[0], one[2], owner=one[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0.5, "margin": 0.1},
        {},
        {"keep": 0.0},
        {"keep": 1.1},
        {"margin": -0.1},
        {"margin": float("nan")},
    ],
)
def test_a_clause_is_checked_when_it_is_written(wrong: dict[str, float]) -> None:
    with pytest.raises(GateError, match="parents app/m"):
        Parent("app", "m", "owner", **wrong)  # type: ignore[arg-type]


def test_a_floor_or_a_ceiling() -> None:
    for both in ({}, {"floor": 0.1, "ceiling": 0.2}):
        with pytest.raises(GateError, match="either a floor or a ceiling"):
            Absolute("app", "m", **both)


def test_warnings_say_where_the_numbers_are_thin() -> None:
    thin = ask(Parent("app", "m", "owner", margin=0.02), right("merged", 24, 76), BASE, owner=OWNER)
    assert any("a margin of 0.02 needs about 594 to be resolved" in line for line in thin.warnings)
    loose = ask(Parent("app", "m", "owner", margin=0.7), right("merged", 24, 76), BASE, owner=OWNER)
    assert any("the base would pass here too" in line for line in loose.warnings)
    same = ask(Parent("app", "m", "owner", margin=0.1), right("merged", 20, 80), BASE, owner=OWNER)
    assert any("show the same difference" in line for line in same.warnings)
    slight = ask(Parent("app", "m", "owner", keep=0.5), right("merged", 79, 21), BASE, owner=right("owner", 79, 21))
    assert any("not clear of zero" in line for line in slight.warnings)


def test_a_decision_round_trips_and_cannot_be_talked_up() -> None:
    clauses = (Absolute("app", "m", floor=0.5), Parent("app", "m", "owner", margin=0.05))
    decision = decide(clauses, right("merged", 24, 76), BASE, {"owner": OWNER, "other": OTHER}, 0.05)
    assert decision.verdict is INCONCLUSIVE
    assert Decision.from_json(decision.to_json()) == decision
    assert Decision.from_json(decision.to_json()).digest() == decision.digest()
    assert [model[:2] for model in decision.models] == [
        ("merged", "merged"),
        ("base", "base"),
        ("parent", "other"),
        ("parent", "owner"),
    ]
    assert decision.lines()[-1] == "INCONCLUSIVE merged"
    text = decision.to_json()
    forged = text.rpartition('"verdict":"INCONCLUSIVE"')
    with pytest.raises(GateError, match="its clauses make INCONCLUSIVE, yet it says PASS"):
        Decision.from_json(forged[0] + '"verdict":"PASS"' + forged[2])
    for other in ("", "[]", "{}", '{"schema": "x"}'):
        with pytest.raises(GateError, match="decision"):
            Decision.from_json(other)


@given(st.lists(st.sampled_from(list(Verdict)), min_size=1))
def test_overall(verdicts: list[Verdict]) -> None:
    found = overall(verdicts)
    assert (found is PASS) == all(v is PASS for v in verdicts)
    assert (found is FAIL) == any(v is FAIL for v in verdicts)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(*[st.booleans()] * 3), min_size=5, max_size=60), st.floats(0.01, 0.5))
def test_a_laxer_margin_never_turns_a_pass_and_the_mirror_image_agrees(
    rows: list[tuple[bool, ...]], margin: float
) -> None:
    columns = [[float(v) for v in column] for column in zip(*rows, strict=True)]
    names = ("merged", "owner", "base")

    def answer(margin: float, kind: Kind, turned: bool) -> Decision:
        held = [
            card(n, scores([1 - v if turned else v for v in c], kind, not turned))
            for n, c in zip(names, columns, strict=True)
        ]
        return ask(Parent("app", "m", "owner", margin=margin), held[0], held[2], owner=held[1])

    strict = answer(margin, "proportion", False)
    if strict.passed:
        assert answer(margin + 0.2, "proportion", False).passed
    mirror = answer(margin, "proportion", True)
    assert mirror.verdict is strict.verdict
    assert mirror.results[0].lower == pytest.approx(strict.results[0].lower, abs=1e-8)
