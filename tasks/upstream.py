"""What a hub holds now of a source: which revision it follows, and whether its content moved. No file is downloaded."""

import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Literal

from tasks.content import Missing, content_at, content_in_storage, content_of_folder, equivalent
from tasks.hubs import Unreachable, address, is_ancestor
from tasks.model_cache import local_folder
from tasks.revision import Listing, Revision, choose, kind_of, list_refs, matches, order
from tasks.sources import Source, is_url, refuse_unsafe
from widen.errors import EnvironmentFault, InputsRefused, RecipeError

State = Literal["fixed", "same", "moved", "rewritten", "retagged", "gone", "unreachable"]
PATIENCE = 60.0
"""How long one hub may take to answer, in seconds."""


@dataclass(frozen=True)
class Pin:
    """A revision of a source: the branch, tag or commit that was chosen, its commit, and its content's digest.

    `ref` and `commit` are None for a source without git. `content` is made from what the hub itself keeps of the files
    that a merge uses (DVC's md5, git-lfs oid, git's blob, an ETag), so it is equal for two commits that hold the same.
    """

    ref: str | None
    commit: str | None
    content: str


@dataclass(frozen=True)
class Upstream:
    """What `look` found. `pin` is what a merge would use now; None where nothing could be learnt and nothing was held.

    state: "fixed" (a commit or plain tag as it was: not followed), "same" (also at a later commit that holds the same;
    `pin` is then what was held), "moved" (other content, the usual update; also what is first seen), "rewritten" (a
    branch was force-pushed: what was held is no longer in its history), "retagged" (a tag names another commit; a plain
    one is reported and what was held stays, the newest of a pattern is followed), "gone" (branch, tag or path deleted,
    or no longer one thing; what was held stays, and is never exchanged for an older version), "unreachable" (what was
    held stays). Whether content moved, `pin.content` says. `note` says it in words, "" for nothing to say.
    """

    name: str
    state: State
    pin: Pin | None
    note: str


def look(source: Source, held: Pin | None, workspace: Path) -> Upstream:
    """Ask the hub of `source` what it holds now, compared with `held`, which is of the same repository and path.

    No state is an error: `RecipeError` is raised only for a source that a recipe could not name.
    """
    return look_all((source,), {} if held is None else {source.name: held}, workspace)[0]


def look_all(
    sources: Sequence[Source], held: Mapping[str, Pin], workspace: Path, patience: float = PATIENCE
) -> tuple[Upstream, ...]:
    """`look` at several sources, in their order. Every hub is asked once, all at the same time.

    A hub that has not answered after `patience` seconds is "unreachable"; what it says later is remembered, as far as
    it is about commits, and shortens the next look.
    """
    workspace = Path(workspace).resolve()
    groups: dict[str, list[Source]] = {}
    for source in sources:
        refuse_unsafe(source)
        groups.setdefault(_hub(source, workspace), []).append(source)
    answers: queue.SimpleQueue[dict[str, Upstream] | BaseException] = queue.SimpleQueue()
    for group in groups.values():
        ask = partial(_answer, group, held, workspace, patience, answers)
        threading.Thread(target=ask, name=f"look at {group[0].name}", daemon=True).start()
    found = _gathered(answers, len(groups), monotonic() + patience)
    silent = f"gave no answer within {patience:g} s"
    return tuple(found.get(one.name) or _unreachable(one, held.get(one.name), silent) for one in sources)


def _hub(source: Source, workspace: Path) -> str:
    """What answers for the source: a repository, a bucket, or this machine."""
    if source.repo is not None:
        return address(source.repo, workspace)
    return "/".join(source.path.split("/")[:3]) if is_url(source.path) else ""


def _answer(
    group: Sequence[Source],
    held: Mapping[str, Pin],
    workspace: Path,
    patience: float,
    answers: "queue.SimpleQueue[dict[str, Upstream] | BaseException]",
) -> None:
    try:
        answers.put({seen.name: seen for seen in _looked(group, held, workspace, patience)})
    except BaseException as error:  # noqa: BLE001 - a bug is raised where the answer is waited for
        answers.put(error)


def _gathered(
    answers: "queue.SimpleQueue[dict[str, Upstream] | BaseException]", expected: int, until: float
) -> dict[str, Upstream]:
    found: dict[str, Upstream] = {}
    for _ in range(expected):
        try:
            answer = answers.get(timeout=max(0.001, until - monotonic()))
        except queue.Empty:
            break
        if isinstance(answer, BaseException):
            raise answer
        found |= answer
    return found


def _looked(group: Sequence[Source], held: Mapping[str, Pin], workspace: Path, patience: float) -> list[Upstream]:
    """The sources of one hub."""
    asking = [one for one in group if not _is_settled(one)]
    listing: Listing | Unreachable | None = None
    if asking and asking[0].repo is not None:
        try:
            listing = list_refs(asking[0].repo, [one.rev for one in asking], workspace, patience)
        except Unreachable as fault:
            listing = fault
    return [_seen(one, listing if one in asking else None, held.get(one.name), workspace) for one in group]


def _is_settled(source: Source) -> bool:
    """Whether nothing that the hub could say about its refs would change the answer."""
    return source.commit is not None or (source.rev is not None and kind_of(source.rev) == "commit")


def _seen(source: Source, listing: Listing | Unreachable | None, held: Pin | None, workspace: Path) -> Upstream:
    try:
        if isinstance(listing, Unreachable):
            raise listing
        if source.repo is None:
            return _without_commits(source, held, workspace)
        if listing is None:
            return _at_commit(source, str(source.commit or source.rev).lower(), held, workspace)
        return _followed(source, listing, held, workspace)
    except Missing as fault:
        return Upstream(source.name, "gone", held, f"{fault}{_staying(held)}")
    except (EnvironmentFault, InputsRefused, OSError) as fault:  # also a commit that went, or a file being written
        return _unreachable(source, held, str(fault))


def _folder(source: Source, workspace: Path) -> Path:
    try:
        return local_folder(source, workspace).folder
    except RecipeError:
        raise Missing(f"{source.path} has no checkpoint") from None


def _without_commits(source: Source, held: Pin | None, workspace: Path) -> Upstream:
    """A local folder or a storage: what lies there now."""
    if is_url(source.path):
        content: str | None = content_in_storage(source.path, workspace)
    else:
        content = content_of_folder(_folder(source, workspace), workspace)
    if content is None:
        raise Missing(f"{source.path} has no checkpoint")
    if held is not None and content == equivalent(source.path, held.content, workspace):
        return Upstream(source.name, "same", held, "")
    told = "" if held is None else f"{source.path} has other content"
    return Upstream(source.name, "moved", Pin(None, None, content), told)


def _at_commit(source: Source, commit: str, held: Pin | None, workspace: Path) -> Upstream:
    if held is not None and held.commit == commit:
        return Upstream(source.name, "fixed", held, "")
    pin = _pin(source, Revision(source.rev or commit, commit), workspace)
    return Upstream(source.name, "fixed", pin, "")


def _followed(source: Source, listing: Listing, held: Pin | None, workspace: Path) -> Upstream:
    try:
        if held is not None and held.commit and _is_short(source.rev, listing, held.commit):
            return Upstream(source.name, "fixed", held, "")
        found = choose(listing, source.rev, workspace)
    except Unreachable:
        raise
    except (EnvironmentFault, RecipeError) as fault:  # deleted, or a name that has become ambiguous
        return Upstream(source.name, "gone", held, f"{fault}{_staying(held)}")
    if held is not None and (left := _withdrawn(source.rev, listing, held, found)):
        return Upstream(source.name, "gone", held, left)
    return _compared(source, _kind(source.rev, listing), held, _pin(source, found, workspace), workspace)


def _compared(source: Source, kind: str, held: Pin | None, now: Pin, workspace: Path) -> Upstream:
    """What became of `held`. What has the same content stays at the commit that is held, while that is upstream."""
    fixed = kind in ("tag", "commit")
    if held is None or held.commit is None:
        return Upstream(source.name, "fixed" if fixed else "moved", now, "")
    if held.commit == now.commit:
        return Upstream(source.name, "fixed" if fixed else "same", held, "")
    same = held.content == now.content
    told = f"from {held.commit[:12]} to {now.commit and now.commit[:12]}{', with the same content' if same else ''}"
    if kind != "branch" and held.ref == now.ref:
        # A plain tag is not followed: what a run of its own accord would use is what is held.
        after = held if fixed else now
        return Upstream(source.name, "retagged", after, f"tag {now.ref} of {source.repo} moved {told}")
    if kind == "branch" and held.ref == now.ref and not _follows(source, held, now, workspace):
        return Upstream(source.name, "rewritten", now, f"{now.ref} of {source.repo} was rewritten {told}")
    if fixed or same:
        return Upstream(source.name, "fixed", now, "") if fixed else Upstream(source.name, "same", held, "")
    refs = now.ref if held.ref == now.ref else f"{held.ref} to {now.ref},"
    return Upstream(source.name, "moved", now, f"{refs} {told}")


def _pin(source: Source, found: Revision, workspace: Path) -> Pin:
    assert source.repo is not None
    content = content_at(source.repo, str(PurePosixPath(source.path)), found.commit, workspace)
    return Pin(found.ref, found.commit, content)


def _kind(rev: str | None, listing: Listing) -> str:
    """What was chosen: "newest" of several tags, one "tag", a "branch" (or what moves like one), or a "commit"."""
    if kind_of(rev) in ("pattern", "range"):
        return "newest"
    if rev is None or f"refs/heads/{rev}" in listing.refs:
        return "branch"
    plain = rev.removeprefix("refs/").removeprefix("tags/")
    if plain in listing.tags:
        return "tag"
    return "branch" if {rev, f"refs/{rev}"} & set(listing.refs) else "commit"


def _is_short(rev: str | None, listing: Listing, commit: str) -> bool:
    """Whether `rev` is the beginning of the commit that is held, and nothing else."""
    return rev is not None and _kind(rev, listing) == "commit" and commit.startswith(rev.lower())


def _withdrawn(rev: str | None, listing: Listing, held: Pin, found: Revision) -> str:
    """Words for a tag that was held and is deleted, when what is left is older: nobody goes back unasked."""
    if rev is None or kind_of(rev) not in ("pattern", "range") or held.ref is None or held.ref in listing.tags:
        return ""
    if not matches(rev, held.ref) or order(rev, held.ref) <= order(rev, found.ref):
        return ""
    return f"tag {held.ref} of {listing.repo} is deleted; the newest left, {found.ref}, is older{_staying(held)}"


def _follows(source: Source, held: Pin, now: Pin, workspace: Path) -> bool:
    return is_ancestor(str(source.repo), str(held.commit), str(now.commit), workspace)


def _unreachable(source: Source, held: Pin | None, why: str) -> Upstream:
    return Upstream(source.name, "unreachable", held, f"{why}{_staying(held)}")


def _staying(held: Pin | None) -> str:
    return "" if held is None else f"; staying at {held.ref or 'what is held'}"
