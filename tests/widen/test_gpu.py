"""The CUDA backend against the same operations written out in NumPy, bit for bit.

Without a GPU the kernels run in Triton's interpreter, which executes their operations in NumPy; orders, tiles, buffers
and lanes are the real ones. What the compiler makes of them is read from the machine code that it emits for Hopper.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import widen
from tests import reference
from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from widen.combination import Combination, Elected, Kept, Mark, Weighted
from widen.dtypes import BF16, F16, F32, StorageType
from widen.errors import EnvironmentFault
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.kernels import CHUNK_ROWS
from widen.kernels.lanes import SMALLEST_UNIT, UNITS_A_LANE, lane_count, unit_size

triton = pytest.importorskip("triton", reason="the CUDA backend needs the package triton")
torch = pytest.importorskip("torch")

from widen.kernels import gpu, triton_kernels  # noqa: E402 - after the check for triton
from widen.kernels.cpu import CpuBackend  # noqa: E402
from widen.kernels.gpu import CudaBackend, CudaResident, tiles  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
TYPES = (BF16, F16, F32)
PAIRS = [(base, model) for base in TYPES for model in TYPES]
SHAPES = [(1, 1), (1, 7), (7, 1), (129, 3), (40, 257), (3, 385), (260, 4), (2, 3, 9), (1, 2, 130, 5), (11,), ()]
AMPLE = 1 << 30
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def interpreted_kernels() -> ModuleType:
    """A copy of the kernels for Triton's interpreter; the compiled ones of this process stay as they are."""
    spec = importlib.util.spec_from_file_location("interpreted_kernels", triton_kernels.__file__)
    copy = importlib.util.module_from_spec(spec)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.interpret = True
        spec.loader.exec_module(copy)
    # Each call of an inner function would patch Triton's language anew, for milliseconds: call what it wraps instead.
    for name in ("_decode", "_encode", "_add", "_apart", "_store"):
        setattr(copy, name, getattr(copy, name).rewrite())
    # The interpreter knows these two by identity, and reduces in NumPy instead of element by element.
    copy._plus, copy._larger = triton.language.standard._sum_combine, triton.language.standard._elementwise_max
    return copy


@pytest.fixture(scope="session")
def kernels() -> ModuleType:
    return interpreted_kernels()


@pytest.fixture
def backend(kernels: ModuleType) -> Iterator[CudaBackend]:
    with closing(CudaBackend.interpreted(kernels, lanes=1, memory=1 << 20, device_memory=AMPLE)) as opened:
        yield opened


def random_tensors(shape: tuple[int, ...], kinds: Sequence[StorageType], seed: int = 0) -> list[StoredTensor]:
    """A base and models near it. The sizes differ so much that products of float32 deltas do not fit in float64."""
    generator = np.random.default_rng(seed)
    spread = [0 if kind is F16 else 20 for kind in kinds]
    base = generator.standard_normal(shape) * np.exp2(generator.integers(-spread[0], spread[0] + 1, shape))
    tensors = [reference.encode(base, kinds[0])]
    for kind, reach in zip(kinds[1:], spread[1:], strict=True):
        change = generator.standard_normal(shape) * np.exp2(generator.integers(-reach, reach + 1, shape))
        tensors.append(reference.encode(base + change * (generator.random(shape) < 0.7), kind))
    return tensors


def assert_measures(backend: CudaBackend, tensors: Sequence[StoredTensor], geometry: Geometry) -> ColumnSums:
    """Every model's sums and counts are those of the reference; returns the last."""
    with backend.resident(tensors[0], tensors[1:], geometry) as resident:
        measured = [resident.measure(number) for number in range(len(tensors) - 1)]
    base = reference.matrices(tensors[0], geometry)
    for sums, tensor in zip(measured, tensors[1:], strict=True):
        model = reference.matrices(tensor, geometry)
        pairs = [(b.T, m.T) if geometry.transposed else (b, m) for b, m in zip(base, model, strict=True)]
        expected = [reference.sums_in_order(*pair) for pair in pairs]
        for number, found in enumerate((sums.base, sums.product, sums.delta)):
            assert found.shape == (geometry.batch, geometry.columns)
            wanted = np.array([one[number] for one in expected]).reshape(found.shape)
            number_bits = ~np.isnan(wanted)
            assert np.array_equal(np.isnan(found), ~number_bits)
            assert found[number_bits].tobytes() == wanted[number_bits].tobytes()
        with np.errstate(all="ignore"):
            delta = model - base
        sizes = np.abs(delta[~np.isnan(delta)])
        counts = np.count_nonzero(delta != 0), np.count_nonzero(model == 0), sizes.max(initial=0.0)
        assert (sums.changed, sums.zeros, sums.largest_change) == counts
    return measured[-1]


def combined(
    backend: CudaBackend, tensors: Sequence[StoredTensor], weights: np.ndarray, geometry: Geometry, kind: StorageType
) -> np.ndarray:
    with backend.resident(tensors[0], tensors[1:], geometry) as resident:
        blocks = [block.copy() for block in resident.combine(Weighted(weights), kind)]
    assert all(block.dtype == kind.bits for block in blocks)
    return np.concatenate([block.reshape(-1) for block in blocks]) if blocks else np.zeros(0, kind.bits)


def assert_combines(
    backend: CudaBackend, tensors: Sequence[StoredTensor], geometry: Geometry, kind: StorageType, seed: int = 3
) -> None:
    weights = np.random.default_rng(seed).random((len(tensors) - 1, geometry.batch, geometry.columns))
    expected = reference.merged(tensors[0], tensors[1:], weights, geometry, kind)
    assert combined(backend, tensors, weights, geometry, kind).tobytes() == expected.tobytes()


# What methods beside WIDEN ask


@pytest.mark.parametrize("transposed", [False, True])
def test_one_model_against_another_has_the_bits_of_the_cpu(backend: CudaBackend, transposed: bool) -> None:
    base, *models = random_tensors((130, 9), (BF16, BF16, F32))
    geometry = Geometry.of((130, 9), transposed)
    with backend.resident(base, models, geometry) as ours, CpuBackend(1).resident(base, models, geometry) as theirs:
        found, expected = ours.measure(1, against=0), theirs.measure(1, against=0)
    for part in ("base", "product", "delta"):
        assert getattr(found, part).tobytes() == getattr(expected, part).tobytes()
    assert_measures(backend, [models[0], models[1]], geometry)


@pytest.mark.parametrize("combination", [
    Weighted(np.full((2, 1, 9), 0.3), growth=np.full((1, 9), -0.25)),
    Weighted(np.linspace(0, 1, 260).reshape(2, 1, 130), lines="stored rows"),
    Elected((Kept(0.5, first=Mark(0.5)), Kept(0.7, share=1 << 31, key=5, factor=2.0)), consensus=True, normalize=True),
], ids=["weighted", "by rows", "elected"])  # fmt: skip
def test_other_combinations_have_the_bits_of_the_cpu(backend: CudaBackend, combination: Combination) -> None:
    base, *models = random_tensors((130, 9), (BF16, BF16, F32))
    geometry, found = Geometry.of((130, 9), transposed=False), []
    for one in (backend, CpuBackend(1)):
        with one.resident(base, models, geometry) as resident:
            found.append(b"".join(block.tobytes() for block in resident.combine(combination, BF16)))
    assert found[0] == found[1] != b""


# Pass 1


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("number", "shape"), list(enumerate(SHAPES)), ids=str)
def test_sums_of_awkward_shapes(backend: CudaBackend, number: int, shape: tuple[int, ...], transposed: bool) -> None:
    tensors = random_tensors(shape, PAIRS[(2 * number + transposed) % len(PAIRS)])
    assert_measures(backend, tensors, Geometry.of(shape, transposed))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kinds", PAIRS, ids=lambda kinds: f"{kinds[0].name}-{kinds[1].name}")
def test_sums_of_every_pair_of_types(backend: CudaBackend, kinds: Sequence[StorageType], transposed: bool) -> None:
    assert_measures(backend, random_tensors((12, 21), kinds), Geometry.of((12, 21), transposed))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 2, 3)])
def test_empty_tensors_have_empty_answers(backend: CudaBackend, shape: tuple[int, ...], transposed: bool) -> None:
    geometry = Geometry.of(shape, transposed)
    tensors = random_tensors(shape, (BF16, F32))
    assert_measures(backend, tensors, geometry)
    assert_combines(backend, tensors, geometry, BF16)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_infinities_and_nan_are_counted_as_on_the_cpu(
    backend: CudaBackend, kind: StorageType, transposed: bool
) -> None:
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 2.0**-24, -(2.0**-149)])
    base, model = (reference.encode(values, kind) for values in (np.repeat(odd, 8), np.tile(odd, 8)))
    sums = assert_measures(backend, [base, model], Geometry.of((8, 8), transposed))
    assert sums.largest_change == np.inf


def test_a_total_never_becomes_minus_zero(backend: CudaBackend) -> None:
    tensors = [reference.encode(np.array([[1e-30], [-1e-30]]), F32), reference.encode(np.zeros((2, 1)), F32)]
    assert_measures(backend, tensors, Geometry.of((2, 1), False))
    zeros = reference.encode(np.full((3, 5), -0.0), BF16)
    assert not np.signbit(assert_measures(backend, [zeros, zeros], Geometry.of((3, 5), False)).product).any()


@pytest.mark.parametrize("kind", [BF16, F16], ids=lambda kind: kind.name)
def test_every_16_bit_pattern_decodes_exactly_and_survives_a_merge_of_nothing(
    backend: CudaBackend, kind: StorageType
) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bits[~np.isfinite(reference.decode(StoredTensor(bits, kind)))] = 1
    bits[0x8000] = 0
    tensor = StoredTensor(bits, kind)
    geometry = Geometry.of((128, 512), False)
    assert_measures(backend, [tensor, tensor], geometry)
    merged = combined(backend, [tensor, tensor], np.ones((1, 1, geometry.columns)), geometry, kind)
    assert np.array_equal(merged, bits)


# Pass 2


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("number", "shape"), list(enumerate(SHAPES)), ids=str)
def test_merges_of_awkward_shapes(backend: CudaBackend, number: int, shape: tuple[int, ...], transposed: bool) -> None:
    kinds = [TYPES[(number + step) % 3] for step in range(3)]
    assert_combines(backend, random_tensors(shape, kinds), Geometry.of(shape, transposed), TYPES[number % 3])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("models", [1, 2, 3, 4, 5, 8, 9, 17])
def test_merges_of_many_models(backend: CudaBackend, models: int, transposed: bool) -> None:
    kinds = [TYPES[number % 3] for number in range(models + 1)]
    assert_combines(backend, random_tensors((5, 33), kinds), Geometry.of((5, 33), transposed), TYPES[models % 3])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("out", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_merges_into_every_type(backend: CudaBackend, kind: StorageType, out: StorageType, transposed: bool) -> None:
    assert_combines(backend, random_tensors((34, 20), (kind,) * 3), Geometry.of((34, 20), transposed), out)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_merge_starts_at_plus_zero(backend: CudaBackend, transposed: bool) -> None:
    tensors = [reference.encode(np.full((2, 3), -0.0), kind) for kind in (F32, BF16)]
    geometry = Geometry.of((2, 3), transposed)
    assert not combined(backend, tensors, np.full((1, 1, geometry.columns), -1.0), geometry, F32).any()


@pytest.mark.parametrize("out", TYPES, ids=lambda kind: kind.name)
def test_rounding_is_nearest_even_with_a_stop_at_float32(backend: CudaBackend, out: StorageType) -> None:
    steps = np.arange(1.0, 9.0)
    ties = [steps + 2.0**-11, steps + 2.0**-8, steps * 2.0**-25, 65504.0 + steps * 4, steps * 2.0**-134, steps * 3e37]
    base = np.concatenate([sign * tie for tie in ties for sign in (1, -1)])
    tensors = [reference.encode(base, F32), reference.encode(base + np.spacing(base.astype(np.float32)), F32)]
    geometry = Geometry.of(base.shape, False)
    for weight in (0.0, 0.5, 1.0, 2.0**-20, -(2.0**-20), -0.5):
        weights = np.full((1, 1, base.size), weight)
        expected = reference.merged(tensors[0], tensors[1:], weights, geometry, out)
        assert combined(backend, tensors, weights, geometry, out).tobytes() == expected.tobytes()
    assert out is not F16 or np.isinf(expected.view(np.float16)).any()


# Tiles, buffers and lanes


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(260, 3), (4, 200), (5, 3, 20), (2, 140, 2)])
def test_tiles_change_no_bit(kernels: ModuleType, shape: tuple[int, ...], transposed: bool) -> None:
    geometry = Geometry.of(shape, transposed)
    tensors = random_tensors(shape, (F32, BF16, F32))
    with closing(CudaBackend.interpreted(kernels, 1, 1 << 20, device_memory=geometry.elements * 12)) as backend:
        with backend.resident(tensors[0], tensors[1:], geometry) as resident:
            assert (len(resident._tiles) > 1) == (transposed or shape != (4, 200))
        assert_measures(backend, tensors, geometry)
        assert_combines(backend, tensors, geometry, BF16)


@given(
    st.integers(1, 5),
    st.integers(1, 700),
    st.integers(1, 300),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 1 << 22),
)
def test_tiles_cover_a_tensor_in_order_and_keep_chunks_whole(
    batch: int, rows: int, columns: int, transposed: bool, models: int, room: int
) -> None:
    geometry = Geometry(batch, rows, columns, transposed)
    element = column = 0
    for tile in tiles(geometry, 2 * models + 6, models, room):
        assert tile.element == element
        assert tile.column == (column if transposed else element // (rows * columns) * columns)
        element += tile.shape.elements
        column += tile.shape.batch * tile.shape.columns
        first, size = tile.element // columns % rows, tile.shape.stored_rows
        assert tile.shape.batch == 1 or size == rows
        assert transposed or (first % CHUNK_ROWS == 0 and (size % CHUNK_ROWS == 0 or first + size == rows))
        step = 1 if transposed else CHUNK_ROWS
        assert tile.shape.elements * (2 * models + 6) <= room or (tile.shape.batch == 1 and size <= step)
    assert element == geometry.elements


def test_a_tensor_that_fits_goes_to_the_device_once(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = random_tensors((9, 20), (BF16, BF16, BF16))
    sent = []
    upload = gpu.Lane.upload
    monkeypatch.setattr(gpu.Lane, "upload", lambda lane, data: (sent.append(data.dtype), upload(lane, data))[1])
    with backend.resident(tensors[0], tensors[1:], Geometry.of((9, 20), False)) as resident:
        resident.measure(1)
        assert len(sent) == 2
        list(resident.combine(Weighted(np.ones((2, 1, 20))), BF16))
        resident.measure(0)
    assert [kind.itemsize for kind in sent] == [2, 2, 2, 8]


def test_a_tensor_larger_than_the_buffers_comes_back_in_blocks(kernels: ModuleType) -> None:
    tensors = random_tensors((1, 3001), (F32, F32))
    geometry = Geometry.of((1, 3001), False)
    with closing(CudaBackend.interpreted(kernels, 1, memory=1, device_memory=AMPLE)) as backend:
        with backend.resident(tensors[0], tensors[1:], geometry) as resident:
            assert len(list(resident.combine(Weighted(np.ones((1, 1, 3001))), F32))) == 3
        assert_measures(backend, tensors, geometry)
        assert_combines(backend, tensors, geometry, F32)


def test_lanes_side_by_side_change_no_bit(kernels: ModuleType) -> None:
    work = [random_tensors((9, 12), (kind, F32, BF16), seed) for seed, kind in enumerate(TYPES * 2)]
    geometry = Geometry.of((9, 12), False)
    with closing(CudaBackend.interpreted(kernels, 3, 1 << 20, AMPLE)) as backend, ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda tensors: assert_measures(backend, tensors, geometry), work))
        list(threads.map(lambda tensors: assert_combines(backend, tensors, geometry, BF16), work))


def test_a_whole_merge_has_the_digests_of_the_cpu(
    kernels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LLAMA | {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "vocab_size": 20}
    weights = llama_weights(0, torch.bfloat16, config)
    folders = [write_checkpoint(tmp_path / "base", weights, config)]
    folders += [write_checkpoint(tmp_path / f"{k}", changed(weights, k, 0.1), config) for k in range(2)]
    monkeypatch.setattr("widen.backend._has_nvidia_device", lambda: True)
    monkeypatch.setattr(gpu, "CudaBackend", lambda *_: CudaBackend.interpreted(kernels, 2, 1 << 20, AMPLE))
    digests = {device: digests_of_merge(folders, tmp_path / f"on-{device}", device) for device in ("cpu", "cuda")}
    assert digests["cuda"] == digests["cpu"]


def digests_of_merge(folders: Sequence[Path], out: Path, device: str) -> dict[str, str]:
    manifest = widen.merge(folders[0], folders[1:], out, resources=widen.Resources(device=device))
    return {name: tensor.sha256 for name, tensor in manifest.tensors.items()}


def test_a_lane_comes_back_after_a_failure_and_an_unfinished_merge(backend: CudaBackend) -> None:
    tensors = random_tensors((4, 4), (F32, F32))
    geometry = Geometry.of((4, 4), False)
    with pytest.raises(KeyError), backend.resident(tensors[0], tensors[1:], geometry):
        raise KeyError
    with backend.resident(tensors[0], tensors[1:], geometry) as resident:
        next(resident.combine(Weighted(np.ones((1, 1, 4))), F32))
    assert_combines(backend, tensors, geometry, F32)


@given(st.integers(1, 8), st.integers(1 << 14, 1 << 36))
def test_pinned_buffers_stay_within_the_budget(devices: int, memory: int) -> None:
    lanes = lane_count(devices, memory)
    assert 1 <= lanes <= 8 * devices
    staged = lanes * UNITS_A_LANE * unit_size(lanes, memory)
    assert staged <= max(memory, UNITS_A_LANE << 12)
    assert lanes == 1 or unit_size(lanes, memory) >= SMALLEST_UNIT


# What is not there, and what is wrong


@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA")
def test_a_torch_without_cuda_is_told() -> None:
    with pytest.raises(EnvironmentFault, match=r"expected torch built with CUDA, found torch .*--device cpu"):
        CudaBackend(None, 1 << 30)


@pytest.mark.parametrize(("devices", "told"), [(None, "a CUDA device"), ([7], r"CUDA devices \[7\]")])
def test_a_missing_device_is_told(monkeypatch: pytest.MonkeyPatch, devices: Sequence[int] | None, told: str) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match=rf"expected {told}.*found 0 devices.*--device cpu"):
        CudaBackend(devices, 1 << 30)


def test_a_missing_triton_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentFault, match=r"expected the package triton.*--device cpu"):
        CudaBackend(None, 1 << 30)


def test_too_little_device_memory_is_told(backend: CudaBackend) -> None:
    tensors = random_tensors((4, 4), (F32, F32))
    with (
        pytest.raises(EnvironmentFault, match="free bytes for a tensor"),
        backend.resident(tensors[0], tensors[1:], Geometry.of((4, 4), False)),
    ):
        raise torch.cuda.OutOfMemoryError


def test_kernels_that_round_otherwise_are_refused(backend: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend._check_arithmetic(1)
    right = CudaResident.measure

    def fused(resident: CudaResident, model: int) -> ColumnSums:
        sums = right(resident, model)
        sums.product[0, 0] = np.nextafter(sums.product[0, 0], np.inf)
        return sums

    monkeypatch.setattr(CudaResident, "measure", fused)
    with pytest.raises(EnvironmentFault, match="found other bits"):
        backend._check_arithmetic(1)


# What the compiler makes of it


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """What the launches of a test compile to, for a Hopper GPU that need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    device = {
        "get_current_target": lambda: GPUTarget("cuda", 90, 32),
        "get_current_device": lambda: 97,  # its kernels must not serve a device that is there
        "get_current_stream": lambda _: 0,
    }
    found: list = []

    def compile_only(kernel: JITFunction, grid: tuple[int, ...]):
        return lambda *args, **options: found.append(kernel.run(*args, grid=grid, warmup=True, **options))

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(driver, "_active", SimpleNamespace(**device))
    monkeypatch.setattr(JITFunction, "__getitem__", compile_only)
    return found


def operands(kinds: Sequence[StorageType], elements: int) -> list:
    return [(torch.zeros(elements, dtype=torch.int16 if kind.itemsize == 2 else torch.int32), kind) for kind in kinds]


@pytest.mark.parametrize("transposed", [False, True])
def test_the_machine_code_fuses_nothing_and_flushes_nothing(compiled: list, transposed: bool) -> None:
    shape = Geometry(1, 128, 256, transposed)
    base, *models = operands((F32, F32, BF16), shape.elements)
    sums, weights = torch.zeros(3 * 256, dtype=torch.float64), torch.zeros(2 * 256, dtype=torch.float64)
    triton_kernels.add_column_sums(base, models[0], shape, sums, shape.columns, torch.zeros(3, dtype=torch.int64))
    triton_kernels.combine(base, models, weights, shape, base)
    assert [kernel.name for kernel in compiled] == ["sums_along" if transposed else "sums_down", "fold", "combine_rows"]
    for kernel in compiled:
        code = kernel.asm["ptx"]
        assert "add.rn.f64" in code
        assert [word for word in ("fma.", ".ftz", "add.f64", "mul.f64", "sub.f64") if word in code] == []
        assert "ld.global.v4" in code.replace("ld.global.b32.v4", "ld.global.v4") or kernel.name == "fold"


# On a GPU


@pytest.fixture(scope="module")
def cuda() -> Iterator[CudaBackend]:
    with closing(CudaBackend(None, 256 << 20)) as opened:
        yield opened


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kinds", PAIRS, ids=lambda kinds: f"{kinds[0].name}-{kinds[1].name}")
@pytest.mark.parametrize("shape", [(4000, 1104), (1001, 3333), (3, 700, 640), (100_003,)], ids=str)
def test_gpu_measures_the_same_bits(
    cuda: CudaBackend, shape: tuple[int, ...], kinds: Sequence[StorageType], transposed: bool
) -> None:
    assert_measures(cuda, random_tensors(shape, kinds), Geometry.of(shape, transposed))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("out", TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("models", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("shape", [(2000, 1104), (1001, 1333), (3, 300, 640), (100_003,)], ids=str)
def test_gpu_merges_the_same_bits(
    cuda: CudaBackend, shape: tuple[int, ...], models: int, out: StorageType, transposed: bool
) -> None:
    kinds = [out, *(TYPES[number % 3] for number in range(models))]
    assert_combines(cuda, random_tensors(shape, kinds), Geometry.of(shape, transposed), out)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("transposed", [False, True])
def test_gpu_tiles_and_small_buffers_change_no_bit(transposed: bool) -> None:
    tensors = random_tensors((3000, 1500), (F32, BF16, F32))
    geometry = Geometry.of((3000, 1500), transposed)
    with closing(CudaBackend([0], memory=4 << 20, device_memory=8 << 20)) as backend:
        assert_measures(backend, tensors, geometry)
        assert_combines(backend, tensors, geometry, F16)


@needs_gpu
@pytest.mark.gpu
def test_gpu_lanes_side_by_side_change_no_bit(cuda: CudaBackend) -> None:
    work = [random_tensors((1500, 700 + seed), (TYPES[seed % 3], F32, BF16), seed) for seed in range(3 * cuda.lanes)]

    def check(tensors: Sequence[StoredTensor]) -> None:
        geometry = Geometry.of((1500, tensors[0].data.size // 1500), False)
        assert_measures(cuda, tensors, geometry)
        assert_combines(cuda, tensors, geometry, BF16)

    with ThreadPoolExecutor(cuda.lanes) as threads:
        list(threads.map(check, work))


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_gpu_merges_a_checkpoint_to_the_same_digest(case: str, tmp_path: Path) -> None:
    folder = GOLDEN / case
    folders = [folder / "base", *sorted(folder.glob("model-*"))]
    digests = {device: digests_of_merge(folders, tmp_path / device, device) for device in ("cpu", "cuda")}
    assert digests["cuda"] == digests["cpu"]
