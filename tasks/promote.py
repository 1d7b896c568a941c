"""Promotion as a task: the gate's file and a version in, the champion alias moved or the reason why not."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.decision import Decision
from registry.errors import GateError
from registry.promotion import Promotion
from registry.promotion import promote as promote_version
from registry.store import Registry
from tasks.register import is_unreachable

REASON = "the gate passed"


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[2, 8], retry_condition_fn=is_unreachable)
def promote(
    registry: Registry, name: str, version: int, decision: Path, by: str, flow_run: str | None = None
) -> Promotion:
    """Make `version` of `name` the champion if the decision in `decision` passed and is that version's own.

    `by` is who started the run, `flow_run` its identity; both go into the history. Raises PromotionRefused when it did
    not pass or is not the version's own, HistoryAltered when the history has faults, GateError without such a file.
    """
    try:
        text = decision.read_text(encoding="utf-8")
    except OSError as error:
        raise GateError(f"{decision}: cannot read the gate's decision ({error}); run the gate first") from error
    judged = Decision.from_json(text)
    return promote_version(registry, name, version, judged, by=by, reason=REASON, flow_run=flow_run)
