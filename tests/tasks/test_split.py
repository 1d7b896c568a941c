"""Which documents choose and which judge: a function of the document, never of its place or its company."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.split import Part, chosen
from widen.errors import RecipeError

SELECTION, GATE = Part("selection", 0.5, 0), Part("gate", 0.5, 0)
names = st.lists(st.text(min_size=1, max_size=8), min_size=40, max_size=80, unique=True)


@given(names, st.integers(0, 2**31), st.floats(0.3, 0.7))
def test_every_document_is_on_exactly_one_side(units: list[str], seed: int, share: float) -> None:
    sides = [Part("selection", share, seed), Part("gate", share, seed)]
    assert all(sides[0].holds(unit) != sides[1].holds(unit) for unit in units)


@given(names, st.randoms())
def test_neither_order_nor_other_documents_nor_the_task_matter(units: list[str], random: object) -> None:
    documents = [{"n": unit} for unit in units]
    held = {units[place] for place in chosen("t", documents, units, None, SELECTION)}
    shuffled = units[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    fewer = shuffled[: len(shuffled) * 3 // 4]
    again = {fewer[place] for place in chosen("another", [{"n": one} for one in fewer], fewer, None, SELECTION)}
    assert again == held & set(fewer)


@given(st.lists(st.integers(0, 30), min_size=60, max_size=120))
def test_clusters_stay_together(pages: list[int]) -> None:
    documents = [{"page": page} for page in pages]
    hashes = [str(place) for place in range(len(pages))]
    held = set(chosen("t", documents, hashes, "page", SELECTION)) if len(set(pages)) > 15 else set()
    for place, page in enumerate(pages):
        if held:
            assert (place in held) == SELECTION.holds(str(page))


def test_the_share_is_about_what_was_asked_and_the_seed_changes_it() -> None:
    units = [f"document {number}" for number in range(4000)]
    quarter = [Part("selection", 0.25, 7).holds(unit) for unit in units]
    assert 900 < sum(quarter) < 1100
    assert quarter != [Part("selection", 0.25, 8).holds(unit) for unit in units]


def test_known_sides() -> None:
    """By sha256 of `seed NUL unit` itself: a kept comparison must find the same split in every version."""
    assert [SELECTION.holds(unit) for unit in "abcdefgh"] == KNOWN


KNOWN = [True, False, True, True, True, True, False, True]


def test_a_side_with_too_few_documents_is_refused() -> None:
    units = [unit for unit in map(str, range(100)) if GATE.holds(unit)][:9]
    with pytest.raises(RecipeError, match=r"task t: .*leaves 0 of its 9 documents on the side of the selection.*seed"):
        chosen("t", [{}] * 9, units, None, SELECTION)


def test_a_document_without_its_cluster_is_named() -> None:
    with pytest.raises(RecipeError, match=r"task t: .*'page', which a document lacks"):
        chosen("t", [{"page": 1}, {"text": "x"}], ["a", "b"], "page", SELECTION)
