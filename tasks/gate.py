"""The gate as a task: scorecards in, gate.json out. The arithmetic is registry.gate's."""

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from registry.errors import ChampionMoved, GateError
from registry.gate import Clause, decide
from registry.scorecard import Scorecard
from widen.staging import write_atomically


@task(cache_policy=NO_CACHE)
def gate(
    clauses: tuple[Clause, ...],
    scorecards: dict[str, Path],
    base: str,
    parents: tuple[str, ...],
    merged: str,
    alpha: float,
    out: Path,
    champion: tuple[str, str] | None = None,
) -> Path:
    """Decide on `merged` against `base` and `parents`, all names in `scorecards`; write the decision to `out`.

    `champion` is the name among `scorecards` and the digest of the model to compare with, if there is one. Returns
    `out` whatever the verdict: a FAIL is an answer. Raises GateError when the question cannot be asked, and then writes
    nothing.
    """
    cards = {name: _read(name, scorecards) for name in (merged, base, *parents)}
    incumbent = None if champion is None else _read_champion(*champion, scorecards)
    decision = decide(clauses, cards[merged], cards[base], {name: cards[name] for name in parents}, alpha, incumbent)
    write_atomically(out, (decision.to_json() + "\n").encode())
    return out


def _read_champion(name: str, digest: str, scorecards: Mapping[str, Path]) -> Scorecard:
    card = _read(name, scorecards)
    if card.digest != digest:
        raise ChampionMoved(f"the champion is now {digest}, the scores are of {card.digest}; evaluate it again")
    return card


def _read(name: str, scorecards: Mapping[str, Path]) -> Scorecard:
    if name not in scorecards:
        raise GateError(f"{name}: no scorecard; found {', '.join(sorted(scorecards)) or 'none'}; evaluate it first")
    try:
        card = Scorecard.from_json(scorecards[name].read_text(encoding="utf-8"))
    except OSError as error:
        raise GateError(f"{name}: cannot read its scorecard ({error}); evaluate it first") from error
    if card.model != name:
        raise GateError(f"{scorecards[name]}: expected the scorecard of {name}, found that of {card.model}")
    return card
