"""Every method, through the whole engine, against an independent reading of its paper, however it is run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import widen
from tests import method_oracles
from tests.build import LLAMA, changed, llama_weights, write_checkpoint
from widen.combination import BEYOND, SMALLEST, Mark
from widen.dtypes import F32
from widen.errors import InputsRefused, RecipeError
from widen.geometry import Geometry, StoredTensor
from widen.kernels import cpu
from widen.kernels.elements import Elements
from widen.methods import METHODS
from widen.methods.task_vectors import kept_count

TINY = LLAMA | {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40, "num_hidden_layers": 3}
CASES: dict[str, tuple[str, int, dict[str, Any], list[dict[str, Any]]]] = {
    # name: method, models, shared parameters, each participant's own
    "linear": ("linear", 2, {}, [{"weight": 1.0}, {"weight": 0.5}, {"weight": -0.25}]),
    "linear, a sum": ("linear", 2, {"normalize": False, "weight": 0.4}, []),
    "task arithmetic": ("task_arithmetic", 2, {"lambda": 0.7}, [{"weight": 0.6}, {"weight": 0.9}]),
    "task arithmetic, mean": ("task_arithmetic", 3, {"normalize": True, "weight": 0.3}, []),
    "slerp": ("slerp", 1, {"t": 0.3}, []),
    "slerp, beyond": ("slerp", 1, {"t": 1.4}, []),
    "nuslerp": ("nuslerp", 1, {}, [{"weight": 0.25}, {"weight": 0.5}]),
    "nuslerp from a base": ("nuslerp", 2, {}, [{"weight": 0.25}, {"weight": 0.5}]),
    "multislerp": ("multislerp", 2, {}, [{"weight": 0.2}, {"weight": 0.5}, {"weight": 0.4}]),
    "multislerp from a base": ("multislerp", 3, {"weight": 0.3, "normalize_weights": False}, []),
    "karcher": ("karcher", 3, {}, []),
    "model stock": ("model_stock", 3, {}, []),
    "ties": ("ties", 3, {"weight": 0.5, "lambda": 1.3}, [{"density": 0.3}, {"density": 0.6}, {"density": 1.0}]),
    "ties, sums": ("ties", 2, {"normalize": False, "density": 0.0}, [{"weight": 0.5, "density": 0.4}, {"weight": 1.0}]),
    "breadcrumbs": ("breadcrumbs", 2, {"weight": 0.5, "density": 0.5, "gamma": 0.1}, []),
    "breadcrumbs, nearly all": ("breadcrumbs", 2, {"weight": 0.5, "density": 0.95, "gamma": 0.2}, []),
    "breadcrumbs ties": ("breadcrumbs_ties", 3, {"weight": 0.7, "density": 0.4, "gamma": 0.05}, []),
    "dare": ("dare_linear", 2, {"weight": 0.5, "density": 0.3, "seed": 7}, []),
    "dare, not rescaled": ("dare_linear", 2, {"weight": 0.5, "density": 0.6, "rescale": False}, []),
    "nuslerp by row": ("nuslerp", 1, {"nuslerp_flatten": False}, [{"weight": 0.25}, {"weight": 0.5}]),
    "nuslerp by column from a base": (
        "nuslerp", 2, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, [{"weight": 0.25}, {"weight": 0.5}],
    ),
    "model stock by filter": ("model_stock", 3, {"filter_wise": True}, []),
    "ties, rescaled": ("ties", 2, {"weight": 0.5, "density": 0.2, "rescale": True}, []),
    "breadcrumbs, rescaled": ("breadcrumbs", 2, {"weight": 0.5, "density": 0.2, "rescale": True}, []),
    "sce": ("sce", 3, {}, []),
    "sce, selected": ("sce", 3, {"select_topk": 0.3}, []),
    "della": ("della", 2, {"weight": 0.5, "density": 0.5, "epsilon": 0.2, "seed": 3}, []),
    "della, alike": ("della", 2, {"weight": 0.5, "density": 0.4, "epsilon": 0.0}, []),
    "della linear": ("della_linear", 3, {"weight": 0.5, "density": 0.6, "epsilon": 0.1, "rescale": False}, []),
    "dare ties": ("dare_ties", 3, {"weight": 0.5, "density": 0.5, "normalize": True}, []),
    "passthrough": ("passthrough", 0, {"scale": 0.3}, []),
}  # fmt: skip
FROM_ZERO = ("passthrough", "linear", "slerp", "nuslerp", "multislerp", "karcher")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three models: one changed everywhere, one half untouched and the rest by one size, one far off."""
    place = tmp_path_factory.mktemp("family")
    base = llama_weights(0, torch.float32, TINY)
    steps = {
        name: torch.where(torch.arange(one.numel()).reshape(one.shape) % 2 == 0, one, one + 0.0078125 * (-1) ** index)
        for index, (name, one) in enumerate(base.items())
    }
    models = [changed(base, 1, 0.1), steps, llama_weights(5, torch.float32, TINY)]
    return [write_checkpoint(place / str(k), one, TINY) for k, one in enumerate([base, *models])]


def settings_of(name: str, **more: Any) -> widen.Settings:
    method, _, shared, own = CASES[name]
    origin = method not in FROM_ZERO or "from a base" in name
    return widen.Settings(method, parameters=shared, models=own, origin=origin, **more)


def merged(folders: list[Path], name: str, out: Path, **more: Any) -> dict[str, torch.Tensor]:
    count = CASES[name][1]
    widen.merge(folders[0], folders[1 : 1 + count], out, settings_of(name), **more)
    return load_file(out / "model.safetensors")


def told(name: str, participants: int) -> dict[str, Any]:
    """The arguments for the oracle, all of them spelt out."""
    method, _, shared, own = CASES[name]
    found: dict[str, Any] = {}
    for key, parameter in METHODS[method].parameters.items():
        values = [one.get(key, shared.get(key, parameter.default)) for one in own or [{}] * participants]
        found["lambda_" if key == "lambda" else key] = values if parameter.each else shared.get(key, parameter.default)
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_method_is_what_its_paper_says(name: str, folders: list[Path], tmp_path: Path) -> None:
    found, asked = merged(folders, name, tmp_path / "out"), settings_of(name)
    read = [load_file(folder / "model.safetensors") for folder in folders[: 1 + CASES[name][1]]]
    participants = len(read) - (1 if asked.origin else 0)
    oracle = getattr(method_oracles, asked.method)
    for tensor, one in found.items():
        base, *models = (each[tensor].double().numpy() for each in read)
        expected = oracle(base, models, origin=asked.origin, name=tensor, **told(name, participants))
        np.testing.assert_allclose(
            one.double().numpy(), expected.astype(np.float64), rtol=1.5e-7, atol=2e-9, err_msg=tensor
        )


def test_no_method_is_without_a_case() -> None:
    assert {case[0] for case in CASES.values()} == METHODS.keys() - {"widen"}


@pytest.mark.parametrize("name", [
    "slerp", "nuslerp from a base", "nuslerp by row", "karcher", "model stock by filter", "ties", "ties, rescaled",
    "breadcrumbs ties", "dare ties", "della", "sce, selected",
])  # fmt: skip
def test_threads_blocks_and_shards_change_no_byte(
    name: str, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = merged(folders, name, tmp_path / "once", resources=widen.Resources("cpu", threads=1))
    monkeypatch.setattr(cpu, "BLOCK_ELEMENTS", 37)
    again = merged(folders, name, tmp_path / "again", resources=widen.Resources("cpu", threads=2))
    assert all(torch.equal(one.view(torch.int32), again[tensor].view(torch.int32)) for tensor, one in once.items())


def test_the_ends_of_slerp_are_the_models(folders: list[Path], tmp_path: Path) -> None:
    for t, end in ((0.0, folders[0]), (1.0, folders[3])):
        asked = widen.Settings("slerp", parameters={"t": t}, origin=False)
        widen.merge(folders[0], [folders[3]], tmp_path / str(t), asked)
        expected = load_file(end / "model.safetensors")
        for tensor, one in load_file(tmp_path / str(t) / "model.safetensors").items():
            torch.testing.assert_close(one, expected[tensor], rtol=1e-7, atol=1e-9)


def test_a_density_of_one_is_task_arithmetic_to_the_byte(folders: list[Path], tmp_path: Path) -> None:
    shared = {"weight": 0.3}
    found = []
    for method in ("task_arithmetic", "breadcrumbs", "dare_linear"):
        widen.merge(folders[0], folders[1:], tmp_path / method, widen.Settings(method, parameters=shared))
        found.append((tmp_path / method / "model.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]


def test_the_seed_changes_what_is_dropped_and_nothing_else_does(folders: list[Path], tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((1, 1, 2)):
        asked = widen.Settings("dare_linear", parameters={"weight": 1.0, "density": 0.5, "seed": seed})
        digests.append(widen.merge(folders[0], folders[1:2], tmp_path / str(number), asked).digest)
    assert digests[0] == digests[1] != digests[2]


def test_what_is_dropped_differs_by_model_and_tensor_and_keeps_its_share(folders: list[Path], tmp_path: Path) -> None:
    asked = widen.Settings("dare_linear", parameters={"density": 0.5, "rescale": False}, models=[{"weight": 1.0}])
    widen.merge(folders[0], [folders[3]], tmp_path / "out", asked)
    base, found = load_file(folders[0] / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    same = [name for name in base if name.endswith("q_proj.weight")]
    masks = [(found[name] != base[name]).reshape(-1) for name in same]
    assert not torch.equal(masks[0], masks[1])
    kept = torch.cat([(found[name] != base[name]).reshape(-1) for name in base]).double()
    assert abs(kept.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(kept))


# Selection


def elements_of(model: np.ndarray) -> Elements:
    base, other = (StoredTensor(one.view(np.uint32), F32) for one in (np.zeros_like(model), model))
    return Elements(base, [other], Geometry.of(model.shape, transposed=False))


@settings(deadline=None)  # the first example compiles
@given(
    sizes=st.lists(st.sampled_from([0.0, -0.0, 1e-40, 0.5, -0.5, 0.75, 3.0, 2.0**100]), min_size=1, max_size=60),
    rank=st.integers(-1, 61),
)
def test_the_element_at_a_rank_is_a_stable_sort_s(sizes: list[float], rank: int) -> None:
    model = np.array(sizes, np.float32)
    found = elements_of(model).mark(0, rank)
    order = sorted((abs(float(value)), index) for index, value in enumerate(model))
    if rank <= 0:
        assert found == SMALLEST
    elif rank >= len(order):
        assert found == BEYOND
    else:
        below = [one for one in order if one < (found.size, found.index)]
        assert len(below) == rank


def test_equal_sizes_across_tiles_are_told_apart_by_their_index() -> None:
    assert elements_of(np.ones(100_000, np.float32)).mark(0, 90_000) == Mark(1.0, 90_000)


@pytest.mark.parametrize(("density", "count"), [(0.0, 0), (1e-9, 1), (0.5, 5), (0.99, 9), (1.0, 10)])
def test_a_positive_density_keeps_at_least_one(density: float, count: int) -> None:
    assert kept_count(density, 10) == count


# What is refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "ties", "parameters": {"densty": 0.5}}, "no parameter `densty`; the nearest is `density`"),
        ({"method": "ties", "parameters": {"density": "half"}}, "density: expected a finite number, found 'half'"),
        ({"method": "ties", "parameters": {"normalize": 1}}, "normalize: expected true or false"),
        ({"method": "karcher", "origin": False, "parameters": {"max_iter": 2.5}}, "max_iter: expected a whole number"),
        ({"method": "ties", "parameters": {"weight": []}}, "weight: expected at least one value"),
        ({"method": "ties", "parameters": {"weight": [1, {"value": 2}]}}, "weight: expected values, or"),
        ({"method": "ties", "parameters": {"weight": {"filer": "mlp", "value": 2}}}, "found `filer`"),
        ({"method": "linear"}, "linear merges whole models: say origin=False"),
        ({"method": "ties", "origin": False}, "ties merges what changed since a base: origin=True"),
    ],
)
def test_settings_that_a_method_does_not_take(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        widen.Settings(**asked)


@pytest.mark.parametrize(
    ("asked", "models", "words"),
    [
        ({"method": "ties"}, 2, "merge method ties needs `weight`"),
        ({"method": "model_stock"}, 1, "takes at least 2 models besides the base, found 1"),
        ({"method": "slerp", "origin": False, "parameters": {"t": 0.5}}, 2, "takes 2 models, found 3"),
        ({"method": "ties", "models": [{"weight": 1.0}]}, 2, "parameters of 2 participants in the merge, found 1"),
        ({"method": "linear", "origin": False, "models": [{"weight": 1}, {"weight": -1}]}, 1, "sum is not zero"),
        ({"method": "ties", "parameters": {"weight": 1, "density": 1.5}}, 1, "density: expected a number from 0 to 1"),
        ({"method": "ties", "parameters": {"weight": {"filter": "mlp", "value": 1.0}}}, 1, "lm_head.weight has none"),
    ],
)
def test_settings_that_do_not_fit_the_models(
    asked: dict[str, Any], models: int, words: str, folders: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words):
        widen.merge(folders[0], folders[1 : 1 + models], tmp_path / "out", widen.Settings(**asked))
    assert not (tmp_path / "out").exists()


def test_a_number_that_is_none_is_refused_by_every_method(folders: list[Path], tmp_path: Path) -> None:
    weights = load_file(folders[1] / "model.safetensors")
    weights["lm_head.weight"][0, 0] = torch.nan
    broken = write_checkpoint(tmp_path / "broken", weights, TINY)
    with pytest.raises(InputsRefused, match="1 NaN"):
        widen.merge(folders[0], [broken], tmp_path / "out", widen.Settings("ties", parameters={"weight": 1.0}))
