"""What a run came to, for the ledger of its recipe: made from what it returned or raised."""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from flows.follow.server import flow_run_id
from flows.road import REPORT, Road
from tasks.ledger import ledger_lock, read_ledger, write_ledger
from tasks.updates import Outcome, Update, ended, noted, recipe_of
from tasks.upstream import Pin, Upstream

if TYPE_CHECKING:
    from registry.promotion import Promotion
    from registry.registration import Registered
    from tasks.fetch import Fetched

_REFUSALS = frozenset({2, 3, 4})
_ENVIRONMENT = 5
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS})


@dataclass(frozen=True)
class Arrival:
    """A run that went the whole road: its version, and whether the champion moved."""

    registered: "Registered"
    promotion: "Promotion"

    @property
    def outcome(self) -> Outcome:
        """Promoted, or unchanged where the champion is this version already."""
        version, run = self.registered.version, flow_run_id()
        if self.promotion.moved:
            return Outcome("promoted", time(), f"version {version} is the champion", flow_run=run, version=version)
        return Outcome("unchanged", time(), f"version {version} is the champion already", flow_run=run, version=version)


def update_by_hand(road: Road, sources: tuple["Fetched", ...]) -> Update | None:
    """The update that a run by hand is of, noted as what upstream holds now; None where a content is not known."""
    pins = {one.name: Pin(one.rev, one.commit, one.upstream) for one in sources if one.upstream is not None}
    if len(pins) < len(sources):
        return None
    found = [Upstream(name, "same", pin, "") for name, pin in pins.items()]
    path = recipe_path(road.recipe.path, road.workspace)
    with ledger_lock(road.workspace):
        ledger = read_ledger(road.workspace, road.recipe.name)
        seen = noted(ledger, road.sources, found, road.recipe.digest, path, time())
        write_ledger(road.workspace, seen)
    return seen.update


def recipe_path(file: Path, workspace: Path) -> str:
    """A recipe's file, relative to the workspace where it lies inside."""
    file = file.resolve()
    return str(file.relative_to(workspace) if file.is_relative_to(workspace) else file)


def remembered(road: Road, update: Update, run: Callable[[], Arrival]) -> Arrival:
    """What `run` returns or raises, with its outcome in the ledger. An interruption leaves the ledger as it was."""
    try:
        arrival = run()
    except Exception as error:
        remember(road.workspace, update, failure(error, road))
        raise
    remember(road.workspace, update, arrival.outcome)
    return arrival


def remember(workspace: Path, update: Update, outcome: Outcome) -> None:
    """Write an outcome into the ledger."""
    with ledger_lock(workspace):
        write_ledger(workspace, ended(read_ledger(workspace, recipe_of(update.id)), update, outcome))


def failure(error: Exception, road: Road | None) -> Outcome:
    """What an error makes of its update: held where the same inputs would end so again, else failed.

    `road` says how far the run came.
    """
    version = None if road is None else registered_version(road)
    run, reason = flow_run_id(), str(error) or type(error).__name__
    if _will_pass(error, road):
        return Outcome("failed", time(), reason, transient=True, flow_run=run, version=version)
    if getattr(error, "exit_code", 1) in _REFUSALS:
        return Outcome("held", time(), reason, flow_run=run, version=version)
    return Outcome("failed", time(), f"a bug of ours: {type(error).__name__}: {reason}", flow_run=run, version=version)


def _will_pass(error: Exception, road: Road | None) -> bool:
    """Whether another attempt may end otherwise: the machine, a server, or a champion that moved meanwhile."""
    from httpx import TransportError
    from prefect.exceptions import PrefectHTTPStatusError

    from registry.errors import ChampionMoved, PromotionRefused

    if isinstance(error, PromotionRefused):
        return road is not None and _verdict(road) == "PASS"  # another promotion came first
    if isinstance(error, TransportError | PrefectHTTPStatusError | ConnectionError | TimeoutError | ChampionMoved):
        return True
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return getattr(error, "exit_code", 1) == _ENVIRONMENT


def registered_version(road: Road) -> int | None:
    """The version that this run registered; None where it did not come so far."""
    if "promote" not in road.seconds:  # the station after
        return None
    version: int = json.loads((road.run_folder / "registered.json").read_bytes())["version"]
    return version


def _verdict(road: Road) -> str:
    verdict: str = json.loads((road.run_folder / "gate.json").read_bytes())["verdict"]
    return verdict


def told(road: Road | None, update: Update, outcome: Outcome) -> dict[str, str]:
    """An outcome in the words of an event; each key is there, if only with nothing to say."""
    page = None if road is None or outcome.version is None else road.run_folder / REPORT
    return {
        "update": update.id,
        "recipe": recipe_of(update.id),
        "reason": outcome.reason,
        "version": "" if outcome.version is None else str(outcome.version),
        "report": "" if page is None or not page.is_file() else str(page),
        "moved": "\n".join(update.moved),
    }
