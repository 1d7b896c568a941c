"""Where candidates are merged, one at a time, and scored, side by side: what was done once is not done again."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
    from tasks.scoring import Unit
    from tasks.side_by_side import Scorers, Ticket
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
    """What was done so far, by name: merges made, models scored, candidates compared.

    places: of candidates that lie on the disk. tickets: of units that were begun, by what they score and on which side.
    """

    merged: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    scored: list[str] = field(default_factory=list)
    places: set[int] = field(default_factory=set)
    tickets: "dict[tuple[str, Side], list[Ticket]]" = field(default_factory=dict)


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
    scorers: "Scorers"
    work: Work = field(default_factory=Work)

    @classmethod
    def open(cls, road: Road, plan: Plan, scorers: "Scorers") -> "Bench":
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
        return cls(road, plan, sources, {one["name"]: one["digest"] for one in held["inputs"]}, contents, scorers)

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
        """What is asked on one side of the split."""
        from tasks.split import Part

        return replace(self.road.evaluation, part=Part(side, self.plan.selection, self.plan.seed))

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

    @property
    def room(self) -> int:
        """How many candidates lie on the disk at most: one is merged while the others are scored."""
        return 1 if self.scorers.slots == 1 else self.scorers.slots + 1

    @property
    def weight(self) -> int:
        """Bytes of the base's weights, about what a candidate takes."""
        from tasks.scoring_cost import weight_of

        return weight_of(self.sources[0].folder)

    def references(self) -> "dict[str, dict[str, Scorecard]]":
        """The base's and the parents' scores on both sides, by name."""
        sides: tuple[Side, ...] = ("selection", "gate")
        models = {side: [self._model(one.name, one.folder, self.digests[one.name], side) for one in self.sources]
                  for side in sides}  # fmt: skip
        self._submit([one for side in sides for one in models[side]], self.scorers.slots)
        return {side: {one.model: self._card(one) for one in models[side]} for side in sides}

    def scored(self, name: str, folder: Path, digest: str, side: "Side") -> "Scorecard":
        """The scores of any checkpoint on one side; `folder` is not read where they are at hand."""
        model = self._model(name, folder, digest, side)
        self._submit([model], self.scorers.slots)
        return self._card(model)

    def begin(self, candidate: Candidate, side: "Side", slots: int) -> Callable[[], Merged]:
        """Begin to score a candidate; what it returns waits for its scores.

        Its merge is made where these are not at hand, and removed once they are. slots: over how many its tasks may be
        divided. Both calls raise RecipeError, InputsRefused and EnvironmentFault as merge and evaluation do.
        """
        settings = settings_of(candidate.merge)
        key = self._key(settings)
        digest = self._known(key)
        if digest is not None and self._in_hand(digest, side):
            return partial(self._end, key, self._model(MERGED, self._place(0), digest, side), None)
        place = min(set(range(self.room)) - self.work.places)
        self.work.places.add(place)
        try:
            digest = self._merge(candidate, settings, key, self._place(place))
            model = self._model(MERGED, self._place(place), digest, side)
            self._submit([model], slots)
        except BaseException:
            self._clear(place)
            raise
        return partial(self._end, key, model, place)

    def close(self) -> None:
        """Remove candidates that were not scored to their end."""
        shutil.rmtree(self._place(0).parent, ignore_errors=True)

    def _end(self, key: str, model: "Unit", place: int | None) -> Merged:
        try:
            return Merged(key, model.digest, self._card(model))
        finally:
            if place is not None:
                self._clear(place)

    def _model(self, name: str, folder: Path, digest: str, side: "Side") -> "Unit":
        from tasks.scoring import Unit

        return Unit(name, folder, digest, self.evaluation(side), self.kept)

    def _in_hand(self, digest: str, side: "Side") -> bool:
        from tasks.evaluate import is_scored

        return (digest, side) in self.work.tickets or is_scored(digest, self.evaluation(side), self.kept)

    def _submit(self, models: "Sequence[Unit]", slots: int) -> None:
        """Begin what is neither at hand nor begun."""
        from tasks.side_by_side import divided

        for unit in divided([one for one in models if _asked(one) not in self.work.tickets], slots):
            if _asked(unit) not in self.work.tickets:
                self.work.scored.append(unit.model)
            ticket = self.scorers.submit(unit)
            self.work.tickets.setdefault(_asked(unit), []).append(ticket)

    def _card(self, model: "Unit") -> "Scorecard":
        """A model's scores, once its units are done."""
        from registry.scorecard import Scorecard
        from tasks.evaluate import evaluate

        for ticket in self.work.tickets.get(_asked(model), ()):
            self.scorers.first([ticket])
        out = self.folder / "scored" / "card.json"
        try:
            plainly(evaluate, model.model, model.folder, model.digest, model.settings, self.kept, out)
            return Scorecard.from_json(out.read_text(encoding="utf-8"))
        finally:
            shutil.rmtree(out.parent, ignore_errors=True)

    def _place(self, number: int) -> Path:
        return self.folder / "candidate" / str(number)

    def _clear(self, place: int) -> None:
        shutil.rmtree(self._place(place), ignore_errors=True)
        self.work.places.discard(place)

    def _merge(self, candidate: Candidate, settings: "Settings", key: str, out: Path) -> str:
        from tasks.merge import merge
        from widen import Manifest
        from widen.manifest import Recipe

        self._clear_remains(out)
        recipe = Recipe(f"compare {self.road.recipe.name}", key)
        merged = plainly(
            merge, self.sources, settings, recipe, self.road.allow_config, self.road.device, self.road.cache, out
        )
        self.work.merged.append(candidate.name)
        made = Manifest.load(merged)
        if made.key != key:
            raise InputsRefused(f"{candidate.name}: an input changed since it was measured; run the same command again")
        write_atomically(self._record(key), json.dumps({"digest": made.digest, "method": settings.method}).encode())
        return made.digest

    def _clear_remains(self, out: Path) -> None:
        """What a kill left whole belongs to this command and is replaced; half of one is nobody's."""
        from widen import Manifest

        try:
            whole = Manifest.load(out).recipe.name == f"compare {self.road.recipe.name}"
        except (OSError, ValueError):
            whole = False
        if not whole:
            shutil.rmtree(out, ignore_errors=True)

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


def _asked(unit: "Unit") -> "tuple[str, Side]":
    """What is scored, and on which side."""
    assert unit.settings.part is not None
    return unit.digest, unit.settings.part.side


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
