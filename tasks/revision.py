"""What `rev` of a source means now: a branch, tag or commit, the newest tag of a pattern, or of a range of versions.

A repository is asked once, by `git ls-remote`, without fetching its files.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tasks.hubs import Unreachable, address, history
from tasks.workspace import run_git
from widen.errors import EnvironmentFault, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

__all__ = ["Kind", "Listing", "Revision", "Unreachable", "address", "choose", "kind_of", "list_refs", "matches",
           "mistake", "order", "resolve_revision"]  # fmt: skip

Kind = Literal["commit", "name", "pattern", "range"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{4,39}")
_NAME = re.compile(r"[^-\s\0-\x1f\x7f~^:?*\[\\][^\s\0-\x1f\x7f~^:?*\[\\]*")
_OPERATOR = re.compile(r"[<>]|[=!~]=")
_CLAUSE = r"(?:<=?|>=?|==|!=|~=) *[A-Za-z0-9][A-Za-z0-9.+!_-]*(?:\.\*)?"
_RANGE = re.compile(rf"(?P<prefix>[^\s<>=!~,]*)(?P<versions>{_CLAUSE}(?: *, *{_CLAUSE})*)")
_EXPECTED = (
    "the name of a branch or tag, a commit, a pattern of tags (`v*`), or a range of versions (`>=1.2,<2`, "
    "`tagger-v>=1,<2`)"
)


@dataclass(frozen=True)
class Revision:
    """`ref`: the branch, tag or commit that was chosen, by name; `commit`: the full commit that it names."""

    ref: str
    commit: str


@dataclass(frozen=True)
class Listing:
    """The refs of a repository as it has them now, tags followed to their commits. `head`: the default branch."""

    repo: str
    refs: Mapping[str, str]
    head: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def kind_of(rev: str | None) -> Kind:
    """What is written: a full commit, a name (also a short commit), a pattern or a range."""
    if rev is None or rev.startswith("refs/"):
        return "name"
    if _COMMIT.fullmatch(rev.lower()):
        return "commit"
    if _OPERATOR.search(rev):
        return "range"
    return "pattern" if "*" in rev else "name"


def mistake(rev: str) -> str | None:
    """What is wrong with `rev` as it is written, as the words after "expected"; None for nothing."""
    kind = kind_of(rev)
    if kind == "range":
        return None if _range(rev) is not None else f"{_EXPECTED}; this range names no versions"
    sound = _NAME.fullmatch(rev.replace("*", "x") if kind == "pattern" else rev)
    return None if sound else _EXPECTED


def resolve_revision(repo: str, rev: str | None, workspace: "Path") -> Revision:
    """What `rev` (None: the default branch) means in `repo` now; an annotated tag is followed to its commit.

    One `git ls-remote`; only a short commit needs more, the repository's history without its files. A full commit is
    its own answer. Raises `RecipeError` for a name that is both a branch and a tag, `Unreachable` for a repository that
    does not answer, and `EnvironmentFault` for one that holds nothing of that name or pattern.
    """
    if rev is not None and kind_of(rev) == "commit":
        return Revision(rev, rev.lower())
    return choose(list_refs(repo, (rev,), workspace), rev, workspace)


def list_refs(repo: str, revs: Iterable[str | None], workspace: "Path", patience: float = 60.0) -> Listing:
    """The branches and tags of `repo`, and what else `revs` name; raises `Unreachable` after `patience` seconds."""
    asked = {f"refs/{rev.removeprefix('refs/')}" for rev in revs if rev is not None and kind_of(rev) == "name"}
    wanted = ["HEAD", "refs/heads/*", "refs/tags/*", *sorted(asked)]
    try:
        lines = run_git(
            workspace, "ls-remote", "--symref", "--", address(repo, workspace), *wanted, timeout=patience
        ).splitlines()
    except EnvironmentFault as fault:
        told = ", ".join(sorted(rev or "HEAD" for rev in revs))
        raise Unreachable(f"cannot read repository {repo} for revision {told}: {fault}") from None
    pairs = [line.split("\t") for line in lines]
    heads = [commit.removeprefix("ref: refs/heads/") for commit, name in pairs if commit.startswith("ref: refs/heads/")]
    commits = {name: commit for commit, name in pairs if not commit.startswith("ref: ")}
    refs = {name: commits.get(f"{name}^{{}}", commit) for name, commit in commits.items() if not name.endswith("^{}")}
    tags = {name.removeprefix("refs/tags/"): commit for name, commit in refs.items() if name.startswith("refs/tags/")}
    return Listing(repo, refs, heads[0] if heads else None, tags)


def choose(listing: Listing, rev: str | None, workspace: "Path") -> Revision:
    """What `rev` means among the refs of `listing`; raises as `resolve_revision`."""
    if rev is None:
        return Revision(listing.head or "HEAD", _named(listing, "HEAD", workspace))
    if kind_of(rev) in ("pattern", "range"):
        return _newest(listing, rev)
    return Revision(rev, _named(listing, rev, workspace))


def matches(rev: str, tag: str) -> bool:
    """Whether `tag` is one that the pattern or range `rev` may choose."""
    if kind_of(rev) == "pattern":
        return re.fullmatch(".*".join(map(re.escape, rev.split("*"))), tag, re.DOTALL) is not None
    version, held = _version(rev, tag), _range(rev)
    return version is not None and held is not None and held[1].contains(version, prereleases=True)


def order(rev: str, tag: str) -> tuple[object, ...]:
    """By this key the newest tag of a pattern or range comes last: by version, then by name as people count.

    A name that is no version comes below those that are, and a pre-release below releases, unless the range asks for
    pre-releases.
    """
    version, held = _version(rev, tag), _range(rev) if kind_of(rev) == "range" else None
    if version is None:
        return 0, _natural(tag), tag
    asked = held is not None and bool(held[1].prereleases)
    return 1 if version.is_prerelease and not asked else 2, version, _natural(tag), tag


def _newest(listing: Listing, rev: str) -> Revision:
    found = [tag for tag in listing.tags if matches(rev, tag)]
    if not found:
        raise EnvironmentFault(f"repository {listing.repo} has no tag that {rev!r} means; {_tags(listing.tags, rev)}")
    newest = max(found, key=lambda tag: order(rev, tag))
    return Revision(newest, listing.tags[newest])


def _tags(tags: Iterable[str], rev: str) -> str:
    known = sorted(tags, key=_natural)
    if not known:
        return "it has no tags at all"
    near = difflib.get_close_matches(rev, known, n=3, cutoff=0.0)
    return f"of its {len(known)} tags the nearest are {', '.join(near)}"


def _named(listing: Listing, rev: str, workspace: "Path") -> str:
    names = [rev, f"refs/{rev}", f"refs/tags/{rev}", f"refs/heads/{rev}"]
    found = {name: listing.refs[name] for name in names if name in listing.refs}
    if len(set(found.values())) > 1:
        raise RecipeError(f"revision {rev!r} of {listing.repo} is ambiguous; write one of {', '.join(found)}")
    if found:
        return next(iter(found.values()))
    commit = _expanded(listing.repo, rev.lower(), workspace) if _SHORT_COMMIT.fullmatch(rev.lower()) else None
    if commit is None:
        raise EnvironmentFault(
            f"repository {listing.repo} has no branch, tag or commit {rev!r}; {_nearest(listing, rev)}"
        )
    return commit


def _nearest(listing: Listing, rev: str) -> str:
    known = sorted({name.removeprefix("refs/heads/").removeprefix("refs/tags/") for name in listing.refs} - {"HEAD"})
    near = difflib.get_close_matches(rev, known, n=3, cutoff=0.0)
    return f"the nearest that it has: {', '.join(near)}" if near else "it is empty"


def _expanded(repo: str, short: str, workspace: "Path") -> str | None:
    with history(repo, workspace) as clone, suppress(EnvironmentFault):  # unknown or ambiguous; the caller says so
        return run_git(clone, "rev-parse", "--verify", "--quiet", f"{short}^{{commit}}")
    return None


def _range(rev: str) -> "tuple[str, SpecifierSet] | None":
    """A range's prefix and versions; None where it is none."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    found = _RANGE.fullmatch(rev)
    if found is None or (found["prefix"] and not _NAME.fullmatch(found["prefix"])):
        return None
    try:
        return found["prefix"], SpecifierSet(found["versions"])
    except InvalidSpecifier:
        return None


def _version(rev: str, tag: str) -> "Version | None":
    """The version that `tag` states: what follows a range's prefix, or what a pattern leaves open.

    A pattern's own beginning of a version belongs to it: `tagger-v1.*` reads tagger-v1.10 as 1.10.
    """
    from packaging.version import InvalidVersion, Version

    for text in _version_texts(rev, tag):
        with suppress(InvalidVersion):
            return Version(text)
    return None


def _version_texts(rev: str, tag: str) -> Sequence[str]:
    if kind_of(rev) == "range":
        held = _range(rev)
        prefix = held[0] if held else ""
        return (tag[len(prefix) :],) if tag.startswith(prefix) else ()
    first, *_, last = rev.split("*")
    rest = tag[len(re.sub(r"v?[0-9.]*$", "", first)) :]
    return (rest, rest.removesuffix(last)) if last else (rest,)


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """v9 before v10: digits count as numbers."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name))
