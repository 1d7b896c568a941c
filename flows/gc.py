"""`widen gc`: what may go, what stays and why; with `--apply`, what went."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.environment import prepare
from flows.registries import registry_at
from flows.settings import settings

if TYPE_CHECKING:
    from registry.holdings import Held, Survey
    from registry.retention import Keep
    from registry.store import Registry
    from widen.trimming import Leftover


@dataclass(frozen=True)
class Asked:
    """How much to keep, as far as the command says; None leaves it to the settings."""

    champions: int | None = None
    candidates: int | None = None
    days: float | None = None

    @property
    def keep(self) -> "Keep":
        """What is kept: as the command says, else as the settings do."""
        from registry.retention import Keep

        known = settings()
        kept = Keep(known.keep_champions, known.keep_candidates, known.keep_days)
        return replace(kept, **{key: value for key, value in asdict(self).items() if value is not None})


def collect_garbage(names: Sequence[str], asked: Asked, workspace: Path, registry: str | None, apply: bool) -> None:
    """Free weights that nothing keeps, and what the workspace's caches hold for nobody; without `apply` only say so.

    Raises NotRegistered for a model that is not there. What cannot be looked at safely is left, and named.
    """
    workspace = workspace.resolve()
    prepare(workspace)
    place, keep = registry_at(registry, workspace), asked.keep
    gained = _weights(place, names, keep, apply)
    gained += _caches(place, workspace, keep.days, apply)
    if apply:
        print(f"freed {_size(gained)}")
    else:
        print(f"would free {_size(gained)}; nothing was changed: widen gc --apply does it")


def _weights(place: "Registry", names: Sequence[str], keep: "Keep", apply: bool) -> int:
    from registry.collection import collect, look, now
    from registry.errors import NotRegistered

    at = now()
    try:
        found = look(place, names, keep, at)
    except NotRegistered:
        if names or place.database is None or place.database.exists():
            raise
        print("weights: nothing has been registered yet")
        return 0
    print(f"weights in {place.uri}")
    _print_survey(found)
    if not apply:
        return found.gained
    gained = 0
    for done in collect(place, names, keep, at):
        told = f"left: {done.left}" if done.left else f"removed {_size(done.removed)}, the disk gains"
        print(f"  done    {done.name}/{done.version:<4} {told}" + ("" if done.left else f" {_size(done.gained)}"))
        gained += done.gained
        if done.removed:
            _retell(place, done.name, done.version)
    return gained


def _retell(place: "Registry", name: str, version: int) -> None:
    from registry.history import read_history
    from registry.retelling import retell

    retell(place, read_history(place, name), [version])


def _print_survey(found: "Survey") -> None:
    for one in found.kept:
        print(f"  stays   {_named(one)} {_size(one.size):>9}  {'; '.join(one.reasons)}{_begun(one)}")
    for one in found.going:
        print(f"  goes    {_named(one)} {_size(one.size):>9}  {'; '.join(_said(one))}{_begun(one)}")
    for version in found.freed:
        print(f"  freed   {version.name}/{version.version:<4} {'':>9}  {version.freed} puts them back")
    if not (found.kept or found.going or found.freed):
        print("  no version has weights")


def _named(one: "Held") -> str:
    return f"{one.name}/{one.version:<4}"


def _said(one: "Held") -> Iterable[str]:
    yield "nothing keeps it"
    if one.gained < one.size:
        shared = _size(one.size - one.gained)
        yield f"frees {_size(one.gained)}: {shared} are hard links to what merged/ or another version still holds"
    if one.note is not None:
        yield one.note


def _begun(one: "Held") -> str:
    if one.begun is None:
        return ""
    return f" ({one.begun}" + (f"; gone: {', '.join(one.missing)})" if one.missing else "; nothing is gone)")


def _caches(place: "Registry", workspace: Path, days: float, apply: bool) -> int:
    """The workspace's caches; nothing of them is touched while a run is alive."""
    from tasks.workspace import is_workspace

    if not is_workspace(workspace):
        print(f"caches: {workspace} is no workspace")
        return 0
    print(f"caches of {workspace}")
    if not apply:
        return _told(_leftovers(place, workspace, days), apply=False)
    from tasks.run_lock import holder, run_alive, run_lock

    if run_alive(workspace):
        print(f"  left    all of it: {holder(workspace) or 'a run'} is at it; ask again when it is done")
        return 0
    with run_lock(workspace, "widen gc"):
        return _told(_leftovers(place, workspace, days), apply=True)


def _leftovers(place: "Registry", workspace: Path, days: float) -> "Iterable[Leftover]":
    from tasks.dvc_cache import orphans
    from tasks.kept_scores import unreferenced
    from widen.trimming import left_by_kills, unused

    cache, at = workspace / ".widen", time.time()
    yield from left_by_kills(workspace, at)
    yield from unused(cache, days, at)
    digests = _scored(place, workspace)
    if digests is not None:
        yield from unreferenced(cache / "scorecards", digests, days, at)
    yield from orphans(workspace)
    yield from _without_recipe(workspace)


def _scored(place: "Registry", workspace: Path) -> frozenset[str] | None:
    """The digests of models whose scores may be asked for again: registered, or measured, merged or scored by a run.

    None, and told, where that cannot be known.
    """
    from registry.errors import RegistryError
    from registry.versions import known_digests

    try:
        found = set(known_digests(place))
        for path in workspace.glob("runs/*/measurements.json"):
            found |= {str(one["digest"]) for one in json.loads(path.read_bytes())["inputs"]}
        # A model with an adapter on it is no input and no merge: only its scores name it.
        for path in (*workspace.glob("merged/*/widen-manifest.json"), *workspace.glob("runs/*/scorecards/*.json")):
            found.add(str(json.loads(path.read_bytes())["digest"]))
    except (RegistryError, OSError, ValueError, KeyError, TypeError) as error:
        print(f"  left    scorecards, of which it is not known whose are still asked for: {error}")
        return None
    return frozenset(found)


def _without_recipe(workspace: Path) -> "Iterable[Leftover]":
    """What runs of recipes that are no longer in recipes/ left: told, never removed."""
    from flows.recipe import load_recipe
    from widen.errors import RecipeError
    from widen.trimming import Leftover, gained

    try:
        named = {load_recipe(path).name for path in sorted(workspace.glob("recipes/*.yaml"))}
    except RecipeError as error:
        print(
            f"  left    runs/ and merged/, of which it is not known whose they are: {str(error).partition(chr(10))[0]}"
        )
        return
    for path in sorted([*workspace.glob("runs/*"), *workspace.glob("merged/[!.]*")]):
        if path.is_dir() and path.name not in named:
            told = f"{path.relative_to(workspace)} is of no recipe in recipes/: remove it if you do not miss it"
            yield Leftover(told, gained(path))


def _told(leftovers: "Iterable[Leftover]", apply: bool) -> int:
    total = count = 0
    for one in leftovers:
        size = one.remove() if apply and one.remove is not None else one.bytes
        word = "listed" if one.remove is None else ("done" if apply else "goes")
        print(f"  {word:<7} {_size(size):>9}  {one.what}")
        total += 0 if one.remove is None else size
        count += 1
    if not count:
        print("  nothing that could go")
    return total


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError
