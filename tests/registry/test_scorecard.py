"""Scorecards: values, canonical text, and what is refused at construction."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import GateError
from registry.scorecard import Document, Kind, Scorecard, TaskScores

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
documents = st.lists(
    st.builds(Document, st.text("ab", max_size=2), st.just("t"), finite, st.floats(0.5, 100)), min_size=1, max_size=8
)


def scores(documents: list[Document], kind: Kind = "mean", task: str = "app", filter_name: str = "none") -> TaskScores:
    return TaskScores(task, "acc", filter_name, kind, True, "1", "hash", tuple(documents))


@given(documents)
def test_text_round_trips_and_is_canonical(held: list[Document]) -> None:
    card = Scorecard("m", "d", "h", (scores(held), scores(held, "ratio", "bpb")))
    again = Scorecard.from_json(card.to_json())
    assert again == card
    assert again.to_json() == card.to_json()
    assert again.digest_of_scores() == card.digest_of_scores()


def test_the_order_of_tasks_and_distinct_documents_does_not_matter() -> None:
    one, two = Document("a", "t", 0.5), Document("b", "t", 0.25)
    first = Scorecard("m", "d", "h", (scores([one, two]), scores([one], task="b")))
    second = Scorecard("m", "d", "h", (scores([one], task="b"), scores([two, one])))
    assert first.to_json() == second.to_json()


def test_values() -> None:
    held = [Document("a", "t", 1, 10.0), Document("b", "t", 0, 30.0)]
    assert scores(held, "proportion").value == 0.5
    assert scores(held, "ratio").value == 1 / 40
    with pytest.raises(GateError, match="zero documents"):
        _ = scores([]).value
    with pytest.raises(GateError, match="weights sum to zero"):
        _ = scores([Document("a", "t", 1.0, 0.0)], "ratio").value


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(GateError, match="document a: expected a finite score"):
        Document("a", "t", bad)
    with pytest.raises(GateError, match="finite weight"):
        Document("a", "t", 1.0, bad)


def test_a_stored_score_that_is_not_finite_is_an_error() -> None:
    text = Scorecard("m", "d", "h", (scores([Document("a", "t", 0.5)]),)).to_json()
    assert "0.5,1.0" in text
    with pytest.raises(GateError, match="finite score"):
        Scorecard.from_json(text.replace("0.5,1.0", "NaN,1.0"))


def test_an_earlier_schema_pins_no_prompts_and_is_not_read() -> None:
    text = Scorecard("m", "d", "h", (scores([Document("a", "t", 0.5)]),)).to_json()
    with pytest.raises(GateError, match=r"found 'widen-scorecard/1'; evaluate that model again"):
        Scorecard.from_json(text.replace("widen-scorecard/2", "widen-scorecard/1"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other/1"}', '{"schema": "widen-scorecard/1"}'])
def test_other_text_is_not_a_scorecard(text: str) -> None:
    with pytest.raises(GateError, match="scorecard"):
        Scorecard.from_json(text)


def test_refuses_contradictions() -> None:
    with pytest.raises(GateError, match=r"a proportion's score is 0 or 1, found 0.5"):
        scores([Document("a", "t", 0.5)], "proportion")
    with pytest.raises(GateError, match="expected a kind among"):
        scores([], "median")  # type: ignore[arg-type]
    with pytest.raises(GateError, match=r"some documents name a cluster"):
        scores([Document("a", "t", 1, 1, "c"), Document("b", "t", 1)])
    with pytest.raises(GateError, match="holds app/acc twice"):
        Scorecard("m", "d", "h", (scores([]), scores([])))


def test_get_names_what_it_holds() -> None:
    card = Scorecard("m", "d", "h", (scores([], filter_name="strict"), scores([], filter_name="loose")))
    assert card.get("app", "acc", "loose").filter == "loose"
    with pytest.raises(GateError, match="several filters"):
        card.get("app", "acc")
    with pytest.raises(GateError, match=r"m: no scores for app/f1; the scorecard holds app/acc\[loose\]"):
        card.get("app", "f1")
