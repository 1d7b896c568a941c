"""Measure what every model changed of the base, column by column: pass 1 as a task."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.artifacts import key_of
from tasks.fetch import Fetched
from tasks.flow_progress import flow_progress
from widen import Checkpoint, Resources, Settings, inspect
from widen.progress import Together, progress_on
from widen.staging import write_atomically


@task(name="measure", cache_policy=NO_CACHE)
def measure(
    sources: Sequence[Fetched], settings: Settings, allow_config: Sequence[str], device: str, cache: Path, out: Path
) -> Path:
    """Measure the models in `sources`, the base first, and write `out`: inputs with digests, summaries, problems.

    settings: of the merge, which say what is compared with what: layers stacked anew, rows aligned, adapters laid on.

    The folder of `out` bears the recipe's name. What was measured before, under the same digests, comes from `cache`.
    Raises InputsRefused for a checkpoint that cannot be read safely; everything else that is wrong is written down for
    the validation.
    """
    base, *models = (Checkpoint.open(source.folder, source.name) for source in sources)
    with flow_progress(key_of(out.parent.name, "measure")) as told:
        found = inspect(
            base,
            models,
            settings=settings,
            allow_config=allow_config,
            file_digests=True,
            resources=Resources(device, cache=cache),
            progress=Together(progress_on(), told),
        )
    content = {
        "inputs": [asdict(one) for one in found.inputs],
        "models": [summary.to_json() for summary in found.summaries],
        "problems": [asdict(problem) for problem in found.problems],
    }
    write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
    return out
