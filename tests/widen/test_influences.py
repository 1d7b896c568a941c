"""Whose weight won where: against the oracle's weights, and from what an earlier merge measured."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import widen
from tests import oracle
from tests.build import family
from widen.errors import InputsRefused


def oracle_weights(
    base: np.ndarray, models: list[np.ndarray], t: float, s: float, kind: str, ranks: str = "order"
) -> np.ndarray:
    """The weights inside the oracle's merge: extended precision, (models, columns)."""
    if kind == "embedding":
        base, models = base.T, [model.T for model in models]
    taking = [(np.atleast_2d(model != base)).any(0) | (ranks != "changed") for model in models]
    if kind == "vector":
        sizes = [np.abs(model - base) for model in models]
        scores = oracle._softmax([np.asarray(size, oracle.Wide) for size in sizes], taking)
        above = [size > t * size.mean() for size in sizes]
        return np.stack([np.where(one, s, row) for one, row in zip(above, scores, strict=True)])
    place = oracle._place_in_order if ranks == "order" else oracle._average_place
    magnitude = [np.abs(np.sqrt((model**2).sum(0)) - np.sqrt((base**2).sum(0))) for model in models]
    cosine = [(model * base).sum(0) / np.sqrt((model**2).sum(0) * (base**2).sum(0)) for model in models]
    direction = [np.where((model != base).any(0), 1 - one, 0) for model, one in zip(models, cosine, strict=True)]
    return sum(oracle._scores(changes, t, s, place, taking) for changes in (magnitude, direction)) / 2


@pytest.mark.parametrize(("t", "s"), [(1.0, 1.0), (0.6, 1.25)])
def test_figures_are_those_of_the_oracles_weights(t: float, s: float, tmp_path: Path) -> None:
    base, *models = family(tmp_path, torch.float32, sizes=(0.1, 0.3, 0.2))
    found = widen.influence(base, models, widen.Settings(t=t, s=s))
    inputs = [load_file(folder / "model.safetensors") for folder in (base, *models)]
    assert [one.tensor for one in found] == sorted(inputs[0])
    for one in found:
        values = [np.asarray(tensors[one.tensor].double().numpy(), oracle.Wide) for tensors in inputs]
        weights = oracle_weights(values[0], values[1:], t, s, one.kind)
        assert [row.model for row in one.models] == ["m1", "m2", "m3"]
        assert one.columns == weights.shape[1]
        for k, row in enumerate(one.models):
            others = np.delete(weights, k, axis=0).max(0)
            assert row.mean_score == pytest.approx(float(weights[k].mean()), rel=1e-9)
            assert row.share_above == pytest.approx(float((weights[k] >= s).mean()), abs=1e-12), one.tensor
            assert row.share_won == pytest.approx(float((weights[k] > others).mean()), abs=2 / one.columns)


@pytest.mark.parametrize("ranks", ["average", "changed"])
def test_figures_follow_the_knobs(ranks: str, tmp_path: Path) -> None:
    base, one, two, three = family(tmp_path, torch.float32, sizes=(0.1, 0.3, 0.2))
    weights, half = load_file(one / "model.safetensors"), load_file(base / "model.safetensors")
    half |= {name: tensor for name, tensor in weights.items() if "mlp" in name}
    half["model.embed_tokens.weight"][::2] = weights["model.embed_tokens.weight"][::2]
    (one / "model.safetensors").unlink()
    save_file(half, one / "model.safetensors", {"format": "pt"})
    asked = widen.Settings(t=0.7, parameters={"ranks": ranks}, models=[{}, {}, {"exclude": ["layers.1"]}])
    for found in widen.influence(base, [one, two, three], asked):
        excluded = "layers.1" in found.tensor
        folders = [base, one, two] if excluded else [base, one, two, three]
        values = [load_file(folder / "model.safetensors")[found.tensor].double().numpy() for folder in folders]
        expected = oracle_weights(values[0], values[1:], 0.7, 1.0, found.kind, ranks)
        for row, mine in zip(found.models, expected, strict=False):
            assert row.mean_score == pytest.approx(float(mine.mean()), rel=1e-9), found.tensor
            assert row.share_above == pytest.approx(float((mine >= 1.0).mean()), abs=1e-12) or (
                ranks == "changed" and row.share_above <= (mine >= 1.0).mean()
            )  # alone in a column, a model weighs 1 without being important
        assert not excluded or (found.models[2].mean_score, found.models[2].share_won) == (0.0, 0.0)


def test_statistics_at_hand_are_used_without_reading_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from widen.checkpoint import Checkpoint

    base, *models = family(tmp_path)
    for folder in (base, *models):  # files that rest, or nothing is remembered of them
        os.utime(folder / "model.safetensors", (10**9, 10**9))
    resources = widen.Resources("cpu", cache=tmp_path / "cache")
    fresh = widen.influence(base, models, resources=widen.Resources("cpu"))
    widen.merge(base, models, tmp_path / "out", resources=resources)

    def read(*_: object) -> None:
        raise InputsRefused("a weight was read")

    monkeypatch.setattr(Checkpoint, "span", read)
    monkeypatch.setattr(Checkpoint, "tensor", read)
    assert widen.influence(base, models, resources=resources) == fresh
    layers = {one.layer for one in fresh}
    assert layers == {"", "model.layers.0", "model.layers.1"}


def test_shares_of_one_model_and_of_equal_models(tmp_path: Path) -> None:
    base, model, same = family(tmp_path, sizes=(0.3, 0.3))
    alone = widen.influence(base, [model])
    assert all(one.models[0].share_won == 1.0 for one in alone)
    weights = load_file(model / "model.safetensors")
    (same / "model.safetensors").unlink()
    save_file(weights, same / "model.safetensors", {"format": "pt"})
    tied = widen.influence(base, [model, same])
    assert all(row.share_won == 0.0 for one in tied for row in one.models)


def test_what_a_merge_refuses_is_refused(tmp_path: Path) -> None:
    base, model = family(tmp_path, sizes=(0.3,))
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    (model / "model.safetensors").unlink()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputsRefused, match=r"m1: model\.norm\.weight: not finite.*1 NaN"):
        widen.influence(base, [model])
