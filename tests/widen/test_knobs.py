"""WIDEN's knobs: how equal changes rank, and models left out of tensors by name."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import widen
from tests import oracle
from tests.build import LLAMA, changed, family, llama_weights, write_checkpoint
from widen.errors import RecipeError
from widen.geometry import ColumnSums
from widen.manifest import Manifest
from widen.methods.widen import widen_important, widen_weights
from widen.scores import Ranks, average_places, places, softmax

RANKS = get_args(Ranks)
TINY = LLAMA | {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40}
CHANGES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1e-300]), min_size=1, max_size=24)


def sums_of(base: np.ndarray, model: np.ndarray) -> ColumnSums:
    delta = model - base
    parts = (base**2).sum(0), (delta * base).sum(0), (delta**2).sum(0)
    return ColumnSums(*(part[None] for part in parts), 0, 0, 0.0)


def awkward(columns: int, seed: int = 3, rows: int = 12) -> tuple[np.ndarray, list[np.ndarray]]:
    """A base and three models: changed everywhere; in every third column; equally in pairs, at the ends not at all."""
    generator = np.random.default_rng(seed)
    base = generator.standard_normal((rows, columns))
    base[:, 1::2] = base[:, : columns - 1 : 2]
    one, two = (base + 0.3 * generator.standard_normal(base.shape) for _ in range(2))
    two[:, np.arange(columns) % 3 != 0] = base[:, np.arange(columns) % 3 != 0]
    pairs = 0.2 * generator.standard_normal(base.shape)
    pairs[:, 1::2] = pairs[:, : columns - 1 : 2]
    pairs[:, [0, -1]] = 0.0
    return base, [one, two, base + pairs]


def weights_of(base: np.ndarray, models: list[np.ndarray], **asked: Any) -> np.ndarray:
    return widen_weights([sums_of(base, model) for model in models], False, **asked)[:, 0]


def mixed(base: np.ndarray, models: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return base + sum(weight * (model - base) for weight, model in zip(weights, models, strict=True))


# Ranks


@given(CHANGES)
def test_equal_changes_share_the_mean_of_their_places(changes: list[float]) -> None:
    found = average_places(np.array([changes, changes[::-1]]))
    expected = [sum(one < value for one in changes) + (changes.count(value) - 1) / 2 for value in changes]
    assert found.tolist() == [expected, expected[::-1]]
    assert found[0].sum() == places(np.array([changes]))[0].sum()


def test_a_negative_zero_is_equal_to_zero_and_no_columns_have_no_places() -> None:
    assert average_places(np.array([[0.0, -0.0, 1.0]])).tolist() == [[0.5, 0.5, 2.0]]
    assert average_places(np.empty((2, 0))).shape == (2, 0)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.5, 1.3), (1.65, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("columns", [1, 2, 3, 31])
def test_weights_equal_the_oracle(ranks: Ranks, t: float, s: float, columns: int) -> None:
    base, models = awkward(columns)
    for chosen in (models, models[1:], models[2:]):
        merged = mixed(base, chosen, weights_of(base, chosen, t=t, s=s, ranks=ranks))
        expected = oracle.merge_matrix(base, chosen, t, s, ranks).astype(float)
        assert np.allclose(merged, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.5, 1.3), (0.0, 2.0)])
def test_vector_weights_equal_the_oracle(ranks: Ranks, t: float, s: float) -> None:
    base, models = (values[0] if isinstance(values, np.ndarray) else values for values in awkward(29, rows=1))
    models = [model[0] for model in models]
    sums = [sums_of(base[None], model[None]) for model in models]
    weights = widen_weights(sums, True, t, s, ranks)[:, 0]
    expected = oracle.merge_vector(base, models, t, s, ranks).astype(float)
    assert np.allclose(mixed(base, models, weights), expected, rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=40)
@given(columns=st.integers(1, 20), seed=st.integers(0, 99), t=st.sampled_from([0.0, 0.7, 1.0, 1.4]))
def test_where_all_changes_differ_and_none_is_zero_all_are_one(columns: int, seed: int, t: float) -> None:
    generator = np.random.default_rng(seed)
    base = generator.standard_normal((9, columns))
    models = [base + 0.1 * generator.standard_normal(base.shape) for _ in range(3)]
    first, *others = (weights_of(base, models, t=t, s=1.2, ranks=ranks) for ranks in RANKS)
    for other in others:
        assert first.tobytes() == other.tobytes()


@settings(deadline=None, max_examples=40)
@given(order=st.permutations(range(12)), t=st.sampled_from([0.0, 0.9, 1.0, 1.3]))
def test_columns_may_change_places_where_equal_changes_share_a_rank(order: list[int], t: float) -> None:
    base, models = awkward(12)
    for ranks in ("average", "changed"):
        still = weights_of(base, models, t=t, ranks=ranks)
        moved = weights_of(base[:, order], [model[:, order] for model in models], t=t, ranks=ranks)
        assert still[:, order].tobytes() == moved.tobytes()


def test_by_order_a_column_s_weight_depends_on_where_it_stands() -> None:
    base, models = awkward(12)
    turned = weights_of(base[:, ::-1], [model[:, ::-1] for model in models])[:, ::-1]
    assert not np.array_equal(weights_of(base, models), turned)
    for ranks in ("average", "changed"):
        turned = weights_of(base[:, ::-1], [model[:, ::-1] for model in models], ranks=ranks)[:, ::-1]
        assert np.array_equal(weights_of(base, models, ranks=ranks), turned)


def test_a_model_that_changed_nothing_takes_a_share_by_order_and_average_and_none_by_changed() -> None:
    base, (model, *_) = awkward(40)
    for ranks, expected in (("order", False), ("average", False), ("changed", True)):
        # t so high that nothing is important: the softmax alone speaks
        with_it = weights_of(base, [model, base.copy()], t=9.0, ranks=ranks)[0]
        assert (with_it == weights_of(base, [model], t=9.0, ranks=ranks)[0]).all() == expected


def test_what_a_model_did_not_change_is_never_important() -> None:
    base, models = awkward(31)
    sums, untouched = [sums_of(base, model) for model in models], ~(base != models[1]).any(0)
    assert untouched.any()
    assert not widen_important(sums, False, 0.0, "changed")[1, 0, untouched].any()
    assert not widen_weights(sums, False, 0.0, 1.0, "changed")[1, 0, untouched].any()
    assert widen_important(sums, False, 0.0, "average")[1, 0, untouched].all()


def test_the_softmax_of_some_is_that_of_them_alone_to_the_bit() -> None:
    generator = np.random.default_rng(0)
    values, among = generator.random((4, 1, 50)), generator.random((4, 1, 50)) < 0.5
    among[:, 0, 7] = False
    found = softmax(values, among)
    for c in range(50):
        there = among[:, 0, c]
        alone = softmax(values[there, :, c : c + 1])[:, 0, 0] if there.any() else np.empty(0)
        assert found[there, 0, c].tobytes() == alone.tobytes()
        assert not found[~there, 0, c].any()


# The whole engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three models: a merged adapter, changed everywhere, and changed in one of two columns."""
    place = tmp_path_factory.mktemp("family")
    base = llama_weights(0, torch.float32, TINY)
    generator = torch.Generator().manual_seed(4)
    adapter = dict(base)
    for name in (name for name in base if "q_proj" in name or "v_proj" in name):
        up, down = (torch.randn(size, generator=generator) for size in ((len(base[name]), 2), (2, base[name].shape[1])))
        adapter[name] = base[name] + 0.01 * up @ down
    half = {
        name: torch.where(torch.arange(one.shape[-1]) % 2 == 0, one, 1.05 * one + 0.001) for name, one in base.items()
    }
    models = [adapter, changed(base, 1, 0.3), half]
    return [write_checkpoint(place / str(k), one, TINY) for k, one in enumerate([base, *models])]


def merged(
    folders: list[Path], out: Path, chosen: tuple[int, ...] = (1, 2, 3), own: Any = (), **asked: Any
) -> dict[str, torch.Tensor]:
    widen.merge(folders[0], [folders[k] for k in chosen], out, widen.Settings(**asked, models=own))
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("ranks", RANKS)
def test_a_merge_equals_an_independent_reading(ranks: str, folders: list[Path], tmp_path: Path) -> None:
    found = merged(folders, tmp_path / "out", t=0.8, s=1.1, parameters={"ranks": ranks})
    inputs = [load_file(folder / "model.safetensors") for folder in folders]
    for name, one in found.items():
        base, *models = (tensors[name].double().numpy() for tensors in inputs)
        merge = oracle.merge_vector if one.dim() == 1 else oracle.merge_matrix
        merge = oracle.merge_embedding if "embed_tokens" in name else merge
        expected = merge(base, models, 0.8, 1.1, ranks).astype(np.float64)
        np.testing.assert_allclose(one.double().numpy(), expected, rtol=1.5e-7, atol=2e-9, err_msg=name)


@pytest.mark.parametrize("ranks", RANKS)
def test_an_excluded_model_might_as_well_not_be_there(ranks: str, folders: list[Path], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"parameters": {"ranks": ranks}}
    everyone, without = merged(folders, tmp_path / "all", **asked), merged(folders, tmp_path / "few", (1, 3), **asked)
    own: list[dict[str, Any]] = [{}, {"exclude": ["mlp", "norm.weight"]}, {}]
    found = merged(folders, tmp_path / "out", **asked, own=own)
    differ = 0
    for name, one in found.items():
        inside = "mlp" in name or "norm.weight" in name
        assert torch.equal(one.view(torch.int32), (without if inside else everyone)[name].view(torch.int32)), name
        differ += inside and not torch.equal(everyone[name], without[name])
    assert differ


def test_where_all_are_excluded_the_base_stays(folders: list[Path], tmp_path: Path) -> None:
    found = merged(folders, tmp_path / "out", parameters={"exclude": ["lm_head"]})
    base, everyone = load_file(folders[0] / "model.safetensors"), merged(folders, tmp_path / "all")
    for name, one in found.items():
        assert torch.equal(one, base[name] if name == "lm_head.weight" else everyone[name]), name


def test_a_model_s_own_filters_come_before_the_shared_ones(folders: list[Path], tmp_path: Path) -> None:
    shared = [{"filter": "mlp", "value": True}, {"value": False}]
    asked = widen.Settings(parameters={"exclude": shared}, models=[{"exclude": ["q_proj"]}, {"exclude": False}, {}])
    assert dict(asked.arguments(3, "a.mlp.up", 0.0))["exclude"] == (True, False, True)
    assert dict(asked.arguments(3, "a.q_proj", 0.0))["exclude"] == (True, False, False)
    assert "exclude" not in dict(asked.arguments(3, "a.k_proj", 0.0))


def test_a_change_of_knobs_computes_what_it_touches(tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    resources = widen.Resources(cache=tmp_path / "cache")

    def merge(**asked: Any) -> Manifest:
        told = widen.Settings(shard_bytes=12_000, **asked)
        return widen.merge(base, models, tmp_path / "out", told, resources=resources, any_settings=True)

    assert merge().settings.keys() == {"method", "t", "s", "out_dtype", "shard_bytes"}
    second = merge(models=[{"exclude": ["lm_head"]}, {}])
    assert dict(second.reuse.computed) == {"exclude changed from False": ["lm_head.weight"]}
    assert second.settings["models"] == [{"exclude": [{"filter": "lm_head", "value": True}]}, {}]
    third = merge(
        models=second.settings["models"],
        parameters={"ranks": [{"filter": "norm", "value": "order"}, {"value": "changed"}]},
    )
    (why, names), *_ = third.reuse.computed.items()
    assert why == "ranks changed from order"
    assert not any("norm" in name for name in names)
    assert merge(parameters={"ranks": "order"}).settings == Manifest.load(tmp_path / "out").settings
    assert "parameters" not in Manifest.load(tmp_path / "out").settings


# Settings


def test_defaults_spelt_out_change_no_digest_and_shorthand_is_spelt_out() -> None:
    plain = widen.Settings()
    assert widen.Settings(parameters={"ranks": "order", "exclude": False}).digest == plain.digest
    assert widen.Settings(parameters={"ranks": "average"}).digest != plain.digest
    filters = [{"filter": "lm_head", "value": True}, {"filter": "down_proj", "value": True}]
    short, long = (widen.Settings(models=[{"exclude": one}, {}]) for one in (["lm_head", "down_proj"], filters))
    assert short.digest == long.digest != plain.digest
    assert widen.Settings(**short.content).digest == short.digest


def test_a_gradient_of_words_goes_in_steps() -> None:
    asked = widen.Settings(parameters={"ranks": ["order", "average", "changed"]})
    told = [dict(asked.arguments(2, "x", place)).get("ranks", "order") for place in (0.0, 0.4, 0.5, 0.9, 1.0)]
    assert told == ["order", "order", "average", "average", "changed"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"parameters": {"ranks": "averge"}}, r"`order` or `average` or `changed` \(the nearest is `average`\), found"),
        ({"parameters": {"ranks": 1}}, "expected `order` or `average` or `changed`, found 1"),
        ({"parameters": {"ranks": [{"value": ["order", 2]}]}}, "ranks: expected `order`"),
        ({"parameters": {"rank": "order"}}, "no parameter `rank`; the nearest is `ranks`"),
        ({"models": [{"exclude": "lm_head"}]}, "exclude: expected true or false, or a list of parts of tensors' names"),
        ({"models": [{"exclude": ["lm_head", ""]}]}, "exclude: expected true or false"),
        ({"models": [{"exclude": ["lm_head", True]}]}, "exclude: expected true or false"),
        ({"models": [{"exclude": []}]}, "exclude: expected at least one value"),
        ({"parameters": {"t": 0.5}}, r"t: expected as a setting of its own, Settings\(t=...\)"),
    ],
)
def test_what_the_knobs_do_not_take(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        widen.Settings(**asked)
