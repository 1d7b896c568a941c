"""A sharded safetensors checkpoint: headers first, bytes on request, and a refusal for whatever is unsafe."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from widen.errors import EnvironmentFault, InputsRefused
from widen.geometry import StoredTensor
from widen.headers import TensorEntry, entry_of, header_json, prove_structure
from widen.remote.address import is_url

if TYPE_CHECKING:
    from widen.remote.cache import RemoteCache
    from widen.remote.file import RemoteFile
    from widen.remote.snapshot import RemoteFolder

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
ADAPTER_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
GENERATION_FILE = "generation_config.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = (
    "added_tokens.json", "merges.txt", "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class Rewritten:
    """The files beside the weights that a merge onto a view writes, by name, and notes about where they came from."""

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint folder. `name` is what messages and manifests call it; only headers have been read.

    made_of: the checkpoints that a *view* was made from, none for a checkpoint that lies in its folder as it is. A
    view's tensors may have other names than in their files, and lie in files elsewhere. rewritten: its companions,
    where they are not those of its folder. remote: the folder in a storage that it is; `folder` then holds what is
    small of it on this machine.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]
    shards: tuple[str, ...]
    made_of: tuple["Checkpoint", ...] = ()
    rewritten: Rewritten | None = None
    remote: "RemoteFolder | None" = None
    _maps: dict[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path | str, name: str | None = None, cache: "RemoteCache | None" = None) -> "Checkpoint":
        """Read the configuration, the index and every header. Raises InputsRefused for what cannot be trusted.

        folder: of this machine, or the URL of one in a storage, as in s3://BUCKET/FOLDER; `cache` keeps what is fetched
        of that. The folder of an adapter (PEFT's layout) opens as one: `is_adapter`. Raises EnvironmentFault for a
        storage that does not answer.
        """
        if is_url(folder):
            from widen.remote.snapshot import open_folder

            remote = open_folder(str(folder), cache)
            try:
                return cls._read(name or remote.name, remote.folder, remote)
            except InputsRefused as refusal:
                raise InputsRefused(remote.told(str(refusal))) from refusal
        folder = Path(folder)
        name = name or folder.name
        if not folder.is_dir():
            raise InputsRefused(f"{name}: checkpoint folder {folder} does not exist; check the path or fetch it first")
        return cls._read(name, folder, None)

    @classmethod
    def _read(cls, name: str, folder: Path, remote: "RemoteFolder | None") -> "Checkpoint":
        weights = folder if remote is None else remote.headers
        is_adapter = holds_adapter(folder)
        config = read_json(name, folder / ADAPTER_CONFIG_FILE) if is_adapter else read_config(name, folder)
        shards, weight_map = _find_adapter(name, weights) if is_adapter else _find_shards(name, folder, weights)
        tensors: dict[str, TensorEntry] = {}
        for shard in shards:
            file = None if remote is None else remote.files[shard]
            tensors.update(_read_header(name, weights, shard, weight_map, file))
        _check_index(name, weight_map, tensors)
        if not tensors:
            raise InputsRefused(f"{name}: {', '.join(shards)} holds no tensor; expected a model's weights")
        return cls(name, folder, config, dict(sorted(tensors.items())), shards, remote=remote)

    @property
    def place(self) -> str:
        """Where it lies, for another process that opens it: an absolute path, or a URL."""
        return str(self.folder.absolute()) if self.remote is None else self.remote.url

    def file(self, name: str) -> "Path | RemoteFile":
        """One of its files, by the name that `files` has."""
        found = None if self.remote is None else self.remote.files.get(name)
        return found or self.folder / name

    def holds(self, name: str) -> bool:
        """Whether it has a file of that name."""
        return (self.folder / name).is_file() or (self.remote is not None and name in self.remote.files)

    @cached_property
    def companions(self) -> tuple[str, ...]:
        """The configuration, tokenizer and template files that this folder has, by name, sorted."""
        if self.is_adapter:
            return (ADAPTER_CONFIG_FILE,)
        names = (CONFIG_FILE, GENERATION_FILE, CHAT_TEMPLATE_FILE, *TOKENIZER_FILES)
        return tuple(sorted(name for name in names if (self.folder / name).is_file()))

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that the merge reads, by name, sorted."""
        index = (INDEX_FILE,) if self._is_indexed else ()
        return tuple(sorted({*self.shards, *self.companions, *index}))

    @property
    def is_adapter(self) -> bool:
        """Whether these are what an adapter adds to a model (`widen.adapter`), and no model."""
        return self.shards == (ADAPTER_FILE,)

    @property
    def _is_indexed(self) -> bool:
        return self.shards not in ((SINGLE_FILE,), (ADAPTER_FILE,))

    @property
    def inputs(self) -> tuple["Checkpoint", ...]:
        """What lies on the disk as it is: this checkpoint, or those that the view was made from."""
        return self.made_of or (self,)

    def view(self, tensors: Mapping[str, TensorEntry], config: Mapping[str, Any] | None = None) -> "Checkpoint":
        """This checkpoint with other `tensors`, by name, whose entries may name files elsewhere by absolute path."""
        held = dict(sorted(tensors.items()))
        return replace(self, tensors=held, config=config or self.config, made_of=self.inputs, _maps={})

    def path_of(self, name: str) -> "Path | RemoteFile":
        """The file that a tensor lies in."""
        entry = self.tensors[name]
        return entry.remote or self.folder / entry.file

    def bytes_of(self, file: str) -> NDArray[np.uint8]:
        """A shard's bytes, mapped read-only: pages come from the page cache and are never anonymous memory."""
        if file not in self._maps:
            path = self.folder / file
            try:
                # A plain view: slicing a memmap checks for overlaps each time, which costs more than the tensor.
                self._maps[file] = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
            except (OSError, ValueError) as error:
                raise EnvironmentFault(f"{self.name}: cannot read {path}: {error}") from error
        return self._maps[file]

    def span(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one tensor, mapped; of a remote one they stay on this machine while the array lives."""
        entry = self.tensors[name]
        if entry.remote is not None:
            return entry.remote.span(entry.start, entry.stop)
        return self.bytes_of(entry.file)[entry.start : entry.stop]

    def tensor(self, name: str) -> StoredTensor:
        """The stored bits of one tensor, read-only, without a copy unless its file left them unaligned."""
        span, kind = self.span(name), self.tensors[name].kind
        if span.ctypes.data % kind.itemsize:
            span = span.copy()
            span.flags.writeable = False
        return StoredTensor(span.view(kind.bits), kind)


class Side(NamedTuple):
    """One tensor of one checkpoint: a participant in the merge of a tensor, under its own name there."""

    checkpoint: Checkpoint
    name: str

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.checkpoint.tensors[self.name].size

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.checkpoint.tensors[self.name].shape

    def tensor(self) -> StoredTensor:
        """Its stored bits."""
        return self.checkpoint.tensor(self.name)


def read_json(name: str, path: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file. Raises InputsRefused naming model and file."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputsRefused(f"{name}: cannot read {path}: {error.strerror}; fetch the checkpoint again") from error
    except (ValueError, RecursionError) as error:
        raise InputsRefused(f"{name}: {path} is not valid JSON ({error}); fetch the checkpoint again") from error
    if not isinstance(content, dict):
        raise InputsRefused(f"{name}: {path} holds a {type(content).__name__}; expected a JSON object")
    return content


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """config.json. Raises InputsRefused where it, or the tokenizer's, asks for code, and for quantised weights."""
    if not (folder / CONFIG_FILE).is_file():
        raise InputsRefused(f"{name}: {folder} has no {CONFIG_FILE}; expected a Hugging Face checkpoint folder")
    config = read_json(name, folder / CONFIG_FILE)
    for file in (CONFIG_FILE, "tokenizer_config.json"):
        content = config if file == CONFIG_FILE else read_json(name, folder / file) if (folder / file).is_file() else {}
        if content.get("auto_map"):
            raise InputsRefused(
                f"{name}: {file} has `auto_map`, which asks to run Python code that came with the checkpoint; "
                "nothing was executed. Convert the model to an architecture that transformers ships, and remove the key"
            )
    if "quantization_config" in config:
        quantised = config["quantization_config"]
        method = quantised.get("quant_method") if isinstance(quantised, dict) else "?"
        raise InputsRefused(
            f"{name}: {CONFIG_FILE} declares quantised weights ({method}); expected bfloat16, float16 or float32. "
            "Merge the unquantised checkpoint and quantise the result"
        )
    return config


def _find_shards(name: str, folder: Path, weights: Path) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """The shard files, which lie in `weights`, and the index's tensor-to-file map when there is one."""
    if (weights / SINGLE_FILE).is_file():
        return (SINGLE_FILE,), None
    if (folder / INDEX_FILE).is_file():
        weight_map = _read_index(name, folder, weights)
        return tuple(sorted(set(weight_map.values()))), weight_map
    _refuse_pickles(name, weights)
    raise InputsRefused(f"{name}: {folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; expected safetensors weights")


def holds_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter's configuration and no model's."""
    return (folder / ADAPTER_CONFIG_FILE).is_file() and not (folder / CONFIG_FILE).is_file()


def _find_adapter(name: str, weights: Path) -> tuple[tuple[str, ...], None]:
    if (weights / ADAPTER_FILE).is_file():
        return (ADAPTER_FILE,), None
    _refuse_pickles(name, weights)
    raise InputsRefused(f"{name}: {weights} has {ADAPTER_CONFIG_FILE} and no {ADAPTER_FILE}; fetch the adapter again")


def _refuse_pickles(name: str, folder: Path) -> None:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise InputsRefused(
            f"{name}: {folder} holds pickle weights ({pickles[0]}), which can run code when loaded; nothing was "
            f"executed. Make safetensors weights of them: widen convert {folder} OUT"
        )


def _read_index(name: str, folder: Path, weights: Path) -> dict[str, str]:
    weight_map = read_json(name, folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputsRefused(f"{name}: {INDEX_FILE} has no `weight_map` of tensor names to files")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or leaves_folder(file):
            raise InputsRefused(
                f"{name}: {INDEX_FILE} places tensor {tensor} in {file!r}, outside the checkpoint's folder; it was not "
                "opened. Expected a file name inside the folder"
            )
        if not (weights / file).is_file():
            raise InputsRefused(f"{name}: {INDEX_FILE} names {file} for tensor {tensor}, but {folder} has no such file")
    return weight_map


def leaves_folder(file: str) -> bool:
    """Whether a file's name in an index could mean one outside its folder."""
    path = PurePosixPath(file)
    return not file or path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file


def _read_header(
    name: str, folder: Path, shard: str, weight_map: dict[str, str] | None, remote: "RemoteFile | None"
) -> dict[str, TensorEntry]:
    """The entries of one shard that belong to the checkpoint, after the file's structure has been proved sound."""
    path = folder / shard
    header, data_start = header_json(name, path)
    entries = {}
    for tensor, fields in header.items():
        if tensor != "__metadata__":
            entries[tensor] = entry_of(name, shard, tensor, fields, data_start, remote)
    prove_structure(name, path)
    unlisted = [tensor for tensor in entries if weight_map is not None and weight_map.get(tensor) != shard]
    if unlisted:
        raise InputsRefused(f"{name}: {shard} holds tensor {unlisted[0]}, which {INDEX_FILE} does not place there")
    return entries


def _check_index(name: str, weight_map: dict[str, str] | None, tensors: dict[str, TensorEntry]) -> None:
    lost = sorted(set(weight_map or ()) - set(tensors))
    if lost and weight_map:
        found = f"places tensor {lost[0]} in {weight_map[lost[0]]}, which does not hold it"
        raise InputsRefused(f"{name}: {INDEX_FILE} {found}; fetch the checkpoint again")
