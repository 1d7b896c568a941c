"""The clauses about the champion and about being better: three answers each, and nothing passes vacuously."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from registry.decision import NO_CHAMPION, Decision, Verdict
from registry.errors import GateError
from registry.gate import Better, Champion, Clause, Parent, decide
from registry.intervals import mean_of, tango
from registry.scorecard import Document, Kind, Scorecard, TaskScores

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
ONE, TWO, LOSS = ("one", "acc", None), ("two", "acc", None), ("loss", "bits", None)


def scores(task: str, values: Sequence[float], kind: Kind = "proportion", metric: str = "acc") -> TaskScores:
    held = tuple(Document(f"{task}{i:04}", "t", float(value)) for i, value in enumerate(values))
    return TaskScores(task, metric, "none", kind, kind == "proportion", "1", "hash", held)


def model(name: str, one: int, two: int, loss: float = 1.0, n: int = 200) -> Scorecard:
    """`one` and `two` of `n` documents are right, the first ones; the loss moves on every document alike, nearly."""
    noise = np.random.default_rng(len(name)).normal(0, 0.05, n)
    columns = [np.arange(n) < one, np.arange(n) < two]
    tasks = [scores(task, column.tolist()) for task, column in zip(("one", "two"), columns, strict=True)]
    return Scorecard(name, f"digest of {name}", "harness", (*tasks, scores("loss", loss + noise, "mean", "bits")))


BASE = model("base", 40, 40, 2.0)
PARENTS = {"chat": model("chat", 150, 50, 1.8), "sailor": model("sailor", 50, 150, 1.2)}
CHAMPION = model("champion", 130, 130, 1.3)
STANDING_IN = Parent("one", "acc", "chat", keep=0.5)


def ask(*clauses: Clause, merged: Scorecard, champion: Scorecard | None = CHAMPION) -> Decision:
    return decide(clauses, merged, BASE, PARENTS, 0.05, champion)


@pytest.mark.parametrize(("right", "verdict"), [(130, PASS), (121, INCONCLUSIVE), (100, FAIL)])
def test_the_champion_is_followed_within_the_margin(right: int, verdict: Verdict) -> None:
    decision = ask(Champion("one", "acc", 0.05), merged=model("merged", right, 130))
    (result,) = decision.results
    found = tango(0, 130 - right, 200, 0.05)
    assert decision.verdict is verdict
    assert (result.lower, result.upper, result.threshold) == (found.lower, found.upper, -0.05)
    assert [(one.model, one.value) for one in result.references] == [("champion", 0.65)]
    assert decision.against == CHAMPION.digest
    assert ("champion", "champion", CHAMPION.digest, CHAMPION.digest_of_scores()) in decision.models
    assert Decision.from_json(decision.to_json()) == decision


def test_a_loss_follows_the_champion_too() -> None:
    clause = Champion("loss", "bits", 0.2)
    for loss, verdict in ((1.4, PASS), (1.5, INCONCLUSIVE), (1.6, FAIL)):
        assert ask(clause, merged=model("merged", 1, 1, loss)).verdict is verdict


def test_without_a_clause_about_it_the_champion_is_not_looked_at() -> None:
    decision = ask(STANDING_IN, merged=model("merged", 140, 10))
    assert (decision.against, decision.notes) == (None, ())
    assert "champion" not in {role for role, *_ in decision.models}
    assert decision == ask(STANDING_IN, merged=model("merged", 140, 10), champion=None)


def test_on_a_first_run_the_parents_stand_in_and_it_is_said() -> None:
    clause = Champion("one", "acc", 0.05)
    decision = ask(clause, STANDING_IN, merged=model("merged", 140, 10), champion=None)
    assert decision.verdict is PASS
    assert [result.clause for result in decision.results] == [str(STANDING_IN)]
    assert decision.against == NO_CHAMPION
    assert decision.notes == (f"{clause}: there is no champion yet; this stands in: {STANDING_IN}",)
    assert any(line.startswith("note         champion one/acc") for line in decision.lines())
    worse = ask(clause, STANDING_IN, merged=model("merged", 60, 10), champion=None)
    assert worse.verdict is FAIL
    assert Decision.from_json(worse.to_json()) == worse


@pytest.mark.parametrize(
    "other",
    [
        Parent("two", "acc", "sailor", keep=0.5),
        Parent("one", "acc", "chat", keep=0.5, filter="none"),
        Better("base", (ONE,), "mean"),
    ],
)
def test_a_first_run_that_nothing_stands_in_for_is_an_error(other: Clause) -> None:
    with pytest.raises(GateError, match="there is no champion yet, and no parents clause on the same task"):
        ask(Champion("one", "acc", 0.05), other, merged=model("merged", 140, 140), champion=None)


ALIEN = dataclasses.replace(CHAMPION, tasks=())
SHORT = model("champion", 130, 130, n=199)
NEWER = dataclasses.replace(CHAMPION, harness="newer")
SAME = dataclasses.replace(CHAMPION, digest="digest of merged")


@pytest.mark.parametrize(
    ("clause", "champion", "message"),
    [
        (Champion("one", "acc", 1.0), CHAMPION, "every model passes this; two proportions differ by less than 1"),
        (Champion("gone", "acc", 0.1), CHAMPION, "no scores for gone/acc"),
        (Champion("one", "acc", 0.1), ALIEN, "champion: no scores for one/acc"),
        (Champion("one", "acc", 0.1), SHORT, "merged has 200 documents and champion has 199"),
        (Champion("one", "acc", 0.1), NEWER, "measured differently: harness 'harness' against 'newer'"),
        (Champion("one", "acc", 0.1), SAME, "champion and merged have the same weights"),
        (Better("champion", (ONE, TWO)), SAME, "champion and merged have the same weights"),
        (Better("nobody", (ONE, TWO)), CHAMPION, "nobody is not a parent of this merge; the parents are chat, sailor"),
        (Better("base", (ONE, ("gone", "acc", None))), CHAMPION, "no scores for gone/acc"),
        (Better("base", (ONE, ("one", "acc", "none"))), CHAMPION, "two of its tasks are the same scores"),
        (Better("base", (ONE, LOSS), "mean"), CHAMPION, r"in one unit, found a share \(higher is better\), bits"),
    ],
)
def test_what_cannot_be_asked_is_an_error(clause: Clause, champion: Scorecard, message: str) -> None:
    with pytest.raises(GateError, match=message):
        ask(clause, merged=model("merged", 140, 140), champion=champion)


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_none(margin: float) -> None:
    with pytest.raises(GateError, match="champion one/acc: expected a finite margin of 0 or more"):
        Champion("one", "acc", margin)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": (ONE,)}, "expected at least two tasks, found 1; with a single task take the rule mean"),
        ({"tasks": ()}, "expected at least two tasks, found 0"),
        ({"tasks": (), "rule": "mean"}, "expected at least a task, found 0"),
        ({"tasks": (ONE, ONE)}, "a task is named twice"),
        ({"tasks": (ONE, TWO), "rule": "most"}, "expected the rule any or mean, found 'most'"),
    ],
)
def test_a_better_clause_is_checked_when_it_is_written(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(GateError, match=message):
        Better("base", **wrong)  # type: ignore[arg-type]


def test_a_parent_named_champion_is_refused_where_the_champion_is_meant() -> None:
    with pytest.raises(GateError, match="a model of this merge is itself named champion"):
        decide(
            (Champion("one", "acc", 0.1),), model("merged", 1, 1), BASE, {"champion": PARENTS["chat"]}, 0.05, CHAMPION
        )


def test_parents_of_the_same_weights_are_no_baseline() -> None:
    merged = dataclasses.replace(model("merged", 150, 50), digest=PARENTS["chat"].digest)
    with pytest.raises(GateError, match="chat and merged have the same weights"):
        ask(Parent("one", "acc", "chat", margin=0.1), merged=merged)


@pytest.mark.parametrize(
    ("one", "two", "verdict"), [(142, 128, PASS), (133, 130, INCONCLUSIVE), (133, 100, INCONCLUSIVE), (120, 118, FAIL)]
)
def test_better_on_any_is_holms(one: int, two: int, verdict: Verdict) -> None:
    decision = ask(Better("champion", (ONE, TWO)), merged=model("merged", one, two))
    (result,) = decision.results
    found = [tango(max(0, k - 130), max(0, 130 - k), 200, 0.05) for k in (one, two)]
    adjusted = multipletests([each.above_zero for each in found], method="holm")[1]
    assert decision.verdict is verdict
    assert (min(adjusted) <= 0.05) == (verdict is PASS)
    assert result.upper == max(each.upper for each in found)
    assert result.lower == tango(max(0, one - 130), max(0, 130 - one), 200, 0.025).lower
    assert (result.lower > 0) == (verdict is PASS)
    for each, q in zip(found, adjusted, strict=True):
        assert f"p {each.above_zero:.2g}, adjusted {q:.2g}" in result.text
    assert (result.task, result.question) == ("one + two", "better on any")


def test_one_task_that_is_significant_alone_is_not_among_two() -> None:
    """Three documents gained, none lost: p is 0.042, which Holm doubles."""
    merged = model("merged", 133, 130)
    assert ask(Better("champion", (ONE,), "mean"), merged=merged).verdict is PASS
    decision = ask(Better("champion", (ONE, TWO)), merged=merged)
    assert decision.verdict is INCONCLUSIVE
    assert "p 0.042, adjusted 0.083" in decision.results[0].text


@pytest.mark.parametrize(("one", "two", "verdict"), [(138, 138, PASS), (133, 128, INCONCLUSIVE), (120, 118, FAIL)])
def test_better_in_the_mean(one: int, two: int, verdict: Verdict) -> None:
    decision = ask(Better("champion", (ONE, TWO), "mean"), merged=model("merged", one, two))
    (result,) = decision.results
    whole = mean_of([tango(max(0, k - 130), max(0, 130 - k), 200, 0.05) for k in (one, two)], 0.05)
    assert decision.verdict is verdict
    assert (result.estimate, result.lower, result.upper) == (whole.estimate, whole.lower, whole.upper)
    assert result.merged == pytest.approx((one + two) / 400)
    assert (result.n, result.references[0].value) == (400, 0.65)


def test_a_mean_over_tasks_that_share_documents_is_an_error() -> None:
    def doubled(card: Scorecard) -> Scorecard:
        again = dataclasses.replace(card.get("one", "acc"), metric="acc_norm")
        return dataclasses.replace(card, tasks=(*card.tasks, again))

    clause = Better("champion", (ONE, ("one", "acc_norm", None)), "mean")
    with pytest.raises(GateError, match="one/acc and one/acc_norm share documents"):
        decide((clause,), doubled(model("merged", 150, 1)), BASE, {}, 0.05, doubled(CHAMPION))


def test_better_than_base_and_than_a_parent() -> None:
    merged = model("merged", 120, 120)
    for than, verdict in (("base", PASS), ("chat", PASS), ("sailor", PASS)):
        assert ask(Better(than, (ONE, TWO)), merged=merged).verdict is verdict
    assert ask(Better("chat", (ONE, LOSS)), merged=model("merged", 100, 100, 1.9)).verdict is FAIL
    assert ask(Better("base", (ONE, TWO)), merged=merged).against is None


def test_without_a_champion_every_parent_must_be_beaten_instead() -> None:
    clause = Better("champion", (ONE, TWO))
    decision = ask(clause, merged=model("merged", 120, 120), champion=None)
    assert [result.references[0].model for result in decision.results] == ["chat", "sailor"]
    assert (decision.verdict, decision.against) == (PASS, NO_CHAMPION)
    assert decision.notes == (f"{clause}: there is no champion yet; asked against every parent instead: chat, sailor",)
    lost = ask(clause, merged=model("merged", 40, 120), champion=None)
    assert [result.verdict for result in lost.results] == [PASS, FAIL]
    with pytest.raises(GateError, match="no champion yet and no parent to stand in"):
        decide((clause,), model("merged", 1, 1), BASE, {}, 0.05, None)


def test_a_champion_worth_no_more_than_the_margin_is_told() -> None:
    decision = ask(Champion("one", "acc", 0.5), merged=model("merged", 130, 1))
    assert any(
        "the champion gained 0.45 over the base, so the base would pass here too" in w for w in decision.warnings
    )


def test_a_decision_of_before_notes_is_read() -> None:
    decision = ask(STANDING_IN, merged=model("merged", 140, 10))
    text = decision.to_json().replace('"notes":[],', "").replace("widen-decision/2", "widen-decision/1")
    assert '"notes"' not in text
    assert Decision.from_json(text) == decision
