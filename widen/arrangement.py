"""From folders and settings to a plan that can be merged: what is opened, viewed, planned and checked first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from widen.adapter import composed
from widen.checkpoint import Checkpoint
from widen.checks import Problem, structure_problems
from widen.overlay import Overlays, open_overlays
from widen.plan import MergePlan, make_plan
from widen.progress import Progress, silent
from widen.remote.cache import RemoteCache
from widen.settings import Settings
from widen.vocabulary.aligned import aligned

Folder = str | Path


@contextmanager
def arranged(
    sources: Sequence[Folder | Checkpoint],
    settings: Settings,
    allow_config: Sequence[str] = (),
    overlays: Path | None = None,
    architectures: Path | None = None,
    progress: Progress = silent,
    remote: RemoteCache | None = None,
) -> Iterator[tuple[MergePlan, list[Problem]]]:
    """The plan of a merge of `sources`, the base first, and why it would be refused; good for the length of the block.

    overlays, architectures: where computed tensors and descriptions of architectures are kept, None for nowhere.
    remote: where what is fetched of a source in a storage is. Raises InputsRefused, RecipeError and EnvironmentFault as
    `widen.merge` does.
    """
    inputs = [source if isinstance(source, Checkpoint) else Checkpoint.open(source, cache=remote) for source in sources]
    with open_overlays(overlays, progress) as made:
        base, *models = participants(inputs, settings, made, architectures)
        plan = make_plan(base, models, settings, architectures)
        is_aligned = settings.tokenizer is not None
        problems = structure_problems(
            base, models, plan.tied, allow_config, architectures, plan.stacked, is_aligned=is_aligned
        )
        yield plan, problems


def participants(
    inputs: Sequence[Checkpoint], settings: Settings, overlays: Overlays, architectures: Path | None = None
) -> list[Checkpoint]:
    """The checkpoints that take part, the base first: the inputs, or views of them where the settings ask for one."""
    models = composed(inputs, settings.composed, overlays, architectures)
    if settings.tokenizer is not None:
        return aligned(models, settings.tokenizer, overlays, architectures)
    return models
