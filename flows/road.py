"""One run's recipe in the words of the rooms below: where its files lie, and each section as that room's own values."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from flows.recipe import SECTIONS, Recipe, load_recipe
from flows.registries import registry_at
from flows.runners import runner_of
from flows.settings import secret, settings
from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from registry.attest.keys import SigningKey
    from registry.gate import Clause
    from registry.store import Registry
    from tasks.cluster import Runner
    from tasks.evaluate import EvaluateSettings
    from tasks.fetch import Source
    from tasks.upstream import Pin
    from widen import Settings
    from widen.manifest import Recipe as MergedRecipe

MERGED = "merged"
"""The merged model's name among the scorecards."""

CHAMPION = "champion"
"""The champion's."""
REPORT = "report.html"
"""The version's page among a run's files."""

Call = Callable[..., Any]
Rest = ParamSpec("Rest")
Result = TypeVar("Result")


def orchestrated(work: Call, *arguments: Any, **named: Any) -> Any:
    """Run a task as Prefect does."""
    return work(*arguments, **named)


def plainly(work: Any, *arguments: Any, **named: Any) -> Any:
    """Run a task as the plain function that it is, without Prefect."""
    return getattr(work, "fn", work)(*arguments, **named)


@dataclass(frozen=True)
class Road:
    """A recipe in a workspace, on a device. `call` runs the tasks: `orchestrated` or `plainly`.

    `pins` are the revisions of the sources to fetch, by name, where these were chosen already; without them, what the
    recipe means now. `seconds` is filled with the time that each station took, in the order of the road.
    """

    recipe: Recipe
    workspace: Path
    device: str
    call: Call
    pins: Mapping[str, "Pin"] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @classmethod
    def open(
        cls,
        recipe: Path,
        workspace: Path,
        device: str,
        call: Call = orchestrated,
        pins: Mapping[str, "Pin"] = MappingProxyType({}),
    ) -> "Road":
        """Read the recipe, a file as given or meant from the workspace, and find the workspace.

        Raises RecipeError for either, EnvironmentFault for a device that is not there.
        """
        from tasks.workspace import require_workspace
        from widen.backend import require_device

        if device == "auto":  # what a deployment says as well, on whichever machine its worker is
            device = settings().device
        if settings().runner == "local":
            require_device(device)
        folder = require_workspace(workspace)
        return cls(load_recipe(recipe if recipe.is_file() else folder / recipe), folder, device, call, pins)

    @cached_property
    def runner(self) -> "Runner":
        """Who does the units of the merge. Raises RecipeError for a setting that says nothing."""
        return runner_of(None, None, None, self.device)

    def require_all(self) -> None:
        """Raise now, before hours of work, for a section, a registry or a key that a station would miss later."""
        from registry.store import probe

        for section in SECTIONS:
            self.recipe.require(section)  # type: ignore[call-overload]
        _ = self.settings, self.clauses, self.evaluation, self.signing_key, self.runner
        if self.registry.database is None:
            probe(self.registry.uri)

    @property
    def run_folder(self) -> Path:
        """What the stations record, for people and for the next station."""
        return self.workspace / "runs" / self.recipe.name

    @property
    def merged_folder(self) -> Path:
        """The merged checkpoint."""
        return self.workspace / "merged" / self.recipe.name

    @property
    def cache(self) -> Path:
        """Statistics, digests and scorecards that are good for as long as their inputs are."""
        return self.workspace / ".widen"

    @property
    def sources(self) -> tuple["Source", ...]:
        """The checkpoints to fetch, the base first."""
        from tasks.fetch import Source

        asked = (Source(name, spec.path, spec.repo, spec.rev) for name, spec in self.recipe.inputs.items())
        return tuple(self._pinned(source) for source in asked)

    def _pinned(self, source: "Source") -> "Source":
        pin = self.pins.get(source.name)
        if pin is None or pin.commit is None:
            return source
        return replace(source, rev=pin.ref, commit=pin.commit)

    @property
    def allow_config(self) -> tuple[str, ...]:
        """Configuration keys in which a model may differ from the base."""
        return self.recipe.validate.allow_config if self.recipe.validate else ()

    @property
    def settings(self) -> "Settings":
        """The merge's settings."""
        return self.recipe.settings

    @property
    def merged_recipe(self) -> "MergedRecipe":
        """What the merged folder belongs to."""
        from widen.manifest import Recipe as MergedRecipe

        return MergedRecipe(self.recipe.name, self.recipe.merge_digest)

    @property
    def evaluation(self) -> "EvaluateSettings":
        """What to score, and how."""
        from tasks.evaluate import EvaluateSettings

        asked = self.recipe.require("evaluate")
        include = self.workspace / asked.include_path if asked.include_path else None
        if include is not None and not include.is_dir():
            raise EnvironmentFault(f"evaluate.include_path: expected a folder of tasks, found nothing at {include}")
        return EvaluateSettings(
            tasks=asked.tasks,
            include_path=include,
            dtype=asked.dtype,
            batch_size=asked.batch_size,
            limit=asked.limit,
            num_fewshot=asked.num_fewshot,
            apply_chat_template=asked.apply_chat_template,
            fewshot_as_multiturn=asked.fewshot_as_multiturn,
            system_instruction=asked.system_instruction,
            max_length=asked.max_length,
            backend=asked.backend,
            backend_args=asked.backend_args,
            device=self._torch_device,
            threads=self._threads,
        )

    @property
    def _threads(self) -> int:
        """Of the processor, for one model: by the recipe alone, not by how many are scored at once, since on a
        processor the last digits of a score may depend on it; on a node those that a unit takes.
        """
        if self.runner.name != "local":
            return self.runner.share.cpus
        return max(1, len(os.sched_getaffinity(0)) // self.recipe.require("evaluate").parallel)

    @property
    def clauses(self) -> tuple["Clause", ...]:
        """The gate's clauses, in the recipe's order."""
        from registry.gate import Absolute, Better, Champion, Parent

        gates = self.recipe.require("gates")
        absolute = (Absolute(c.task, c.metric, c.floor, c.ceiling, c.filter) for c in gates.absolute)
        parents = (Parent(c.task, c.metric, c.owner, c.keep, c.margin, c.superior, c.filter) for c in gates.parents)
        champion = (Champion(c.task, c.metric, c.margin, c.filter) for c in gates.champion)
        named = ((c, tuple((one.task, one.metric, one.filter) for one in c.tasks)) for c in gates.better)
        return (*absolute, *parents, *champion, *(Better(c.than, tasks, c.rule) for c, tasks in named))

    @property
    def asks_champion(self) -> bool:
        """Whether a clause compares with the champion."""
        from registry.clauses import asks_champion

        return any(asks_champion(clause) for clause in self.clauses)

    @property
    def registry(self) -> "Registry":
        """Where versions are registered."""
        return registry_at(self.recipe.require("registry").uri, self.workspace)

    @property
    def signing_key(self) -> "SigningKey | None":
        """The key of WIDEN_SIGNING_KEY; None leaves the version unsigned. It never comes from a recipe."""
        from registry.attest.keys import read_key

        asked = settings()
        setting = secret(asked.signing_key)
        return read_key(setting, secret(asked.signing_key_password)) if setting else None

    @property
    def _torch_device(self) -> str:
        if self.runner.name != "local":
            return "cuda" if self.runner.share.gpus else "cpu"
        if self.device == "cpu":
            return "cpu"
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"


def timed(
    station: Callable[Concatenate[Road, Rest], Result],
) -> Callable[Concatenate[Road, Rest], Result]:
    """A station that leaves the seconds it took in its road's `seconds`."""

    @wraps(station)
    def run(road: Road, /, *arguments: Rest.args, **named: Rest.kwargs) -> Result:
        began = monotonic()
        try:
            return station(road, *arguments, **named)
        finally:
            road.seconds[station.__name__] = monotonic() - began

    return run
