"""`widen demo --release`: what the demo's upstream publishes, each under its next tag."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.assets import asset
from flows.hub import make_hub
from flows.release import CHECKPOINTS, release_to_hub
from widen.errors import EnvironmentFault, RecipeError


def changed(hub: Path, tag: str) -> list[str]:
    command = ["git", "show", "--format=", "--name-only", tag]
    return subprocess.check_output(command, cwd=hub, text=True).split()


def flat(folder: Path) -> torch.Tensor:
    """All weights in one vector, float64."""
    tensors = load_file(folder / "model.safetensors")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


@pytest.mark.slow
def test_each_release_changes_what_it_says_and_nothing_else(tmp_path: Path) -> None:
    hub = make_hub(tmp_path / "hub", asset("examples/quickstart"))
    for tag, kind, files in (
        ("v2", "tagger-v2", ["checkpoints/tagger.dvc"]),
        ("v3", "noise", ["checkpoints/tagger.dvc"]),
        ("v4", "readme", ["README.md"]),
    ):
        release_to_hub(tmp_path, kind)
        assert changed(hub, tag) == files
    base, tagger = (flat(asset(CHECKPOINTS) / name) for name in ("base", "tagger-v1"))
    there, went = tagger - base, flat(hub / "checkpoints" / "tagger") - base
    assert went.norm().item() == pytest.approx(there.norm().item(), rel=0.02)
    assert abs(went @ there) < 0.02 * went.norm() * there.norm()


def test_another_word_and_a_folder_without_a_demo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--release: expected one of tagger-v2, noise, readme, found 'nois'"):
        release_to_hub(tmp_path, "nois")
    with pytest.raises(EnvironmentFault, match=r"expected a hub at .*hub; run widen demo first"):
        release_to_hub(tmp_path, "noise")
