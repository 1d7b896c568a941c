"""The rules of retention, on any registry that can be thought of: what must never go never goes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from registry.retention import Holding, Keep, Track, reasons

NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAMES, DIGESTS = ("a", "b"), tuple("0123456789")
NOTHING = Keep(0, 0, 0)


def held(version: int, name: str = "a", days: float = 90, **more: object) -> Holding:
    known = {"aliases": (), "place": f"{name}/{version}", "digest": f"{name}{version}"}
    return Holding(name, version, NOW - timedelta(days=days), **{**known, **more})  # type: ignore[arg-type]


def kept(holdings: list[Holding], tracks: dict[str, Track] | None = None, keep: Keep = NOTHING) -> dict[int, str]:
    return {version: ", ".join(why) for (_, version), why in reasons(holdings, tracks or {}, keep, NOW).items()}


@st.composite
def holding(draw: st.DrawFn, name: str, version: int) -> Holding:
    return Holding(
        name,
        version,
        NOW - timedelta(days=draw(st.integers(0, 60))),
        draw(st.sampled_from([(), (), (), ("champion",), ("pinned-by-hand",)])),
        draw(st.sampled_from([f"{name}/{version}", f"{name}/{version}", "shared"])),
        draw(st.sampled_from(DIGESTS)),
        draw(st.sampled_from([None, *DIGESTS])),
        tuple(draw(st.lists(st.sampled_from(DIGESTS), max_size=2))),
        draw(st.sampled_from([None, None, None, "not registered by widen"])),
    )


@st.composite
def registries(draw: st.DrawFn) -> tuple[list[Holding], dict[str, Track]]:
    holdings, tracks = [], {}
    for name in NAMES:
        versions = draw(st.lists(st.integers(1, 12), unique=True, max_size=8))
        holdings += [draw(holding(name, version)) for version in versions]
        champions = tuple(draw(st.lists(st.integers(1, 12), unique=True, max_size=6)))
        target = draw(st.sampled_from([None, *champions[1:]]))
        tracks[name] = Track(champions, target, draw(st.sampled_from([None, None, None, "has faults"])))
    return holdings, tracks


keeps = st.builds(Keep, st.integers(0, 5), st.integers(0, 5), st.integers(0, 60))


@given(registries(), keeps)
def test_what_must_never_go(registry: tuple[list[Holding], dict[str, Track]], keep: Keep) -> None:
    holdings, tracks = registry
    found = reasons(holdings, tracks, keep, NOW)
    assert all(found.values())
    for one in holdings:
        track = tracks[one.name]
        if one.aliases or one.unsure or track.fault or one.version in (track.target, *track.champions[:1]):
            assert one.key in found
        if one.key in found:  # whoever shares its files, and a version with the weights of each input
            assert all(two.key in found for two in holdings if two.place == one.place)
    direct = [one for one in holdings if one.key in found and not found[one.key][0].startswith("its files are")]
    for digest in {digest for one in direct for digest in one.inputs}:
        same = [one for one in holdings if one.digest == digest]
        assert not same or any(one.key in found for one in same)


@given(registries(), keeps, keeps)
def test_to_keep_more_never_keeps_less(registry: tuple[list[Holding], dict[str, Track]], one: Keep, two: Keep) -> None:
    more = Keep(max(one.champions, two.champions), max(one.candidates, two.candidates), max(one.days, two.days))
    assert set(reasons(*registry, one, NOW)) <= set(reasons(*registry, more, NOW))


def test_nothing_keeps_an_old_candidate() -> None:
    assert kept([held(1), held(2)]) == {}


def test_any_alias_keeps() -> None:
    assert kept([held(1, aliases=("blessed",)), held(2)]) == {1: "alias blessed"}


def test_the_last_champions_and_the_newest_candidates_are_counted_apart() -> None:
    track = Track((6, 4, 2, 1), 4)
    found = kept([held(number) for number in range(1, 8)], {"a": track}, Keep(3, 2, 0))
    assert found == {
        6: "the champion by the history, one of the last 3 champions",
        4: "where a rollback goes, one of the last 3 champions",
        2: "one of the last 3 champions",
        7: "one of the newest 2 candidates",
        5: "one of the newest 2 candidates",
    }


def test_a_champion_that_was_freed_or_deleted_does_not_count() -> None:
    assert set(kept([held(1), held(2), held(9)], {"a": Track((9, 5, 2, 1))}, Keep(2, 0, 0))) == {9, 2}


def test_age_counts_to_the_day() -> None:
    assert kept([held(1, days=30), held(2, days=29.9)], keep=Keep(0, 0, 30)) == {2: "younger than 30 days"}


def test_what_a_kept_version_was_judged_against_stays_and_that_ones_own_does_not() -> None:
    chain = [held(1), held(2, against="a1"), held(3, against="a2", aliases=("champion",))]
    for order in (chain, chain[::-1]):
        assert kept(order) == {3: "alias champion", 2: "a/3 was judged against it"}


def test_what_a_kept_merge_was_made_of_stays_also_in_another_model_and_further_back() -> None:
    chain = [held(1, "b"), held(2, inputs=("b1",)), held(3, inputs=("a2",), aliases=("x",))]
    assert kept(chain) == {3: "alias x", 2: "an input of a/3", 1: "an input of a/2"}


def test_of_equal_weights_the_newest_version_stands_for_all() -> None:
    same = [held(1, digest="d"), held(2, digest="d", days=80), held(3, inputs=("d",), aliases=("x",))]
    assert kept(same) == {3: "alias x", 2: "an input of a/3"}


def test_a_copy_that_shares_its_files_is_kept_with_the_other() -> None:
    copied = replace(held(1, "b", aliases=("serving",)), place="a/1")
    assert reasons([held(1), copied], {}, NOTHING, NOW)["a", 1] == ("its files are those of b/1",)


def test_a_history_with_faults_and_a_version_without_a_record_are_left_alone() -> None:
    assert kept([held(1)], {"a": Track(fault="the history of a has faults")}) == {1: "the history of a has faults"}
    assert kept([held(1, unsure="it was not registered by widen")]) == {1: "it was not registered by widen"}
