"""Alignment held against mergekit's own merges of two vocabularies, by text; tests/mergekit_vocabulary has them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from flows.merge import open_inputs
from flows.recipe import load_recipe
from tests.vocabularies import ids_of
from widen import merge

FOLDER = Path(__file__).parents[1] / "mergekit_vocabulary"
CASES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TABLES = ("model.embed_tokens.weight", "lm_head.weight")
LARGEST = 2.5e-7
"""Of the largest value of a tensor: mergekit computes in float32."""


def by_text(tables: dict[str, torch.Tensor], ids: dict[str, int], name: str, texts: list[str]) -> torch.Tensor:
    return tables[name][[ids[text] for text in texts]].double()


@pytest.mark.parametrize("case", CASES)
def test_rows_by_text_are_mergekit_s(case: str, tmp_path: Path) -> None:
    recipe = load_recipe(FOLDER / f"{case}.yaml")
    base, *models = open_inputs(recipe, FOLDER)
    merge(base, models, tmp_path / "out", recipe.settings)
    ours, theirs = load_file(tmp_path / "out/model.safetensors"), load_file(FOLDER / f"{case}.model.safetensors")
    mine = ids_of(Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")))
    other = ids_of(Tokenizer.from_file(str(FOLDER / f"{case}.tokenizer.json")))
    assert mine.keys() == other.keys()
    assert ours.keys() == theirs.keys()
    texts = sorted(mine)
    for name, tensor in theirs.items():
        pair = (ours[name].double(), tensor.double())
        if name in TABLES:
            pair = by_text(ours, mine, name, texts), by_text(theirs, other, name, texts)
            assert ours[name].shape == tensor.shape
        assert (pair[0] - pair[1]).abs().max() <= LARGEST * pair[1].abs().max(), name
