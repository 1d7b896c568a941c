"""`widen restore`: a version's weights that were freed or lost, made again from its record and put back."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flows.again import Checks, make_again
from flows.environment import prepare
from flows.registries import registry_at
from flows.verify import VerifyOptions, check_signature, compare

if TYPE_CHECKING:
    from registry.audit import Record
    from registry.store import Registry


def restore_version(reference: str, options: VerifyOptions) -> None:
    """Make the merge of a version without weights again, check it against its record, and put its files back.

    Raises NotVerified (exit code 4) when what comes out is not what was registered; nothing is put back then.
    """
    from registry.errors import RegistryError

    with tempfile.TemporaryDirectory(prefix="widen-restore-", dir=options.scratch) as name:
        scratch = Path(name)
        os.environ.setdefault("PREFECT_HOME", str(scratch / "prefect"))  # whose import makes that folder
        prepare(options.workspace.resolve())
        place = registry_at(options.registry, options.workspace.resolve())
        from registry.audit import open_record
        from registry.restoration import WHOLE, lacks, restore

        record = open_record(place, reference, scratch / "record")
        told = f"{record.version.name}/{record.version.version}"
        if record.version.freed is None and not lacks(place, record.version):
            raise RegistryError(f"{told}: {WHOLE}")
        print(f"{record.chosen}, in {place.uri}")
        restore(place, told, _made_again(record, options, scratch))
    _retell(place, record.version.name, record.version.version)
    print(f"restored: {told} has its weights again, the bytes that were registered")


def _made_again(record: "Record", options: VerifyOptions, scratch: Path) -> Path:
    """The folder with the registered files, made again. Raises NotVerified when they are not the registered ones."""
    from registry.audit import check_files, check_record
    from registry.errors import NotVerified

    checks, again = Checks(), None
    if checks.ask("record", lambda: check_record(record)):
        again = make_again(record, checks, options.from_where, options.device, scratch)
    if again is not None and compare(record, again, None, checks):
        folder = again.folder
        checks.ask("files", lambda: check_files(record.lineage, folder))
        check_signature(record, folder, checks, options.public_key)
    if checks.failed or again is None:
        failed = ", ".join(checks.failed) or "the merge"
        raise NotVerified(f"{record.version.name} version {record.version.version} is not restored: {failed} failed")
    return again.folder


def _retell(place: "Registry", name: str, version: int) -> None:
    from registry.history import read_history
    from registry.retelling import retell

    retell(place, read_history(place, name), [version])
