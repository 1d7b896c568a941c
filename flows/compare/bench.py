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
from flows.recipe.search import ADAPTED
from flows.road import MERGED, Road, plainly
from widen.errors import InputsRefused
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
    """A recipe's fetched inputs with their digests, by name and base first, and the split of a plan.

    `contents` are of the inputs' files as they were before they were measured, by name.
    """

    road: Road
    plan: Plan
    sources: tuple["Fetched", ...]
    digests: Mapping[str, str]
    contents: Mapping[str, str | None]
    work: Work = field(default_factory=Work)

    @classmethod
    def open(cls, road: Road, plan: Plan) -> "Bench":
        """Fetch the inputs and measure them. Raises InputsRefused for models that no method could merge."""
        from tasks.fetch import fetch
        from tasks.measure import measure
        from widen.checks import Problem, refuse

        sources = tuple(fetch(source, road.workspace, record=not road.pins) for source in road.sources)
        _refuse_adapters(sources)
        contents = _contents(road, sources)
        place = _studies(road) / "measurements.json"
        out = plainly(measure, sources, road.settings, road.allow_config, road.device, road.cache, place)
        held = json.loads(out.read_bytes())
        refuse([Problem(**problem) for problem in held["problems"]])
        return cls(road, plan, sources, {one["name"]: one["digest"] for one in held["inputs"]}, contents)

    @property
    def folder(self) -> Path:
        """What the comparison keeps for itself."""
        return self.road.cache / "compare"

    @property
    def studies(self) -> Path:
        """What is kept for this recipe alone: its searches, and what was measured of its inputs."""
        return _studies(self.road)

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
        """sha256 of what decides every candidate's value beside its settings.

        Inputs, split, tasks, harness, clauses, the engine, and which keys of a configuration may differ.
        """
        from registry.scorecard import canonical, sha256
        from tasks.evaluate import questions
        from widen.version import ENGINE

        clauses = [str(clause) for clause in self.road.clauses]
        asked = [questions(self.evaluation(side), self.kept) for side in ("selection", "gate")]
        held = [list(self.digests.items()), asked, clauses, dict(ENGINE), sorted(self.road.allow_config)]
        return sha256(canonical(held))

    def require_unchanged(self, identity: str) -> None:
        """Raise InputsRefused where the inputs' files, or what `identity` was of, are no longer what they were."""
        now = _contents(self.road, self.sources)
        changed = [name for name, content in now.items() if content != self.contents[name]]
        if changed or self.identity() != identity:
            what = f"the files of {', '.join(changed)}" if changed else "a task, its data or how it is asked"
            raise InputsRefused(
                f"{what} changed while methods were compared, so scores from before and after do not go together; "
                "once the change is whole, run the same command again: it begins a comparison of what is there then"
            )

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
        made = Manifest.load(merged)
        if made.key != key:
            raise InputsRefused(f"{candidate.name}: an input changed since it was measured; run the same command again")
        write_atomically(self._record(key), json.dumps({"digest": made.digest, "method": settings.method}).encode())
        return made.digest

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


def _studies(road: Road) -> Path:
    """A folder below one name of ours, so that no recipe's name is that of a scratch folder."""
    return road.cache / "compare" / "studies" / road.recipe.name


def _refuse_adapters(sources: "tuple[Fetched, ...]") -> None:
    """An adapter alone is told from a model by its files, once they are here."""
    from widen.checkpoint import holds_adapter

    for one in sources:
        if holds_adapter(one.folder):
            raise InputsRefused(f"{one.name}: {ADAPTED.format(model=f'`{one.name}`')}")


def _contents(road: Road, sources: "tuple[Fetched, ...]") -> dict[str, str | None]:
    """Each input's files, by name; read only where they changed since they were last read."""
    from tasks.content import content_of_folder

    return {one.name: content_of_folder(one.folder, road.workspace) for one in sources}
