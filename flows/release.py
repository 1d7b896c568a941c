"""`widen demo --release`: the demo's upstream publishes something, for a workspace that follows it to find."""

import tempfile
from pathlib import Path

from flows.assets import asset
from flows.hub import next_tag, publish_text, release
from widen.errors import EnvironmentFault, RecipeError

CHECKPOINTS = "examples/quickstart/checkpoints"
KINDS = {
    "tagger-v2": "the tagger's next release, better than the first",
    "noise": "a tagger that changed as much as the first one and learned nothing",
    "readme": "a commit that touches no checkpoint",
}


def release_to_hub(folder: Path, kind: str) -> None:
    """Publish `kind`, one of KINDS, in the hub of the demo in `folder`, under its next tag.

    Raises RecipeError for another kind, EnvironmentFault where there is no demo yet.
    """
    hub = folder.resolve() / "hub"
    if kind not in KINDS:
        raise RecipeError(f"--release: expected one of {', '.join(KINDS)}, found {kind!r}")
    if not hub.is_dir():
        raise EnvironmentFault(f"no demo in {folder}: expected a hub at {hub}; run widen demo first")
    tag = next_tag(hub)
    if kind == "readme":
        commit = publish_text(hub, tag, "README.md", f"# The hub\n\nRelease {tag} changes this file only.\n")
    else:
        with tempfile.TemporaryDirectory() as made:
            source = asset(CHECKPOINTS) / kind
            commit = release(hub, tag, "tagger", _noise(Path(made)) if kind == "noise" else source)
    print(f"{hub} has a new release: {tag} ({commit[:12]}), {KINDS[kind]}")


def _noise(out: Path) -> Path:
    """The base, moved in a random direction as far as the tagger was, tensor by tensor: within every band, no skill."""
    import torch
    from safetensors.torch import load_file, save_file

    checkpoints, weights = asset(CHECKPOINTS), "model.safetensors"
    for file in sorted((checkpoints / "tagger-v1").iterdir()):
        (out / file.name).write_bytes(file.read_bytes())
    base, tagger = (load_file(checkpoints / name / weights) for name in ("base", "tagger-v1"))
    chance = torch.Generator().manual_seed(0)
    moved = {}
    for name, tensor in sorted(base.items()):
        direction = torch.randn(tensor.shape, generator=chance)
        distance = (tagger[name].float() - tensor.float()).norm()
        moved[name] = (tensor.float() + direction * (distance / direction.norm())).to(tensor.dtype)
    save_file(moved, out / weights, metadata={"format": "pt"})
    return out
