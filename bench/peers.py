"""mergekit from its package, in an environment of its own: python -m bench.peers FOLDER installs it."""

import argparse
import subprocess
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from bench.entrants import Entrant, Workplace
from bench.methods import among, configuration

PACKAGES = ("mergekit==0.1.5", "pydantic~=2.10.0")
"""With a newer pydantic, mergekit 0.1.5 fails on import."""
VERSION = "import importlib.metadata; print(importlib.metadata.version('mergekit'))"
OPTIONS = ("--no-copy-tokenizer", "--no-write-model-card", "--quiet")
"""The models have no tokenizer, and nobody else writes a card."""
METHODS = ("linear", "task_arithmetic", "slerp", "ties", "dare_ties", "sce")
"""Those that stand beside this project's own merge; `--methods` measures every one."""


def make_environment(folder: Path) -> None:
    """Install mergekit into a virtual environment, with the very torch and transformers that this project runs on."""
    venv.create(folder, with_pip=True)
    shared = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "transformers", "numpy", "safetensors")]
    command = [_python(folder), "-m", "pip", "install", "--progress-bar", "off", *PACKAGES, *shared]
    subprocess.run(command, check=True)


def peer_versions(folder: Path) -> dict[str, str]:
    """mergekit's version in the environment `folder`; nothing when there is none that works."""
    if not Path(_python(folder)).exists():
        return {}
    found = subprocess.run([_python(folder), "-c", VERSION], capture_output=True, text=True)
    return {} if found.returncode else {"mergekit": found.stdout.strip()}


def find_peers(asked: str | None, folder: Path) -> Path | None:
    """The environment to use: the one asked for, made if it is missing; else `folder`/mergekit, if it is there."""
    if asked == "none":
        return None
    place = Path(asked) if asked else folder / "mergekit"
    if asked and not peer_versions(place):
        make_environment(place)
    return place if peer_versions(place) else None


def mergekit_entrants(place: Workplace, folder: Path, device: str) -> list[Entrant]:
    """mergekit's methods on the same files, each with its defaults."""
    return [mergekit_entrant(place, folder, method, device) for method in METHODS]


def mergekit_entrant(place: Workplace, folder: Path, method: str, device: str) -> Entrant:
    """mergekit's merge by a method."""
    name = f"mergekit-{method.replace('_', '-')}"
    base, *models = (str(path) for path in place.inputs.values())
    recipe, out = place.recipe(name, configuration(method, base, models)), place.out(name)
    arguments = [str(recipe), str(out), *OPTIONS, *(["--cuda"] if device == "cuda" else [])]
    prepare: Callable[[], None] = place.put_tuned
    module, caption = "mergekit.scripts.run_yaml", f"mergekit, {method}{among(method)}"
    return Entrant(name, caption, _python(folder), module, arguments, prepare, out, "mergekit")


def _python(folder: Path) -> str:
    return str(folder.absolute() / "bin" / "python")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    if not peer_versions(folder):
        print(f"installing {' '.join(PACKAGES)} into {folder} (some minutes)", flush=True)
        make_environment(folder)
    print(f"{folder}: mergekit {peer_versions(folder)['mergekit']}")


if __name__ == "__main__":
    main()
