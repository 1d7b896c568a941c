"""`widen merge` and `widen plan` of a recipe whose models lie in a storage, as processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import widen
from tests.remote.conftest import KEY, SECRET, Line, family, keys, upload

ROOT = Path(__file__).parents[2]
RECIPE = """
name: both
sources:
  base: {path: s3://models/in/base}
  m1: {path: s3://models/in/m1}
merge:
  base_model: base
  models: [{model: m1}, {model: LOCAL}]
  merge_method: widen
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "flows", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_a_recipe_of_urls_is_planned_merged_and_refused(bucket: Any, line: Line, tmp_path: Path) -> None:
    base, *models = family(tmp_path / "in")
    for one in (base, models[0]):
        upload(bucket, one, f"in/{one.name}")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("LOCAL", str(models[1])))
    asked = ["recipe.yaml", "--out", "s3://models/out", "--remote-cache", "1MB"]
    planned = command(tmp_path, "plan", *asked)
    assert planned.returncode == 0, planned.stderr
    assert "tensors     12" in planned.stdout
    assert keys(bucket, "out/") == []
    merged = command(tmp_path, "merge", *asked, "--shard-size", "12KB")
    assert merged.returncode == 0, merged.stderr
    settings = widen.Settings(shard_bytes=12_000)
    local = widen.merge(base, models, tmp_path / "local", settings)
    assert f"s3://models/out: 12 tensors, digest {local.digest}" in merged.stdout
    assert not (tmp_path / "s3:").exists()
    again = command(tmp_path, "merge", *asked, "--shard-size", "12KB")
    assert "s3://models/out is unchanged" in again.stderr
    refusals = {
        ("merge", "recipe.yaml", "--out", "s3://models/in"): (2, "s3://models/in holds "),
        ("merge", "recipe.yaml", "--out", "s3://user:word@models/in"): (2, "a URL without a key or password"),
        ("merge", "recipe.yaml", "--out", "s3://models/out", "--remote-cache", "much"): (2, "remote cache 'much'"),
        ("merge", "recipe.yaml", "--out", "s3://no-bucket/out"): (5, "there is no such bucket"),
    }
    for arguments, (code, told) in refusals.items():
        done = command(tmp_path, *arguments)
        assert (done.returncode, told in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr
        assert not any(secret in done.stdout + done.stderr for secret in (KEY, SECRET, "word@"))
    told = json.dumps([path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()])
    assert SECRET not in told
