"""A version that was freed, or lost files, gets the same bytes back where they were, and loses the tag."""

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from registry.checkpoint import listed_files
from registry.errors import RegistryError
from registry.lineage import MANIFEST, read_manifest
from registry.store import Registry, asking
from registry.versions import FREED, MERGED, RESTORED, Version, lineage_of, resolve
from registry.weights import RECORD, put, stored

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

WHOLE = "it has all its files, there is nothing to restore"
"""Why a version is not restored."""


def lacks(registry: Registry, version: Version) -> tuple[str, ...]:
    """Files of `version`, freed or not, that are not where the registry keeps them. Raises RegistryError."""
    expected = {name for name, _ in lineage_of(registry, version).merged_files} | {MANIFEST}
    with asking(registry) as client:
        place = str(client.get_model_version_download_uri(version.name, str(version.version)))
        return tuple(sorted(expected - {file.name for file in stored(registry, place)}))


def restore(registry: Registry, reference: str, folder: Path) -> Version:
    """Put the merge in `folder`, which its caller compared with the record, back as the files of a version.

    The version was freed, or its files were lost. Killed in between, it counts as freed and the next restore replaces
    what is there. Raises RegistryError when `folder` holds other weights, or nothing is missing.
    """
    version = resolve(registry, reference).version
    if version.freed is None and not lacks(registry, version):
        raise RegistryError(f"{version.uri}: {WHOLE}")
    with registry.lock(), asking(registry) as client:
        refill(client, registry, version, folder)
    return resolve(registry, f"{version.name}/{version.version}").version


def refill(client: "MlflowClient", registry: Registry, version: Version, folder: Path) -> None:
    """`restore` for a caller that holds the registry's lock."""
    found = read_manifest(folder / MANIFEST)["digest"]
    if found != version.tag(MERGED):
        raise RegistryError(f"{version.uri}: expected the weights {version.tag(MERGED)}, found {found} in {folder}")
    number, now = str(version.version), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # A collection that is at it finds another mark than its own, and stops.
    client.set_model_version_tag(version.name, number, FREED, f"being restored since {now}")
    place = str(client.get_model_version_download_uri(version.name, number))
    held = {file.name for file in stored(registry, place)}
    names = [name for name in listed_files(folder) if str(name) not in RECORD or str(name) not in held]
    put(registry, place, folder, names)
    _require_whole(registry, version, place, folder, names)
    client.set_model_version_tag(version.name, number, RESTORED, now)
    client.delete_model_version_tag(version.name, number, FREED)


def _require_whole(registry: Registry, version: Version, place: str, folder: Path, names: list[PurePosixPath]) -> None:
    held = {file.name: file.size for file in stored(registry, place)}
    missing = [str(name) for name in names if held.get(str(name)) != (folder / name).stat().st_size]
    if missing:
        raise RegistryError(f"{version.uri}: {', '.join(missing)} did not arrive in {place}; restore it again")
