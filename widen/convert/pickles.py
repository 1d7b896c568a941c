"""Which files of a folder are its pickle weights, by name alone; none of them is opened here."""

from dataclasses import dataclass
from pathlib import Path

from widen.checkpoint import (
    ADAPTER_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PICKLE_SUFFIXES,
    SINGLE_FILE,
    holds_adapter,
    leaves_folder,
    read_json,
)
from widen.errors import InputsRefused

PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"
STEMS = ("pytorch_model", "adapter_model")


@dataclass(frozen=True)
class Pickles:
    """The pickle weights of a folder: `files`, and for tensors that the index places, the file that must hold them."""

    name: str
    folder: Path
    files: tuple[str, ...]
    placed: dict[str, str]
    is_adapter: bool

    @property
    def written(self) -> tuple[str, ...]:
        """What each file becomes, in the same order."""
        if len(self.files) == 1:
            return (ADAPTER_FILE if self.is_adapter else SINGLE_FILE,)
        count = len(self.files)
        return tuple(f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1))

    @property
    def index_file(self) -> str | None:
        """The index to write beside them, where there are several."""
        return INDEX_FILE if len(self.files) > 1 else None


def find_pickles(source: Path) -> Pickles:
    """Those of a checkpoint's or adapter's folder, or the one file that `source` names.

    Raises InputsRefused where there are none, or several of which it cannot be told which are meant.
    """
    folder = source.parent if source.is_file() else source
    name = folder.resolve().name
    if not folder.is_dir():
        raise InputsRefused(f"{source} does not exist; expected a folder with pickle weights, or one such file")
    is_adapter = holds_adapter(folder)
    if not is_adapter and not (folder / CONFIG_FILE).is_file():
        raise InputsRefused(f"{name}: {folder} has no {CONFIG_FILE}; expected a Hugging Face checkpoint folder")
    if source.is_file():
        _require_suffix(name, source)
        return Pickles(name, folder, (source.name,), {}, is_adapter)
    if not is_adapter and (folder / PICKLE_INDEX_FILE).is_file():
        placed = _read_index(name, folder)
        return Pickles(name, folder, tuple(sorted(set(placed.values()))), placed, False)
    return Pickles(name, folder, (_single(name, folder, is_adapter),), {}, is_adapter)


def _single(name: str, folder: Path, is_adapter: bool) -> str:
    stem = STEMS[is_adapter]
    usual = [stem + suffix for suffix in PICKLE_SUFFIXES if (folder / (stem + suffix)).is_file()]
    if usual:
        return usual[0]
    found = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if found:
        raise InputsRefused(
            f"{name}: {folder} has neither {stem}.bin nor {PICKLE_INDEX_FILE}, but {', '.join(found[:5])}; "
            f"name the one that holds the weights: widen convert {folder / found[0]} OUT"
        )
    if list(folder.glob("*.safetensors")):
        raise InputsRefused(f"{name}: {folder} has safetensors weights and no pickle; there is nothing to convert")
    raise InputsRefused(f"{name}: {folder} holds no weights; expected {stem}.bin or {PICKLE_INDEX_FILE}")


def _require_suffix(name: str, source: Path) -> None:
    if source.suffix not in PICKLE_SUFFIXES:
        raise InputsRefused(f"{name}: {source} is no pickle file; expected one that ends with {PICKLE_SUFFIXES}")


def _read_index(name: str, folder: Path) -> dict[str, str]:
    placed = read_json(name, folder / PICKLE_INDEX_FILE).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise InputsRefused(f"{name}: {PICKLE_INDEX_FILE} has no `weight_map` of tensor names to files")
    for tensor, file in placed.items():
        if not isinstance(file, str) or leaves_folder(file) or Path(file).suffix not in PICKLE_SUFFIXES:
            raise InputsRefused(
                f"{name}: {PICKLE_INDEX_FILE} places tensor {tensor} in {file!r}; it was not opened. Expected a pickle "
                "file inside the folder"
            )
        if not (folder / file).is_file():
            raise InputsRefused(f"{name}: {PICKLE_INDEX_FILE} names {file} for tensor {tensor}, but it is not there")
    return placed
