"""Make a registered merge again: its inputs at the commits it was made from, and the same merge of them."""

from collections.abc import Mapping
from pathlib import Path

from registry.errors import NotVerified
from registry.lineage import Input
from tasks.fetch import Source, fetch
from tasks.model_cache import local_folder
from tasks.revision import address
from tasks.sources import is_url, refuse_unsafe
from widen import Checkpoint, Manifest, Resources, Settings
from widen import merge as merge_checkpoints
from widen.contents import Contents
from widen.difference import changed_tensors, first_changed_input, first_difference
from widen.digests import hash_file
from widen.errors import EnvironmentFault, RecipeError, WidenError
from widen.manifest import Input as MergedInput
from widen.progress import progress_on
from widen.version import ENGINE


def fetch_recorded(entry: Input, place: str | None, workspace: Path, scratch: Path) -> Path:
    """The folder of an input, at the commit that was recorded, fetched into the workspace `scratch`.

    place: where its repository or folder is now, if it has moved; relative ones are meant from `workspace`. Raises
    EnvironmentFault and RecipeError as a fetch does.
    """
    source = entry.source
    if source.repo is None and is_url(place or source.path):
        # A storage keeps no versions: what lies there now is compared with what was recorded.
        return fetch(Source(entry.name, place or source.path), scratch).folder
    if source.repo is None and source.commit is not None and place is None:
        return _cached(Source(entry.name, source.path, None, source.rev, source.commit), workspace)
    if source.repo is None:
        folder = (workspace / (place or source.path)).resolve()
        if not folder.is_dir():
            raise EnvironmentFault(
                f"input {entry.name} was the local folder {source.path}, which is not in {workspace}; "
                f"say where it is: --source {entry.name}=FOLDER"
            )
        return folder
    repo = address(place or source.repo, workspace)
    return fetch(Source(entry.name, source.path, repo, source.commit or source.rev), scratch).folder


def _cached(source: Source, workspace: Path) -> Path:
    refuse_unsafe(source)  # a record may say anything, and a commit becomes part of a path
    try:
        return local_folder(source, workspace).folder
    except RecipeError as error:
        raise EnvironmentFault(f"{error}; or say where it is: --source {source.name}=FOLDER") from error


def check_input(entry: Input, merged: MergedInput | None, folder: Path) -> str:
    """Every file of an input is the one that was merged. Raises NotVerified naming file and first tensor.

    merged: what the merge's manifest says of the input, which knows its tensors.
    """
    for name, expected in entry.files:
        path = folder / name
        found = hash_file(path).sha256 if path.is_file() else "no file"
        if found != expected:
            told = f"input {entry.name}: {name}: expected SHA-256 {expected}, found {found}"
            kept = f"; {entry.source.path} keeps no versions" if is_url(entry.source.path) else ""
            raise NotVerified(told + kept + _changed_tensor(merged, folder))
    return f"{entry.name} {len(entry.files)} files"


def _changed_tensor(merged: MergedInput | None, folder: Path) -> str:
    if merged is None or not merged.tensors:
        return ""
    try:
        held = Contents().all_of(Checkpoint.open(folder, merged.name))
    except WidenError as error:
        return f"; {error}"
    name = first_changed_input(merged.tensors, held)
    return f"; first tensor that differs: {name}" if name else "; no tensor differs"


def merge_again(
    manifest: Manifest, folders: Mapping[str, Path], allow_config: tuple[str, ...], device: str, out: Path
) -> Manifest:
    """The merge that `manifest` records, of the checkpoints in `folders` by name, from nothing, into `out`.

    Raises NotVerified for a manifest of another engine's arithmetic, whose bytes this one does not promise.
    """
    if manifest.engine["arithmetic"] != ENGINE["arithmetic"]:
        raise NotVerified(
            f"merged by {' '.join(manifest.engine.values())}, this is {' '.join(ENGINE.values())}; "
            "verify with a version of that arithmetic"
        )
    base, *models = (Checkpoint.open(folders[entry.name], entry.name) for entry in manifest.inputs)
    return merge_checkpoints(
        base, models, out, Settings(**manifest.settings), recipe=manifest.recipe, allow_config=allow_config,
        file_digests=True, resources=Resources(device), progress=progress_on(),
    )  # fmt: skip


def compare_merges(registered: Manifest, checkpoint: Path, again: Manifest, out: Path) -> str:
    """The merge made again, in `out`, is the registered one, in `checkpoint`. Raises NotVerified naming the difference.

    Its manifest is compared first, then its bytes: a damaged file is told by tensor and element.
    """
    if changed := changed_tensors(registered, again.tensors):
        first = first_difference(out, checkpoint, progress_on()) or "the registered bytes are those of the re-merge"
        raise NotVerified(
            f"{len(changed)} of {len(registered.tensors)} tensors have another digest in the manifest, first "
            f"{changed[0]}; against the re-merge: {first}"
        )
    if told := first_difference(out, checkpoint, progress_on()):
        raise NotVerified(f"the registered checkpoint is not its own merge: {told}")
    _require_same_files(registered, again)
    return f"{len(registered.tensors)} tensors merged again, the same SHA-256 each"


def compare_recorded(registered: Manifest, again: Manifest) -> str:
    """As `compare_merges` where the registered files are gone: with their digests alone."""
    if changed := changed_tensors(registered, again.tensors):
        raise NotVerified(
            f"{len(changed)} of {len(registered.tensors)} tensors have another digest than recorded, first {changed[0]}"
        )
    _require_same_files(registered, again)
    return f"{len(registered.tensors)} tensors merged again, each with the SHA-256 that was recorded"


def _require_same_files(registered: Manifest, again: Manifest) -> None:
    others = {name: one for name, one in registered.files.items() if one != again.files.get(name)}
    if others or set(registered.files) != set(again.files):
        names = sorted({*others, *(set(registered.files) ^ set(again.files))})
        raise NotVerified(f"tensors are equal, other bytes of these files are not: {', '.join(names)}")
