"""`widen verify`: is a registered model what its record says, and does the record lead to it again?"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.again import ABSENT, Again, Checks, Sources, make_again
from flows.environment import prepare
from flows.registries import registry_at
from widen.errors import RecipeError
from widen.progress import progress_on

if TYPE_CHECKING:
    from registry.audit import Record
    from registry.lineage import Lineage
    from registry.store import Registry


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
    def from_where(self) -> Sources:
        """Where the inputs are now. Raises RecipeError for what is not NAME=PLACE."""
        return Sources.of(self.workspace.resolve(), self.sources)


def verify_model(reference: str, options: VerifyOptions) -> None:
    """Check the version that `reference` means, from its record to a re-merge; say what was checked and what differs.

    Of a version whose weights were freed the record is checked, and the merge made again with the digests recorded.
    Raises NotVerified (exit code 4) when anything differs, after everything that could be checked was.
    """
    from registry.errors import NotVerified

    workspace, sources = options.workspace.resolve(), options.from_where
    if options.scratch is not None and not options.scratch.is_dir():
        raise RecipeError(f"--scratch {options.scratch}: expected a folder that is there; make it, or name another")
    with tempfile.TemporaryDirectory(prefix="widen-verify-", dir=options.scratch) as name:
        scratch = Path(name)
        os.environ.setdefault("PREFECT_HOME", str(scratch / "prefect"))  # whose import makes that folder
        prepare(workspace)
        place = registry_at(options.registry, workspace)
        from registry.audit import open_record

        record = open_record(place, reference, scratch / "record")
        print(f"{record.chosen}, in {place.uri}")
        checks = Checks()
        _check(record, place, checks, options, sources, scratch)
    if checks.failed:
        raise NotVerified(f"{record.version.name} version {record.version.version}: {', '.join(checks.failed)} failed")
    freed = "" if record.version.freed is None else "; it has no files to compare"
    made = "what was recorded" if options.quick else "what was recorded, and merges again to the same bytes"
    print(f"verified: {record.version.name} version {record.version.version} is {made}{freed}")


def _check(
    record: "Record", place: "Registry", checks: Checks, options: VerifyOptions, sources: Sources, scratch: Path
) -> None:
    from registry.audit import check_record

    checks.ask("record", lambda: check_record(record))
    lineage = _unless_altered(record)
    if lineage is None:
        checks.tell(ABSENT, "the rest", "cannot be checked without the lineage that was registered")
        return
    checkpoint = None
    if record.version.freed is None:
        checkpoint = _checkpoint(record, place, scratch)
        _check_files(lineage, checkpoint, checks)
        check_signature(record, checkpoint, checks, options.public_key)
    else:
        checks.tell(ABSENT, "files", f"{record.version.freed} puts them back")
    _check_history(record, place, checks)
    again = None if options.quick else make_again(record, checks, sources, options.device, scratch)
    if again is not None and compare(record, again, checkpoint, checks) and checkpoint is None:
        check_signature(record, again.folder, checks, options.public_key)


def compare(record: "Record", again: Again, checkpoint: Path | None, checks: Checks) -> bool:
    """Whether the merge made again is the registered one: its files in `checkpoint`, or its digests without.

    Without, the folder is then the registered one to the byte, its manifest too.
    """
    from registry.lineage import MANIFEST
    from tasks.remake import compare_merges, compare_recorded

    one, two = again.registered, again.made
    if checkpoint is not None:
        return checks.ask("merge", lambda: compare_merges(one, checkpoint, two, again.folder))
    shutil.copyfile(record.folder / MANIFEST, again.folder / MANIFEST)
    return checks.ask("merge", lambda: compare_recorded(one, two))


def _unless_altered(record: "Record") -> "Lineage | None":
    from registry.errors import RegistryError

    with suppress(RegistryError):
        return record.lineage
    return None


def _checkpoint(record: "Record", place: "Registry", scratch: Path) -> Path:
    """The registered checkpoint: the registry's own folder when it is on this disk, else a copy."""
    from registry.versions import download, held_folder

    reference, target = f"{record.version.name}/{record.version.version}", scratch / "model"
    folder = held_folder(place, reference)
    if folder is not None:
        return folder
    target.mkdir()
    return download(place, reference, target)


def _check_files(lineage: "Lineage", checkpoint: Path, checks: Checks) -> None:
    from registry.audit import check_files

    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    with progress_on().stage("hash files", size) as advance:
        checks.ask("files", lambda: check_files(lineage, checkpoint, advance))


def check_signature(record: "Record", checkpoint: Path, checks: Checks, public_key: Path | None) -> None:
    """Provenance statement and signature are about the files in `checkpoint`."""
    from registry.audit import check_attestation
    from registry.versions import STATEMENT

    if record.version.tag(STATEMENT) is None:
        checks.tell(ABSENT, "signature", "registered before versions were attested")
    else:
        checks.ask("signature", lambda: check_attestation(record, checkpoint, public_key))


def _check_history(record: "Record", place: "Registry", checks: Checks) -> None:
    from registry.audit import check_history
    from registry.history import read_history

    checks.ask("history", lambda: check_history(record, read_history(place, record.version.name)))
