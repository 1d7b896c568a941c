"""What each clause of a gate can show with the documents at hand, before any model is scored."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from registry.clauses import Absolute, Better, Clause, Parent
from registry.decision import ClauseResult, Decision
from registry.errors import GateError
from registry.power import DISCORDANT, Power
from tasks.samples import PROPORTIONS

UNKNOWN = "not known before a first run"
ASSUMED = f"{DISCORDANT:.0%} discordant documents assumed"
LAST_RUN = "as in the last run"

log = logging.getLogger(__name__)


def outlook(clauses: Sequence[Clause], documents: Mapping[str, int], last_run: Path, alpha: float) -> tuple[Power, ...]:
    """One value a clause, in order.

    `documents` are by task; those not in it are taken from the decision in the file `last_run`, if there is one, as are
    the variances. Without it, 0/1 metrics are taken to differ on a share `DISCORDANT` of the documents, and nothing is
    known of losses and of a kept share.
    """
    last = _last(last_run)
    counts = {result.task: result.n for result in last} | dict(documents)
    return tuple(_power(clause, counts, last, alpha) for clause in clauses)


def warn(powers: Sequence[Power]) -> None:
    """Log what cannot resolve its margin: said before the hours of scoring, not after them."""
    for power in powers:
        if power.warning is not None:
            log.warning("%s", power.warning)


def may_count(include_path: str | None) -> bool:
    """Whether the documents can be counted without a network that nobody allowed; loads nothing to find out."""
    if include_path is not None or os.environ.get("HF_HUB_OFFLINE", "1").lower() in ("0", "false", "no", "off"):
        return True
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets")).is_dir()


def _last(path: Path) -> tuple[ClauseResult, ...]:
    try:
        return Decision.from_json(path.read_text(encoding="utf-8")).results
    except (OSError, ValueError, GateError):  # none yet, or not ours to read: there is no last run to go by
        return ()


def _power(clause: Clause, counts: Mapping[str, int], last: Sequence[ClauseResult], alpha: float) -> Power:
    tasks = [(task, metric) for task, metric in _tasks(clause)]
    held = [counts.get(task) for task, _ in tasks]
    known = [count for count in held if count is not None]
    documents = min(known) if len(known) == len(held) else None
    zero_one = all(metric in PROPORTIONS for _, metric in tasks)
    if isinstance(clause, Better):
        return _better(clause, known if documents is not None else [], zero_one, alpha)
    result = next((one for one in last if _asked(one.clause) == _asked(str(clause)) and one.variance > 0), None)
    if result is not None:
        return Power(str(clause), documents, result.variance, LAST_RUN, _margin(clause, result), alpha)
    variance = _assumed(clause, zero_one)
    source = UNKNOWN if variance is None else ASSUMED if not isinstance(clause, Absolute) else "of a model at the limit"
    return Power(str(clause), documents, variance, source, getattr(clause, "margin", None), alpha)


def _better(clause: Better, counts: Sequence[int], zero_one: bool, alpha: float) -> Power:
    """For "any", one task at the first step of Holm, the smallest; for "mean", the mean of them all."""
    name, source = str(clause), ASSUMED if zero_one else UNKNOWN
    if clause.rule == "any":
        variance = DISCORDANT if zero_one else None
        return Power(name, min(counts, default=None), variance, source, None, alpha / len(clause.tasks))
    total = sum(counts) or None
    spread = sum(DISCORDANT / count for count in counts) / len(clause.tasks) ** 2
    return Power(name, total, spread * (total or 1) if zero_one and total else None, source, None, alpha)


def _tasks(clause: Clause) -> Iterator[tuple[str, str]]:
    if isinstance(clause, Better):
        yield from ((task, metric) for task, metric, _ in clause.tasks)
    else:
        yield clause.task, clause.metric


def _asked(text: str) -> str:
    """A clause's text without its limit: the variance does not depend on that, but does on the share to keep."""
    for word in (" margin ", " floor ", " ceiling "):
        text = text.partition(word)[0]
    return text


def _margin(clause: Clause, result: ClauseResult) -> float | None:
    """The clause's own margin, which may have changed since; of a kept share, what the owner's gain made of it."""
    own: float | None = getattr(clause, "margin", None)
    return result.margin if own is None else own


def _assumed(clause: Clause, zero_one: bool) -> float | None:
    if not zero_one or (isinstance(clause, Parent) and clause.keep is not None):
        return None
    if isinstance(clause, Absolute):
        limit = clause.floor if clause.floor is not None else clause.ceiling
        return limit * (1.0 - limit) if limit is not None and 0 < limit < 1 else None
    return DISCORDANT
