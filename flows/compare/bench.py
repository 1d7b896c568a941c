"""Where candidates are merged, one at a time, and scored: what was merged or scored once is not again."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.compare.plan import Candidate, Plan
from flows.recipe.methods import settings_of
from flows.road import MERGED, Road, plainly
from widen.staging import write_atomically

if TYPE_CHECKING:
    from registry.scorecard import Scorecard
    from tasks.evaluate import EvaluateSettings
    from tasks.fetch import Fetched
    from tasks.split import Side
    from widen.settings import Settings


@dataclass(frozen=True)
class Merged:
    """A candidate's merge: what decides its tensors, and the digest of what came out."""

    key: str
    digest: str
    card: "Scorecard"


@dataclass(frozen=True)
class Work:
    """What was done so far, by name: merges made, models scored, candidates compared."""

    merged: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """A recipe's fetched inputs with their digests, by name and base first, and the split of a plan."""

    road: Road
    plan: Plan
    sources: tuple["Fetched", ...]
    digests: Mapping[str, str]
    work: Work = field(default_factory=Work)

    @classmethod
    def open(cls, road: Road, plan: Plan) -> "Bench":
        """Fetch the inputs and measure them. Raises InputsRefused for models that no method could merge."""
        from tasks.fetch import fetch
        from tasks.measure import measure
        from widen.checks import Problem, refuse

        sources = tuple(fetch(source, road.workspace, record=not road.pins) for source in road.sources)
        folder = road.cache / "compare" / road.recipe.name
        out = plainly(
            measure, sources, road.settings, road.allow_config, road.device, road.cache, folder / "measurements.json"
        )
        held = json.loads(out.read_bytes())
        refuse([Problem(**problem) for problem in held["problems"]])
        return cls(road, plan, sources, {one["name"]: one["digest"] for one in held["inputs"]})

    @property
    def folder(self) -> Path:
        """What the comparison keeps for itself."""
        return self.road.cache / "compare"

    @property
    def kept(self) -> Path:
        """Scores at hand, those of runs among them."""
        return self.road.cache / "scorecards"

    def evaluation(self, side: "Side") -> "EvaluateSettings":
        """What is asked on one side of the split, with all of the processor for the one model at a time."""
        from tasks.split import Part

        part = Part(side, self.plan.selection, self.plan.seed)
        return replace(self.road.evaluation, part=part, threads=len(os.sched_getaffinity(0)))

    def identity(self) -> str:
        """sha256 of what decides every candidate's value: inputs, split, tasks, harness, clauses."""
        from registry.scorecard import canonical, sha256
        from tasks.evaluate import questions

        clauses = [str(clause) for clause in self.road.clauses]
        asked = [questions(self.evaluation(side), self.kept) for side in ("selection", "gate")]
        return sha256(canonical([list(self.digests.items()), asked, clauses]))

    def reference(self, name: str, side: "Side") -> "Scorecard":
        """The base's or a parent's scores."""
        source = next(one for one in self.sources if one.name == name)
        return self.scored(name, source.folder, self.digests[name], side)

    def candidate(self, candidate: Candidate, side: "Side") -> Merged:
        """A candidate's scores; its merge is made where these are not at hand, and removed once they are.

        Raises RecipeError, InputsRefused and EnvironmentFault as the merge and the evaluation do.
        """
        from tasks.evaluate import is_scored

        settings = settings_of(candidate.merge)
        key = self._key(settings)
        digest = self._known(key)
        if digest is not None and is_scored(digest, self.evaluation(side), self.kept):
            return Merged(key, digest, self.scored(MERGED, self._out, digest, side))
        try:
            digest = self._merge(candidate, settings, key)
            return Merged(key, digest, self.scored(MERGED, self._out, digest, side))
        finally:
            shutil.rmtree(self._out, ignore_errors=True)

    def scored(self, name: str, folder: Path, digest: str, side: "Side") -> "Scorecard":
        """The scores of any checkpoint on one side; `folder` is not read where they are at hand."""
        from registry.scorecard import Scorecard
        from tasks.evaluate import evaluate, is_scored

        settings = self.evaluation(side)
        if not is_scored(digest, settings, self.kept):
            self.work.scored.append(name)
        out = self.folder / "scored" / "card.json"
        try:
            plainly(evaluate, name, folder, digest, settings, self.kept, out)
            return Scorecard.from_json(out.read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(out.parent, ignore_errors=True)

    @property
    def _out(self) -> Path:
        return self.folder / "candidate"

    def _merge(self, candidate: Candidate, settings: "Settings", key: str) -> str:
        from tasks.merge import merge
        from widen import Manifest
        from widen.manifest import Recipe

        self._clear_remains()
        recipe = Recipe(f"compare {self.road.recipe.name}", key)
        merged = plainly(
            merge, self.sources, settings, recipe, self.road.allow_config, self.road.device, self.road.cache, self._out
        )
        self.work.merged.append(candidate.name)
        digest: str = Manifest.load(merged).digest
        write_atomically(self._record(key), json.dumps({"digest": digest, "method": settings.method}).encode())
        return digest

    def _clear_remains(self) -> None:
        """What a kill left whole belongs to this command and is replaced; half of one is nobody's."""
        from widen import Manifest

        try:
            whole = Manifest.load(self._out).recipe.name == f"compare {self.road.recipe.name}"
        except (OSError, ValueError):
            whole = False
        if not whole:
            shutil.rmtree(self._out, ignore_errors=True)

    def _key(self, settings: "Settings") -> str:
        """What the merged tensors are a function of, as the manifest has it."""
        from widen.manifest import Input, merge_key
        from widen.version import ENGINE

        sides = [Input("", name, digest, {}, {}) for name, digest in self.digests.items()]
        return merge_key(ENGINE, settings.content, sides)

    def _record(self, key: str) -> Path:
        return self.folder / "merges" / f"{key}.json"

    def _known(self, key: str) -> str | None:
        """The digest of the merge with that key, if it was made before."""
        try:
            held: Any = json.loads(self._record(key).read_bytes())
            return str(held["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
