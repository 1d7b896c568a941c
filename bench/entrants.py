"""What is measured beside the floor: a command, and what must be so before it runs. Here, this project's own.

Their order is a story: a process that knows nothing; the same with the architecture known; other settings on the same
statistics; nothing changed; one input updated. Each finds what the one before it left.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.models import WEIGHTS_FILE, Models

ARCHITECTURE = "architecture*"
"""What of the cache a first merge may find: descriptions of architectures, which a machine learns once."""


@dataclass(frozen=True)
class Entrant:
    """A command to measure. `prepare` runs before it, unmeasured; `out` is the checkpoint that it makes.

    start: entrants with the same word begin alike, and share one measurement of that. needs: entrants that must have
    run before. keeps: `out` is left for the next.
    """

    name: str
    caption: str
    python: str
    module: str
    arguments: Sequence[str]
    prepare: Callable[[], None]
    out: Path
    start: str
    needs: Sequence[str] = ()
    keeps: bool = False

    @property
    def command(self) -> list[str]:
        """The command line."""
        return [self.python, "-m", self.module, *self.arguments]


class Workplace:
    """Where the entrants of one size work: inputs by name, outputs, recipes and caches.

    The tuned model is a folder of hard links, so that its update takes its place without moving bytes.
    """

    def __init__(self, folder: Path, models: Models) -> None:
        self.folder = folder.resolve()
        self._versions = models.folders["tuned"], models.updated
        self.inputs = {name: path.resolve() for name, path in models.folders.items()} | {"tuned": self.folder / "tuned"}
        self.cache = self.folder / "cache"
        self.folder.mkdir(parents=True, exist_ok=True)

    def weights(self) -> list[Path]:
        """The inputs' files as they stand now."""
        return [path / WEIGHTS_FILE for path in self.inputs.values()]

    def put_tuned(self, updated: bool = False) -> None:
        """Let the tuned model be one of its two versions."""
        target = self.inputs["tuned"]
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in self._versions[updated].iterdir():
            os.link(file, target / file.name)

    def out(self, name: str) -> Path:
        """The folder that an entrant makes."""
        return self.folder / "out" / name

    def recipe(self, name: str, content: Mapping[str, object]) -> Path:
        """Write a configuration, in the format that mergekit and this project share."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        return path

    def remove(self, *paths: Path) -> None:
        """Remove folders that may be there."""
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    def forget(self, keep: str = "") -> None:
        """Empty the cache, but for entries of a kind."""
        kept = set(self.cache.glob(keep)) if keep else set()
        for path in set(self.cache.glob("*")) - kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def widen_entrants(place: Workplace, device: str) -> list[Entrant]:
    """This project's: from a cold first merge to a merge again after an update."""
    first, other, cold = place.out("widen"), place.out("widen-other"), place.out("widen-cold")
    settings, others = _recipe(place, "widen", 1.0, 1.0), _recipe(place, "widen-other", 0.8, 1.2)

    def start_cold() -> None:
        place.put_tuned()
        place.forget()

    def start_first() -> None:
        place.put_tuned()
        place.forget(ARCHITECTURE)
        place.remove(first)

    def entrant(name: str, caption: str, recipe: Path, prepare: Callable[[], None], out: Path) -> Entrant:
        after = {"widen-cold": (), "widen-first": ("widen-cold",)}.get(name, ("widen-cold", "widen-first"))
        arguments = ["merge", str(recipe), "--out", str(out), "--device", device, "--cache", str(place.cache)]
        return Entrant(name, caption, sys.executable, "flows", arguments, prepare, out, name, after, out == first)

    return [
        entrant("widen-cold", "widen, first merge, nothing known", settings, start_cold, cold),
        entrant("widen-first", "widen, first merge", settings, start_first, first),
        entrant("widen-other", "widen, other t and s", others, _nothing, other),
        entrant("widen-unchanged", "widen again, nothing changed", settings, _nothing, first),
        entrant(
            "widen-update", "widen again, one model updated", settings, lambda: place.put_tuned(updated=True), first
        ),
    ]


def _recipe(place: Workplace, name: str, t: float, s: float) -> Path:
    base, *models = (str(path) for path in place.inputs.values())
    return place.recipe(name, {
        "merge_method": "widen", "base_model": base, "models": [{"model": model} for model in models],
        "parameters": {"t": t, "s": s},
    })  # fmt: skip


def _nothing() -> None:
    pass
