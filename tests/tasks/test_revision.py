"""What a revision means: which tags a pattern or range may choose, which of them is the newest, and what is refused."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from tasks.revision import Listing, choose, kind_of, matches, mistake, order, resolve_revision
from tasks.sources import Source, refuse_unsafe
from widen.errors import EnvironmentFault, RecipeError

Git = Callable[..., str]
HERE = Path()
versions = st.lists(st.integers(0, 30), min_size=1, max_size=3).map(lambda parts: ".".join(map(str, parts)))
prefixes = st.sampled_from(["", "v", "tagger-v", "release/", "a.b-"])
anything = st.text(st.characters(codec="ascii"), max_size=12)


def listing(*tags: str) -> Listing:
    refs = {tag: f"{index:040x}" for index, tag in enumerate(tags)}
    return Listing("hub", {f"refs/tags/{tag}": commit for tag, commit in refs.items()}, "main", refs)


def newest(rev: str, *tags: str) -> str:
    return choose(listing(*tags), rev, HERE).ref


@pytest.mark.parametrize(
    ("rev", "tags", "chosen"),
    [
        ("v*", "v1 v9 v10 v2", "v10"),
        ("v*", "v1.9 v1.10 v1.10rc1", "v1.10"),
        ("v*", "v1 v2rc1", "v1"),
        ("v*", "v2a1 v2rc1 v2.dev3", "v2rc1"),
        ("v*", "v1 version-9 vision", "v1"),
        ("v*", "v-final-9 v-final-10", "v-final-10"),
        ("*", "nightly-9 v1 nightly-10", "v1"),
        ("tagger-v*", "tagger-v1 tagger-v1.1 base-v9", "tagger-v1.1"),
        ("tagger-*", "tagger-v1 tagger-v11 tagger-v2", "tagger-v11"),
        ("v1.*", "v1.9 v1.10 v2.0", "v1.10"),
        ("v1.2*", "v1.2 v1.20 v1.2.1", "v1.20"),
        ("v*-chat", "v9-chat v10-chat v11", "v10-chat"),
        ("llama3*", "llama3.1 llama3.10 llama3.9 llama2", "llama3.10"),
        ("*-v*", "a-v10 a-v9", "a-v10"),
        ("v*", "v1.0 v1", "v1.0"),
        ("v*", "v1 v1!0.1", "v1!0.1"),
        (">=1.2,<2", "v1.1 v1.2 v1.9 v2 v1.10", "v1.10"),
        (">=1.2, <2", "1.2 2", "1.2"),
        (">=1", "v1 v2rc1 v1.5", "v1.5"),
        (">=1", "v2rc1 v0.1", "v2rc1"),
        (">=2rc1", "v2rc1 v2rc2 v1", "v2rc2"),
        (">1", "nightly v2", "v2"),
        ("==1.*", "v1.1 v1.5 v2", "v1.5"),
        ("~=1.4", "v1.4 v1.9 v2.0", "v1.9"),
        ("!=1.5,>=1", "v1.4 v1.5", "v1.4"),
        ("tagger-v>=1,<2", "tagger-v1.3 tagger-v2 v1.9 tagger-1.9", "tagger-v1.3"),
    ],
)
def test_the_newest_that_matches_is_chosen(rev: str, tags: str, chosen: str) -> None:
    assert newest(rev, *tags.split()) == chosen
    assert newest(rev, *reversed(tags.split())) == chosen


@pytest.mark.parametrize(
    ("rev", "tags", "told"),
    [
        ("v*", "", "has no tag that 'v*' means; it has no tags at all"),
        ("tagger-v*", "tager-v1 base tager-v2", "of its 3 tags the nearest are tager-v2, tager-v1, base"),
        (">=3", "v1 v2", "of its 2 tags the nearest are v2, v1"),
        ("v9", "v1 v99", "has no branch, tag or commit 'v9'; the nearest that it has: v99, v1"),
    ],
)
def test_nothing_that_matches_is_a_fault_that_names_the_nearest(rev: str, tags: str, told: str) -> None:
    with pytest.raises(EnvironmentFault, match=re.escape(told)):
        newest(rev, *tags.split())


WRONG = [
    "v>=", ">=1,", ">=1,,<2", ">=x y", "===1", "~=1", "v*>=1", ">=1 <2", "=>1", "v<", "-v>=1", "v*\n", "", "-", "--all",
    "v 1", "v1\n", "v1\0", "v~1", "v^1", "a:b", "v?", "[v]", "a\\b", "-v*", "v*^", "v* ", ">=1\n", ">=1\t,<2", "$(x) *",
    "a b>=1",
]  # fmt: skip
RIGHT = [
    "main", "v1", "feature/a=b", "refs/pr/1", "refs/heads/a>=1", "v*", "*", "a/*/b", "1234abcd", ">=1.2,<2",
    "tagger-v>=1,<2", "v~=1.2", "==1.*", "!=1.5 , >=1", "<2",
]  # fmt: skip


@pytest.mark.parametrize("rev", WRONG)
def test_what_is_written_wrongly_is_refused(rev: str) -> None:
    assert mistake(rev)
    with pytest.raises(RecipeError, match=r"sources\.x\.rev: expected"):
        refuse_unsafe(Source("x", "model", "../hub", rev))


@pytest.mark.parametrize("rev", RIGHT)
def test_what_is_written_well_is_taken(rev: str) -> None:
    assert mistake(rev) is None
    refuse_unsafe(Source("x", "model", "../hub", rev))


@given(st.one_of(anything, st.from_regex(r"[v*<>=!~, 0-9.a-]{0,10}", fullmatch=True)))
def test_what_is_taken_is_no_option_and_has_no_control_character(rev: str) -> None:
    if mistake(rev) is None:
        assert not rev.startswith("-")
        assert not re.search(r"[\0-\x1f\x7f\\\[\]^?:]" if kind_of(rev) != "name" else r"[\0-\x20\x7f\\\[^?:~*]", rev)
        if kind_of(rev) in ("pattern", "range"):
            matches(rev, "v1")
            order(rev, "v1")


@given(prefixes, st.lists(versions, min_size=1, unique_by=Version))
def test_a_pattern_chooses_the_highest_version_whatever_the_order(prefix: str, held: list[str]) -> None:
    tags = [f"{prefix}{version}" for version in held]
    assert newest(f"{prefix}*", *tags) == f"{prefix}{max(held, key=Version)}"


@given(prefixes, st.lists(versions, min_size=1, unique_by=Version), versions, versions)
def test_a_range_chooses_the_highest_inside_it(prefix: str, held: list[str], low: str, high: str) -> None:
    rev, tags = f"{prefix}>={low},<{high}", [f"{prefix}{version}" for version in held]
    inside = [version for version in held if Version(low) <= Version(version) < Version(high)]
    assert [tag for tag in tags if matches(rev, tag)] == [f"{prefix}{version}" for version in inside]
    if inside:
        assert newest(rev, *tags) == f"{prefix}{max(inside, key=Version)}"


@given(st.lists(anything, min_size=2, max_size=5), st.sampled_from(["*", "v*", "v1.*", ">=0", "a-v>=1"]))
def test_every_name_has_its_place_in_the_order(names: list[str], rev: str) -> None:
    ordered = sorted(names, key=lambda name: order(rev, name))
    names.reverse()
    assert sorted(names, key=lambda name: order(rev, name)) == ordered


def test_one_question_answers_every_kind(
    plain: Path, workspace: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(plain, "tag", "--annotate", "--message", "a tag object", "v2")
    git(plain, "update-ref", "refs/pr/1", "HEAD")
    commit, asked, run = git(plain, "rev-parse", "HEAD"), [], subprocess.run

    def counted(command, **options):  # type: ignore[no-untyped-def]
        asked.append(command[1])
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    revs = {"v*": "v2", ">=1": "v2", None: "main", "main": "main", "refs/pr/1": "refs/pr/1", "pr/1": "pr/1"}
    for rev, ref in revs.items():
        found = resolve_revision("../plain", rev, workspace)
        assert (found.ref, found.commit) == (ref, commit)
    assert asked == ["ls-remote"] * len(revs)
