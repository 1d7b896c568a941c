"""A merge of models far larger than its memory: anonymous memory stays bounded, whatever the size."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from bench.measure import run
from bench.models import WEIGHTS_FILE, generate
from bench.sizes import SIZES

LIMIT = 1_000_000_000


@pytest.mark.slow
def test_anonymous_memory_stays_under_one_gigabyte(tmp_path: Path) -> None:
    models = generate(tmp_path, SIZES["0.43b"])
    assert sum((folder / WEIGHTS_FILE).stat().st_size for folder in models.values()) > LIMIT
    base, *others = (str(folder) for folder in models.values())
    recipe = tmp_path / "merge.yaml"
    content = {"merge_method": "widen", "base_model": base, "models": [{"model": one} for one in others]}
    recipe.write_text(yaml.safe_dump(content))
    options = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    done = run([sys.executable, "-m", "flows", "merge", str(recipe), *options])
    assert "tensors, digest" in done.output
    assert 0 < done.anonymous_peak < LIMIT
    for folder in (*models.values(), tmp_path / "out"):
        shutil.rmtree(folder)  # pytest keeps the last folders; these are gigabytes
