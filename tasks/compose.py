"""A model with an adapter on it, written whole for what scores checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.fetch import Fetched
from widen import Checkpoint, Settings
from widen.adapter.whole import whole_digest, write_whole
from widen.checkpoint import holds_adapter


def sides_of(names: Sequence[str], base: Sequence[str], sources: Sequence[Fetched]) -> tuple[str, ...]:
    """The inputs that make a participant of these names: an adapter alone lies on the merge's base, which is `base`.

    The base may have an adapter of its own, and the one alone then lies on both.
    """
    folders = {source.name: source.folder for source in sources}
    return (*base, *names) if holds_adapter(folders[names[0]]) else tuple(names)


def digest_of_participant(sides: Sequence[str], digests: Mapping[str, str]) -> str:
    """An input's own digest, or that of the model that several make."""
    return digests[sides[0]] if len(sides) == 1 else whole_digest([digests[side] for side in sides])


@task(name="compose", task_run_name="compose-{name}", cache_policy=NO_CACHE)
def compose(sources: Sequence[Fetched], settings: Settings, name: str, cache: Path, out: Path) -> Path:
    """Write the participant `name` of the merge of `sources`, the base first, as the checkpoint folder `out`."""
    write_whole([Checkpoint.open(source.folder, source.name) for source in sources], settings, name, out, cache)
    return out
