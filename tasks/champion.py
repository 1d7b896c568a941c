"""The champion to compare with: found in the registry, its checkpoint brought here. Tried again when nobody answers."""

import logging
import shutil
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.reference import Incumbent, incumbent
from registry.store import Registry
from registry.versions import download, held_folder
from tasks.register import is_unreachable
from widen import Manifest
from widen.errors import InputsRefused

log = logging.getLogger(__name__)


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 8], retry_condition_fn=is_unreachable)
def find_champion(registry: Registry, name: str, merged_digest: str) -> Incumbent | None:
    """The version that a merge with the weights `merged_digest` is compared with, if any; see `incumbent`."""
    found = incumbent(registry, name, merged_digest)
    log.info("champion: %s", "none to compare with yet" if found is None else f"comparing with {found.version.uri}")
    return found


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 8], retry_condition_fn=is_unreachable)
def fetch_champion(registry: Registry, found: Incumbent, folder: Path) -> Path:
    """The checkpoint of `found`: a local registry's own folder, else a copy in `folder`, which is made anew.

    Raises InputsRefused when it is not the model that was registered: its scores would be kept under that one's digest.
    """
    reference = f"{found.version.name}/{found.version.version}"
    checkpoint = held_folder(registry, reference)
    if checkpoint is None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        checkpoint = download(registry, reference, folder)
    wrong = _unlike(checkpoint, found.digest)
    if wrong:
        raise InputsRefused(f"{found.version.uri}: expected the model registered as {found.digest}: {wrong}")
    return checkpoint


def _unlike(folder: Path, digest: str) -> str | None:
    """How the checkpoint in `folder` differs from the merged model with that digest; None when it is that model."""
    try:
        manifest = Manifest.load(folder)
    except (OSError, ValueError) as error:
        return str(error)
    if manifest.digest != digest:
        return f"found {manifest.digest}"
    return "; ".join(manifest.damage(folder)[:3]) or None
