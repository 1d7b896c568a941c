"""The CPU kernels against the same operations written out in NumPy, in the promised order, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import decode, encode, round_to, sums_in_order
from widen.combination import Weighted
from widen.dtypes import BF16, F16, F32, StorageType
from widen.geometry import ColumnSums, Geometry, StoredTensor
from widen.kernels.cpu import CpuBackend

TYPES = (BF16, F16, F32)
SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (129, 3),
    (128, 257),
    (5, 1025),
    (300, 40),
    (2, 3, 9),
    (3, 2, 130, 5),
    (0, 4),
    (4, 0),
    (11,),
    (),
]


def measured(base: StoredTensor, model: StoredTensor, geometry: Geometry) -> ColumnSums:
    with CpuBackend(1).resident(base, [model], geometry) as resident:
        return resident.measure(0)


def combined(
    base: StoredTensor, models: list[StoredTensor], weights: np.ndarray, geometry: Geometry, kind: StorageType
):
    with CpuBackend(1).resident(base, models, geometry) as resident:
        blocks = [block.copy() for block in resident.combine(Weighted(weights), kind)]
    return np.concatenate(blocks) if blocks else np.zeros(0, kind.bits)


def random_pair(shape: tuple[int, ...], base_kind: StorageType, model_kind: StorageType, seed: int = 0):
    generator = np.random.default_rng(seed)
    base = generator.standard_normal(shape)
    model = base + 0.1 * generator.standard_normal(shape) * (generator.random(shape) < 0.7)
    return encode(base, base_kind), encode(model, model_kind)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kinds", [(BF16, BF16), (F16, F16), (F32, F32), (BF16, F32), (F32, F16)])
def test_measure_has_the_bits_of_numpy_in_the_promised_order(shape, transposed, kinds) -> None:
    base, model = random_pair(shape, *kinds)
    geometry = Geometry.of(shape, transposed)
    sums = measured(base, model, geometry)
    plain = [
        decode(one).reshape(geometry.batch, geometry.stored_rows, geometry.stored_columns) for one in (base, model)
    ]
    for index in range(geometry.batch):
        matrices = [one[index].T if geometry.transposed else one[index] for one in plain]
        expected = sums_in_order(*matrices)
        for found, wanted in zip((sums.base, sums.product, sums.delta), expected, strict=True):
            assert found[index].tobytes() == wanted.tobytes()
    delta = plain[1] - plain[0]
    assert sums.changed == np.count_nonzero(delta)
    assert sums.zeros == np.count_nonzero(plain[1] == 0)
    assert sums.largest_change == (np.abs(delta).max() if delta.size else 0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kinds", [(BF16, BF16, F16), (F32, F32, F32)])
@pytest.mark.parametrize("out_kind", TYPES)
def test_combine_has_the_bits_of_numpy(shape, transposed, kinds, out_kind) -> None:
    base, first = random_pair(shape, kinds[0], kinds[1], seed=1)
    _, second = random_pair(shape, kinds[0], kinds[2], seed=2)
    geometry = Geometry.of(shape, transposed)
    weights = np.random.default_rng(3).random((2, geometry.batch, geometry.columns))
    found = combined(base, [first, second], weights, geometry, out_kind)
    stored = (geometry.batch, geometry.stored_rows, geometry.stored_columns)
    values = [decode(one).reshape(stored) for one in (base, first, second)]
    spread = [weight[:, :, None] if geometry.transposed else weight[:, None, :] for weight in weights]
    total = np.zeros(stored)
    for weight, model in zip(spread, values[1:], strict=True):
        total = total + weight * (model - values[0])
    assert found.tobytes() == round_to(values[0] + total, out_kind).tobytes()


@pytest.mark.parametrize("kind", [BF16, F16])
def test_every_16_bit_pattern_decodes_exactly_and_survives_a_merge_of_nothing(kind) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = decode(StoredTensor(bits, kind))
    finite = bits[np.isfinite(values) & (bits != 0x8000)]
    tensor = StoredTensor(finite, kind)
    geometry = Geometry.of(finite.shape, False)
    weights = np.ones((1, 1, finite.size))
    merged = combined(tensor, [tensor], weights, geometry, kind)
    sums = measured(tensor, tensor, geometry)
    assert np.array_equal(merged, finite)
    assert np.array_equal(sums.base[0], decode(tensor) ** 2)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(width=64, min_value=-1e5, max_value=1e5), min_size=1, max_size=40), st.sampled_from(TYPES))
def test_rounding_is_nearest_even_on_any_sum(values: list[float], kind: StorageType) -> None:
    exact = np.array(values)
    model = StoredTensor(exact.astype(np.float32).view(np.uint32), F32)
    base = StoredTensor(np.zeros(exact.size, np.uint32), F32)
    weights = np.full((1, 1, exact.size), 1.0 / 3.0)
    found = combined(base, [model], weights, Geometry.of(exact.shape, False), kind)
    expected = round_to(decode(base) + (0.0 + decode(model) * (1.0 / 3.0)), kind)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "pair", [(0, 0), (0, 1), (1, 0), ("-0", 0), (0, "-0"), ("nan", "nan"), ("inf", "inf"), (1, "nan")]
)
def test_an_element_counts_as_changed_when_the_delta_is_not_zero(kind, pair) -> None:
    base, model = (encode(np.array([float(value)] * 3), kind) for value in pair)
    sums = measured(base, model, Geometry.of((3,), False))
    with np.errstate(invalid="ignore"):
        assert sums.changed == np.count_nonzero(decode(model) - decode(base))
    assert sums.zeros == np.count_nonzero(decode(model) == 0)


def test_long_rows_are_counted_whole() -> None:
    base, model = encode(np.zeros(70_000), BF16), encode(np.ones(70_000), BF16)
    assert measured(base, model, Geometry.of((70_000,), False)).changed == 70_000
    assert measured(model, base, Geometry.of((70_000,), False)).zeros == 70_000


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(513, 130), (1030, 64), (4, 4096), (7, 66), (512, 3)])
def test_turned_tiles_have_the_bits_of_numpy(kind, shape) -> None:
    base, model = random_pair(shape, kind, kind, seed=5)
    sums = measured(base, model, Geometry.of(shape, True))
    expected = sums_in_order(decode(base).reshape(shape).T, decode(model).reshape(shape).T)
    for found, wanted in zip((sums.base, sums.product, sums.delta), expected, strict=True):
        assert found[0].tobytes() == wanted.tobytes()
