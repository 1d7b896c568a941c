"""`widen verify`: is a registered model what its record says, and does the record lead to it again?"""

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flows.environment import prepare
from flows.recipe import Recipe, load_recipe
from flows.road import settings_of
from widen.errors import RecipeError, WidenError
from widen.progress import progress_on

if TYPE_CHECKING:
    from registry.audit import Record
    from registry.lineage import Lineage
    from registry.store import Registry
    from widen import Manifest

HOLDS, FAILS, ABSENT = "ok", "FAILED", "absent"


@dataclass(frozen=True)
class VerifyOptions:
    """Where things are, and how far to go. sources: NAME=PLACE for inputs that have moved since."""

    workspace: Path
    registry: str | None
    quick: bool
    device: str
    scratch: Path | None
    sources: tuple[str, ...]
    public_key: Path | None

    @property
    def places(self) -> dict[str, str]:
        """By input, where its repository or folder is now. Raises RecipeError for what is not NAME=PLACE."""
        pairs = [one.partition("=") for one in self.sources]
        wrong = [name for name, sign, place in pairs if not (name and sign and place)]
        if wrong:
            raise RecipeError(f"--source {wrong[0]}: expected NAME=PLACE, a repository's address or a folder")
        return {name: place for name, _, place in pairs}


@dataclass
class _Checks:
    """What was asked, printed as it is answered; failures are remembered and do not end the others."""

    failed: list[str] = field(default_factory=list)

    def ask(self, name: str, question: Callable[[], str]) -> bool:
        """Whether it holds. Errors that are no answer (no server, no disk) are raised."""
        from registry.errors import RegistryError, RegistryUnreachable

        try:
            self.tell(HOLDS, name, question())
        except RegistryUnreachable:
            raise
        except RegistryError as answer:
            self.failed.append(name)
            self.tell(FAILS, name, str(answer))
            return False
        return True

    def tell(self, state: str, name: str, text: str) -> None:
        print(f"  {state:<7} {name:<10} {text}", flush=True)


def verify_model(reference: str, options: VerifyOptions) -> None:
    """Check the version that `reference` means, from its record to a re-merge; say what was checked and what differs.

    Raises NotVerified (exit code 4) when anything differs, after everything that could be checked was.
    """
    from registry.errors import NotVerified
    from registry.store import Registry

    workspace, places = options.workspace.resolve(), options.places
    place = Registry.at(options.registry, workspace)
    if options.scratch is not None and not options.scratch.is_dir():
        raise RecipeError(f"--scratch {options.scratch}: expected a folder that is there; make it, or name another")
    with tempfile.TemporaryDirectory(prefix="widen-verify-", dir=options.scratch) as name:
        scratch = Path(name)
        os.environ.setdefault("PREFECT_HOME", str(scratch / "prefect"))  # whose import makes that folder
        prepare(workspace)
        from registry.audit import open_record

        record = open_record(place, reference, scratch / "record")
        print(f"{record.chosen}, in {place.uri}")
        checks = _Checks()
        _check(record, place, checks, options, places, scratch)
    if checks.failed:
        raise NotVerified(f"{record.version.name} version {record.version.version}: {', '.join(checks.failed)} failed")
    made = "what was recorded" if options.quick else "what was recorded, and merges again to the same bytes"
    print(f"verified: {record.version.name} version {record.version.version} is {made}")


def _check(
    record: "Record",
    place: "Registry",
    checks: _Checks,
    options: VerifyOptions,
    places: Mapping[str, str],
    scratch: Path,
) -> None:
    from registry.audit import check_record

    checks.ask("record", lambda: check_record(record))
    lineage = _unless_altered(record)
    if lineage is None:
        checks.tell(ABSENT, "the rest", "cannot be checked without the lineage that was registered")
        return
    checkpoint = _checkpoint(record, place, scratch)
    _check_files(lineage, checkpoint, checks)
    _check_trail(record, place, checkpoint, checks, options.public_key)
    if not options.quick:
        _check_merge(record, lineage, checkpoint, checks, options, places, scratch)


def _unless_altered(record: "Record") -> "Lineage | None":
    from registry.errors import RegistryError

    with suppress(RegistryError):
        return record.lineage
    return None


def _checkpoint(record: "Record", place: "Registry", scratch: Path) -> Path:
    """The registered checkpoint: the registry's own folder when local, else a copy."""
    from registry.versions import download

    target = None
    if place.database is None:
        target = scratch / "model"
        target.mkdir()
    return download(place, f"{record.version.name}/{record.version.version}", target)


def _check_files(lineage: "Lineage", checkpoint: Path, checks: _Checks) -> None:
    from registry.audit import check_files

    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    with progress_on().stage("hash files", size) as advance:
        checks.ask("files", lambda: check_files(lineage, checkpoint, advance))


def _check_trail(
    record: "Record", place: "Registry", checkpoint: Path, checks: _Checks, public_key: Path | None
) -> None:
    from registry.audit import check_attestation, check_history
    from registry.history import read_history
    from registry.versions import STATEMENT

    if record.version.tag(STATEMENT) is None:
        checks.tell(ABSENT, "signature", "registered before versions were attested")
    else:
        checks.ask("signature", lambda: check_attestation(record, checkpoint, public_key))
    checks.ask("history", lambda: check_history(record, read_history(place, record.version.name)))


def _check_merge(
    record: "Record",
    lineage: "Lineage",
    checkpoint: Path,
    checks: _Checks,
    options: VerifyOptions,
    places: Mapping[str, str],
    scratch: Path,
) -> None:
    from tasks.remake import compare_merges, merge_again
    from widen import Manifest

    try:
        manifest = Manifest.load(record.folder)
    except (OSError, ValueError) as error:
        checks.tell(ABSENT, "merge", f"not made again: {error}")
        return
    recipes: list[Recipe] = []
    sound = checks.ask("recipe", lambda: _check_recipe(lineage, manifest, scratch, recipes))
    folders = _check_inputs(lineage, manifest, checks, options.workspace.resolve(), places, scratch)
    if not sound or folders is None:
        checks.tell(ABSENT, "merge", "not made again: that would be another merge than the one registered")
        return
    allowed = recipes[0].validate.allow_config if recipes[0].validate else ()
    out = scratch / "merged"
    again = merge_again(manifest, folders, allowed, options.device, out)
    checks.ask("merge", lambda: compare_merges(manifest, checkpoint, again, out))


def _check_recipe(lineage: "Lineage", manifest: "Manifest", scratch: Path, read: list[Recipe]) -> str:
    """The recorded recipe asks for the recorded merge; puts the recipe into `read`."""
    from registry.errors import NotVerified

    path = scratch / "recipe.yaml"
    path.write_text(lineage.recipe_text, encoding="utf-8")
    try:
        recipe = load_recipe(path)
    except WidenError as error:
        raise NotVerified(f"the recorded recipe cannot be read: {error}") from error
    asked, settings = settings_of(recipe), manifest.settings
    facts = {
        "digest": (lineage.recipe_digest, recipe.merge_digest),
        "inputs": ([entry.name for entry in lineage.inputs], list(recipe.inputs)),
        "input digests": ([e.digest for e in lineage.inputs], [e.digest for e in manifest.inputs]),
        "parameters": (dict(lineage.parameters), dict(settings)),
        "settings": ((settings["method"], settings["t"], settings["s"]), (asked.method, asked.t, asked.s)),
    }
    for what, (expected, found) in facts.items():
        if expected != found:
            raise NotVerified(f"{what}: expected {expected}, found {found}")
    read.append(recipe)
    return f"asks for this merge: {asked.method}, t {asked.t}, s {asked.s}"


def _check_inputs(
    lineage: "Lineage",
    manifest: "Manifest",
    checks: _Checks,
    workspace: Path,
    places: Mapping[str, str],
    scratch: Path,
) -> dict[str, Path] | None:
    """The inputs' folders by name, or None when one of them cannot be had as it was."""
    from registry.errors import NotVerified
    from tasks.remake import check_input, fetch_recorded
    from tasks.workspace import create_workspace

    unknown = sorted(set(places) - {entry.name for entry in lineage.inputs})
    if unknown:
        names = ", ".join(entry.name for entry in lineage.inputs)
        raise RecipeError(f"--source {unknown[0]}: no such input; the merge has {names}")
    fetched_into, folders = create_workspace(scratch / "workspace", {}), {}
    merged = {entry.name: entry for entry in manifest.inputs}

    def ask() -> str:
        told = []
        for entry in lineage.inputs:
            try:
                folder = fetch_recorded(entry, places.get(entry.name), workspace, fetched_into)
            except WidenError as error:
                raise NotVerified(f"input {entry.name} cannot be fetched: {error}") from error
            told.append(check_input(entry, merged.get(entry.name), folder))
            folders[entry.name] = folder
        return "at the recorded commits and places: " + ", ".join(told)

    return folders if checks.ask("inputs", ask) else None
