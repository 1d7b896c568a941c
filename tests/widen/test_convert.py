"""Pickle weights: converted as they are where they are plain, refused in one line where not, and never executed."""

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.build import LLAMA, llama_weights
from widen.checkpoint import Checkpoint
from widen.convert import RECORD_FILE, convert
from widen.convert.convert import require_placed
from widen.convert.isolated import Reader, reader
from widen.convert.pickles import find_pickles
from widen.digests import hash_file
from widen.errors import InputsRefused, OutputExists

QUERY = "model.layers.0.self_attn.q_proj.weight"


def folder_of(place: Path, **changes: object) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(LLAMA | changes))
    (place / "tokenizer.json").write_text("{}")
    return place


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """One process for all hostile files: none of them may end it."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with reader("m1", tmp_path_factory.mktemp("reader")) as process:
        patch.undo()
        yield process


def test_a_shard_at_a_time_with_every_type_kept(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source")
    weights = llama_weights()
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    weights["lm_head.weight"] = weights["lm_head.weight"].half()
    weights[QUERY] = weights[QUERY].t().contiguous().t()  # as a transposed view
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.gate_proj.weight"]
    names = sorted(weights, key=lambda name: (".1." in name, name))
    files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    parts = dict(zip(files, (names[:9], names[9:]), strict=True))
    for file, part in parts.items():
        torch.save({name: weights[name] for name in part}, source / file)
    placed = {name: file for file, part in parts.items() for name in part}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    made = convert(source, tmp_path / "out")
    held = {}
    for file in sorted((tmp_path / "out").glob("*.safetensors")):
        held |= load_file(file)
    assert {name: tensor.dtype for name, tensor in held.items()} == {n: t.dtype for n, t in weights.items()}
    assert all(torch.equal(held[name], weights[name]) for name in names)
    assert made.copied == {"model.layers.1.mlp.up_proj.weight": "model.layers.1.mlp.gate_proj.weight"}
    assert set(Checkpoint.open(tmp_path / "out").tensors) == set(names)
    record = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    assert {file: one["sha256"] for file, one in record["sources"].items()} == {
        file: hash_file(source / file).sha256 for file in files
    }
    assert all(hash_file(tmp_path / "out" / file) == digest for file, digest in made.files.items())
    assert record["torch"] == torch.__version__
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    with pytest.raises(OutputExists, match="exists"):
        convert(source, tmp_path / "out")


def test_tensors_in_any_order_fit_their_file(tmp_path: Path) -> None:
    """The header's length goes by the order, through the digits of offsets; both processes must mean the same one."""
    source = folder_of(tmp_path / "source")
    weights = llama_weights()
    names = sorted(weights, key=lambda name: (name == "lm_head.weight", name != "model.embed_tokens.weight", name))
    torch.save({name: weights[name] for name in names}, source / "pytorch_model.bin")
    convert(source, tmp_path / "out")
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(held[name], one) for name, one in weights.items())


@pytest.mark.parametrize("first", ["lm_head.weight", "model.embed_tokens.weight"])
def test_memory_that_the_model_shares_is_written_once(first: str, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", tie_word_embeddings=True)
    weights = llama_weights()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights = {first: weights[first]} | weights
    torch.save({"epoch": 3, "state_dict": weights}, source / "epoch.ckpt", _use_new_zipfile_serialization=False)
    made = convert(source / "epoch.ckpt", tmp_path / "out")
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert (made.tied, made.copied) == ({"lm_head.weight": "model.embed_tokens.weight"}, {})
    assert set(weights) - set(held) == {"lm_head.weight"}
    assert all(torch.equal(held[name], weights[name]) for name in held)


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_a_file_that_would_run_code_runs_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source")
    torch.save(llama_weights() | {"x": Bomb(tmp_path / "executed")}, source / "pytorch_model.bin")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputsRefused, match=r"source: pytorch_model\.bin asks to run posix\.mkdir .* nothing was"):
        convert(source, tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    torch.load(source / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "executed").is_dir()  # the payload is a real one


def test_the_merge_names_the_command(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source")
    torch.save(llama_weights(), source / "pytorch_model.bin")
    with pytest.raises(InputsRefused, match=r"pytorch_model\.bin.*widen convert"):
        Checkpoint.open(source)


def saved(content: object, zipped: bool = True) -> bytes:
    data = io.BytesIO()
    torch.save(content, data, _use_new_zipfile_serialization=zipped)
    return data.getvalue()


def rezipped(data: bytes, compression: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as held, zipfile.ZipFile(out, "w", compression) as made:
        for member in held.namelist():
            made.writestr(member, held.read(member))
    return out.getvalue()


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as made:
        made.addfile(tarfile.TarInfo("sys_info"))
    return out.getvalue()


def claiming(data: bytes) -> bytes:
    """The same zip with a first member that says it has 3 GB."""
    place = data.index(b"PK\x01\x02")
    return data[: place + 20] + struct.pack("<II", 3 << 30, 3 << 30) + data[place + 28 :]


PLAIN = {"x": torch.arange(1000.0)}
HOSTILE = {
    "code": (lambda place: saved({"x": Bomb(place)}), "asks to run posix.mkdir"),
    "code in a stream": (lambda place: saved({"x": Bomb(place)}, False), "asks to run posix.mkdir"),
    "code in a bare pickle": (lambda place: pickle.dumps(Bomb(place)), "truncated or no weights file|asks to run"),
    "empty": (lambda _: b"", "truncated or no weights"),
    "half": (lambda _: saved(PLAIN)[:2000], "truncated or damaged"),
    "half a stream": (lambda _: saved(PLAIN, False)[:3000], "truncated or no weights"),
    "compressed": (lambda _: rezipped(saved(PLAIN), zipfile.ZIP_DEFLATED), "has compressed members"),
    "claiming": (lambda _: claiming(saved(PLAIN)), "claims to hold more bytes"),
    "claiming in a stream": (
        lambda _: saved(PLAIN, False).replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f"), "truncated or no weights"
    ),
    "tar": (lambda _: tar(), "tar layout"),
    "text": (lambda _: b"not a pickle at all", "truncated or no weights"),
    "expanded": (lambda _: saved({"x": torch.zeros(1).expand(1 << 40)}), r"repeats memory in tensor x"),
    "whole numbers": (lambda _: saved({"x": torch.arange(3)}), r"stores tensor x as torch\.int64"),
    "sparse": (lambda _: saved({"x": torch.eye(3).to_sparse()}), "holds x as a torch.sparse"),
    "a list": (lambda _: saved([torch.zeros(3)]), "holds a list"),
    "no tensors": (lambda _: saved({}), "holds a dict"),
    "nested": (lambda _: saved({"x": {"y": torch.zeros(3)}}), "holds a dict as x"),
    "a number as name": (lambda _: saved({3: torch.zeros(3)}), "names a tensor '3'"),
    "a path as name": (lambda _: saved({"../x": torch.zeros(3)}), r"names a tensor '\.\./x'"),
    "a line as name": (lambda _: saved({"a\nb": torch.zeros(3)}), "printable"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_costs_one_line(what: str, child: Reader, tmp_path: Path) -> None:
    make, expected = HOSTILE[what]
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(make(tmp_path / "executed"))
    with pytest.raises(InputsRefused, match=expected) as caught:
        child.tensors(path)
    assert str(caught.value).startswith("m1: pytorch_model.bin ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]


def test_the_process_holds_no_secret_of_ours_and_writes_nothing_while_it_lists(child: Reader, tmp_path: Path) -> None:
    process = Path("/proc") / str(child._process.pid)
    assert b"hunter2" not in (process / "environ").read_bytes()
    (tmp_path / "x.bin").write_bytes(saved(PLAIN))
    assert child.tensors(tmp_path / "x.bin") == [{"name": "x", "dtype": "F32", "shape": (1000,), "same": None}]
    limits = {line[:26].strip(): line[26:].split()[0] for line in (process / "limits").read_text().splitlines()}
    assert int(limits["Max file size"]) <= 1 << 16
    assert int(limits["Max address space"]) < 1 << 40


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 5000), value=st.integers(0, 255), keep=st.integers(0, 6000), zipped=st.booleans())
def test_no_damage_is_more_than_a_refusal(
    position: int, value: int, keep: int, zipped: bool, child: Reader, tmp_path: Path
) -> None:
    data = bytearray(saved(PLAIN | {"y": torch.ones(3, 2).t()}, zipped))
    data[position % len(data)] = value
    (tmp_path / "x.bin").write_bytes(bytes(data[:keep] if keep < 3000 else data))
    try:
        for one in child.tensors(tmp_path / "x.bin"):
            assert set(one) == {"name", "dtype", "shape", "same"}
    except InputsRefused as error:
        assert "ended the process" not in str(error), error


@pytest.mark.parametrize(
    ("placed", "expected"),
    [
        ({"x": "../a.bin"}, "was not opened"),
        ({"x": "c.bin"}, "is not there"),
        ({"x": "config.json"}, "was not opened"),
        ({"x": "a.bin", "z": "b.bin"}, "both hold tensor x"),
        ({"x": "a.bin", "z": "a.bin"}, "places tensor z in a.bin, which does not hold it"),
    ],
    ids=str,
)
def test_an_index_that_leaves_its_folder_or_lies(placed: dict[str, str], expected: str, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source")
    (source / "a.bin").touch()
    (source / "b.bin").touch()
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    listings = {"a.bin": [{"name": "x"}], "b.bin": [{"name": "x" if placed.get("z") == "b.bin" else "y"}]}
    with pytest.raises(InputsRefused, match=expected):
        require_placed(find_pickles(source), listings)


def test_what_is_to_be_converted_must_be_clear(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source")
    for path, expected in ((tmp_path / "nowhere", "does not exist"), (source, "holds no weights")):
        with pytest.raises(InputsRefused, match=expected):
            convert(path, tmp_path / "out")
    (source / "consolidated.00.pth").touch()
    with pytest.raises(InputsRefused, match=r"widen convert .*consolidated\.00\.pth"):
        convert(source, tmp_path / "out")
    (source / "config.json").write_text(json.dumps(LLAMA | {"auto_map": {"AutoConfig": "evil.Config"}}))
    (source / "pytorch_model.bin").touch()
    with pytest.raises(InputsRefused, match="auto_map"):
        convert(source, tmp_path / "out")
