"""`widen compare`: methods held against each other on a recipe's own models, the winner put to the recipe's gate."""

import json
import logging
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.compare import result as results
from flows.compare.bench import Bench
from flows.compare.plan import Plan, plan_of, said_defaults
from flows.compare.result import Reference, Result, Tried, figures_of, labels_shown, ranked
from flows.compare.search import Contest
from flows.compare.write import require_free, require_replaceable, write_recipe
from flows.environment import prepare
from flows.recipe import Recipe
from flows.recipe.methods import settings_of
from flows.road import CHAMPION, Road, plainly
from flows.scoring import with_scorers
from widen.staging import write_atomically

if TYPE_CHECKING:
    from registry.comparison_run import ComparisonRun, Entry
    from registry.decision import Decision
    from registry.scorecard import Scorecard
    from tasks.side_by_side import Scorers

QUIET = ("dvc", "filelock", "httpx", "mlflow", "tasks.evaluate", "tasks.scoring")
FEW = 30
"""Documents under which t intervals of linearised figures do not hold what they say."""
DECISION, RESULT, PICTURE = "gate.json", "comparison.json", "comparison"


@dataclass(frozen=True)
class Asked:
    """What the command line says: methods and trials in place of the recipe's, and where to write the winner."""

    methods: tuple[str, ...] | None
    trials: int | None
    write: Path | None


def compare_recipe(recipe_file: Path, workspace: Path, device: str, asked: Asked) -> None:
    """Compare, print the table and the gate's verdict on the winner, and say where all of it lies.

    Nothing is registered or promoted. Raises RecipeError before any work for a method that does not fit or a file that
    is there already, and KeyboardInterrupt, after a line that says how to go on, on Ctrl-C.
    """
    if asked.write is not None:
        require_free(asked.write)
    prepare(workspace.resolve())
    _quieten()
    road = Road.open(recipe_file, workspace, device, plainly)
    plan = plan_of(road.recipe, asked.methods, asked.trials)
    if asked.write is not None:
        require_replaceable(road.recipe, asked.write)
    _require_registry(road)
    _say_plan(plan, road.recipe)
    from tasks.run_lock import run_lock

    try:
        with run_lock(road.workspace, f"the comparison of {road.recipe.name}"):
            with_scorers(road, partial(_compare, road, plan, asked.write))
    except KeyboardInterrupt:
        again = shlex.join(sys.argv[1:])
        print(f"widen: stopped; what was scored is kept, and the same command goes on: widen {again}", file=sys.stderr)
        raise


def _compare(road: Road, plan: Plan, write: Path | None, scorers: "Scorers") -> None:
    bench = Bench.open(road, plan, scorers)
    _say_room(bench)
    try:
        _compare_on(bench, write)
    finally:
        bench.close()


def _compare_on(bench: Bench, write: Path | None) -> None:
    from registry.comparison_run import comparison_run

    road, plan = bench.road, bench.plan
    contest, cards = _contest(bench)
    name = road.recipe.require("registry").name
    with comparison_run(road.registry, name, _identity(contest), _params(plan, road), bench.digests) as run:
        result = _held(contest, cards, run)
        decision = _judge(bench, result.winner, cards, run)
        folder = _recorded(road, result, decision, run)
    _show(bench, result, decision, folder)
    if write is not None:
        write_recipe(road.recipe, result.winner, write)
        print(
            f"\n{write} is the recipe with the winner's merge section; widen run {shlex.quote(str(write))} takes it on"
        )


def _quieten() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for noisy in QUIET:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("tasks.run_lock").setLevel(logging.INFO)  # for whom this waits


def _require_registry(road: Road) -> None:
    """Raise now, before hours of work, where nothing could be recorded or decided."""
    from registry.store import probe

    _ = road.evaluation, road.clauses
    if road.registry.database is None:
        probe(road.registry.uri)


def _say_plan(plan: Plan, recipe: Recipe) -> None:
    _say(f"compare: {len(plan.methods)} methods at their defaults: {', '.join(plan.methods)}")
    if plan.spaces:
        _say(f"compare: {plan.trials} trials each by search: {', '.join(plan.spaces)}")
    for line in said_defaults(plan, recipe):
        _say(f"compare: has no default, so by ours: {line}")
    for name, reason in plan.left_out.items():
        _say(f"compare: left out {name}: {reason}")


def _say_room(bench: Bench) -> None:
    if bench.scorers.slots > 1:
        _say(
            f"compare: {bench.scorers.slots} candidates are scored at a time while the next is merged; at most "
            f"{bench.room} lie on the disk, {bench.weight / 1e9:.1f} GB each"
        )


def _contest(bench: Bench) -> "tuple[Contest, dict[str, dict[str, Scorecard]]]":
    """The base and the parents scored on both sides, and what candidates are held against."""
    from registry.clauses import Parent

    recipe, cards = bench.road.recipe, bench.references()
    clauses = tuple(one for one in bench.road.clauses if isinstance(one, Parent))
    parents = {name: cards["selection"][name] for name in recipe.parents}
    base = cards["selection"][recipe.base]
    results.shares_of(clauses, base, base, parents)  # refuses an owner without a gain, before anything is merged
    # Known once all is fetched, a task's data set included.
    return Contest(bench, clauses, base, parents, recipe.require("gates").alpha, bench.identity()), cards


def _identity(contest: Contest) -> str:
    """What the registry's run is of: also alpha and the merge section, which the searches' identity lacks."""
    from registry.scorecard import canonical, sha256

    plan, recipe = contest.bench.plan, contest.bench.road.recipe
    return sha256(canonical([contest.identity, plan.content(), contest.alpha, recipe.digest]))


def _held(contest: Contest, cards: "Mapping[str, Mapping[str, Scorecard]]", run: "ComparisonRun") -> Result:
    """Every candidate merged, scored and recorded; the methods in order."""
    from widen.errors import InputsRefused

    tried: list[Tried] = []
    failed: dict[str, str] = {}
    for one in contest.candidates(failed):
        tried.append(one)
        run.record(_entry(one, contest.base))
    if not tried:
        raise InputsRefused(f"no method could merge and score these models; the first: {next(iter(failed.values()))}")
    methods = contest.bench.plan.methods
    tried.sort(key=lambda one: (methods.index(one.method), -1 if one.candidate.trial is None else one.candidate.trial))
    rows, level = ranked(tried, contest.alpha)
    base = cards["selection"][contest.base.model]
    labels = [one.label for one in base.tasks]
    return Result(
        name=contest.bench.road.recipe.name,
        alpha=contest.alpha,
        level=level,
        documents={
            side: {one.label: len(one.documents) for one in held[base.model].tasks} for side, held in cards.items()
        },
        rows=tuple(rows),
        references=_references(contest, cards["selection"]),
        failed=failed,
        better={one.label: one.higher_is_better for one in base.tasks},
        shown=labels_shown(labels, _asked_labels(contest.bench.road, base)),
        warnings=tuple(_warnings(contest)),
    )


def _references(contest: Contest, cards: "Mapping[str, Scorecard]") -> tuple[Reference, ...]:
    from registry.kept_share import mean_kept

    return tuple(
        Reference(
            name,
            mean_kept(results.shares_of(contest.clauses, card, contest.base, contest.parents)).value,
            figures_of(card, contest.alpha),
        )
        for name, card in cards.items()
    )


def _asked_labels(road: Road, base: "Scorecard") -> list[str]:
    from registry.clauses import Better

    asked = set()
    for clause in road.clauses:
        named = clause.tasks if isinstance(clause, Better) else ((clause.task, clause.metric, clause.filter),)
        asked |= {(task, metric) for task, metric, _ in named}
    return [one.label for one in base.tasks if (one.task, one.metric) in asked]


def _warnings(contest: Contest) -> list[str]:
    from registry.kept_share import gain_is_clear

    told = "gain over the base is not clear of zero on the selection documents, so shares of it say little"
    unclear = [
        clause
        for clause in contest.clauses
        if not gain_is_clear(clause, contest.base, contest.parents[clause.owner], contest.alpha)
    ]
    few = [f"{one.label}: {len(one.documents)}" for one in contest.base.tasks if len(one.documents) < FEW]
    short = [f"few documents, so the intervals are too short: {', '.join(few)}"] if few else []
    return [f"{clause}: {clause.owner}'s {told}" for clause in unclear] + short


def _entry(one: Tried, asked: "Scorecard") -> "Entry":
    """For the record; `asked` is of a model that was asked the same questions."""
    from registry.comparison_run import Entry, name_of_score
    from registry.scorecard import canonical

    settings = settings_of(one.candidate.merge).digest
    given = {key: canonical(value) for key, value in one.candidate.parameters.items()}
    params = {"method": one.method, **given}
    figures = {"objective": one.objective.value, "objective_lower": one.objective.lower}
    figures["objective_upper"] = one.objective.upper
    scores = {name_of_score(task, "selection"): one.scores[task.label].value for task in asked.tasks}
    return Entry(_key(one), _name(one), one.digest, settings, params, figures | scores)


def _name(one: Tried) -> str:
    trial = one.candidate.trial
    return one.method if trial is None else f"{one.method}-{trial + 1}"


def _key(one: Tried) -> str:
    return f"{_name(one)}-{one.key}"


def _judge(
    bench: Bench, winner: Tried, cards: "Mapping[str, Mapping[str, Scorecard]]", run: "ComparisonRun"
) -> "Decision":
    """The recipe's own gate on the winner, on the documents that did not choose it."""
    from registry.comparison_run import scores_of
    from registry.gate import decide

    road, recipe, held = bench.road, bench.road.recipe, cards["gate"]
    merged = bench.begin(winner.candidate, "gate", bench.scorers.slots)()
    parents = {name: held[name] for name in recipe.parents}
    champion = _champion(bench, merged.digest)
    decision = decide(road.clauses, merged.card, held[recipe.base], parents, recipe.require("gates").alpha, champion)
    run.judged(_key(winner), scores_of(merged.card, "gate"))
    return decision


def _champion(bench: Bench, digest: str) -> "Scorecard | None":
    """The registry's champion on the gate's documents, where the gate asks for one."""
    from tasks.champion import fetch_champion, find_champion
    from tasks.evaluate import is_scored

    road = bench.road
    if not road.asks_champion:
        return None
    found = plainly(find_champion, road.registry, road.recipe.require("registry").name, digest)
    if found is None:
        return None
    folder = temporary = road.cache / CHAMPION
    try:
        if not is_scored(found.digest, bench.evaluation("gate"), bench.kept):
            folder = plainly(fetch_champion, road.registry, found, temporary)
        return bench.scored(CHAMPION, folder, found.digest, "gate")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _params(plan: Plan, road: Road) -> dict[str, str]:
    return {
        "methods": ", ".join(plan.methods),
        "searched": ", ".join(plan.spaces),
        "trials": str(plan.trials),
        "selection": f"{plan.selection:g}",
        "seed": str(plan.seed),
        "alpha": f"{road.recipe.require('gates').alpha:g}",
        "recipe": road.recipe.digest,
    }


def _recorded(road: Road, result: Result, decision: "Decision", run: "ComparisonRun") -> Path:
    """Table, verdict and picture beside the recipe's other runs, and with the registry's run; returns the folder."""
    from flows.compare.picture import draw

    folder = road.run_folder / "compare"
    content = result.content() | {"verdict": str(decision.verdict)}
    write_atomically(folder / RESULT, (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(folder / DECISION, (decision.to_json() + "\n").encode())
    draw(result, folder / PICTURE)
    files = {name: folder / name for name in (RESULT, DECISION, f"{PICTURE}.svg", f"{PICTURE}.png")}
    best = result.winner.objective
    figures = {"objective": best.value, "objective_lower": best.lower, "objective_upper": best.upper}
    run.finish(figures, files, {"recipe.yaml": road.recipe.text})
    return folder


def _show(bench: Bench, result: Result, decision: "Decision", folder: Path) -> None:
    from flows.compare.table import print_table

    print_table(result)
    counts = ", ".join(f"{label} {count}" for label, count in result.documents["gate"].items())
    print(
        f"\nThe recipe's gate on the winner ({result.winner.method}), by documents that did not choose it ({counts}):"
    )
    for line in decision.lines():
        print(f"  {line}")
    work = bench.work
    done = (
        f"{len(work.merged)} merges made, {len(work.scored)} times a model was scored"
        if work.scored
        else (f"nothing to merge or score: all {result.candidates} candidates are at hand")
    )
    print(f"\n{done}. Nothing was registered or promoted.")
    print(
        f"table, verdict and picture: {folder / RESULT}, {folder / PICTURE}.png; all candidates: {_where(bench.road)}"
    )


def _where(road: Road) -> str:
    return f"the experiment {road.recipe.require('registry').name}.compare in {road.registry.uri}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
