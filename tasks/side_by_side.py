"""Models scored at once: missing scores as units, divided by cost, done here, by slots, or on a cluster's nodes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import replace
from typing import Any, Protocol

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.cluster import Runner
from tasks.evaluate import count_documents
from tasks.kept_scores import at_hand
from tasks.scoring import Answers, Unit, score, score_away
from tasks.scoring_cost import load_seconds, task_seconds, weight_of
from tasks.scoring_plan import plan
from tasks.slots import Slots, opened
from tasks.spread import Units, hand_out
from tasks.task_definitions import Definition
from widen.errors import EnvironmentFault
from widen.staging import write_atomically

Ticket = Any
Call = Callable[..., Any]


class Scorers(Protocol):
    """Who does units, `slots` at a time."""

    @property
    def slots(self) -> int: ...  # noqa: D102

    def submit(self, unit: Unit) -> Ticket:
        """Begin a unit as soon as there is room. Where there is one slot, it is done on return."""

    def first(self, tickets: Sequence[Ticket]) -> Ticket:
        """Wait for one of these units to end, and return it. Raises what it raised, as `tasks.scoring.score` does."""


Body = Callable[[Scorers], None]


@task(name="score", task_run_name="{unit}", cache_policy=NO_CACHE)
def score_unit(unit: Unit, do: Callable[[Unit], object]) -> None:
    """A unit on this machine, by this process or one that it waits for."""
    do(unit)


@task(name="score", cache_policy=NO_CACHE)
def score_on_node(unit: Unit, harness: str) -> Answers:
    """A unit on a node of a cluster."""
    return score_away(unit, harness)


def divided(models: Sequence[Unit], slots: int) -> list[Unit]:
    """Units of what is not at hand of `models`, the longest first; with one slot a unit a model, in their order.

    Scores that two of them share are asked once.
    """
    asked = [(one, tasks) for one, tasks in _lacking(models) if tasks]
    if slots == 1 or not asked:
        return [_unit(one, [task.task for task in tasks]) for one, tasks in asked]
    first = models[0]
    documents = count_documents(first.settings, first.cache)
    weights = [weight_of(one.folder) for one, _ in asked]
    costs = [
        (load_seconds(weight), task_seconds(tasks, documents, one.settings, weight, one.cache))
        for (one, tasks), weight in zip(asked, weights, strict=True)
    ]
    return [_unit(asked[piece.model][0], list(piece.tasks)) for piece in plan(costs, slots)]


def all_scored(scorers: Scorers, units: Sequence[Unit], done: Callable[[Unit], None]) -> None:
    """Have every unit done; tells each as it ends. Raises what the first that failed raised."""
    waiting, out = list(reversed(units)), list[tuple[Ticket, Unit]]()
    at_once = len(units) if scorers.slots > 1 else 1
    while waiting or out:
        while waiting and len(out) < at_once:
            unit = waiting.pop()
            out.append((scorers.submit(unit), unit))
        ended = scorers.first([ticket for ticket, _ in out])
        done(next(unit for ticket, unit in out if ticket == ended))
        out = [(ticket, unit) for ticket, unit in out if ticket != ended]


def _lacking(models: Sequence[Unit]) -> list[tuple[Unit, list[Definition]]]:
    seen: set[str] = set()
    found = []
    for model in models:
        named = {model.kept(one, one.digest()).name: one for one in model.missing()}
        found.append((model, [one for name, one in named.items() if name not in seen]))
        seen |= named.keys()
    return found


def _unit(model: Unit, tasks: list[str]) -> Unit:
    return replace(model, tasks=tuple(tasks))


# ---------------------------------------------------------------- on this machine


class Here:
    """This process, one unit after the other. call: how a task is run."""

    slots = 1

    def __init__(self, call: Call) -> None:
        self._call = call

    def submit(self, unit: Unit) -> Ticket:
        """Done on return."""
        self._call(score_unit, unit, score)
        return unit

    def first(self, tickets: Sequence[Ticket]) -> Ticket:
        """All are done."""
        return tickets[0]


def beside(environments: Sequence[Mapping[str, str]], call: Call, body: Body) -> None:
    """Call `body` with a process of this machine for each of `environments`; all are gone when it has ended."""
    if len(environments) == 1:
        body(Here(call))
        return
    with opened(environments) as slots:
        pool = ThreadPoolExecutor(len(environments), "score")
        try:
            body(_Beside(slots, pool, len(environments), call))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            slots.close()  # no thread waits for a process any longer
            pool.shutdown()


class _Beside:
    def __init__(self, processes: Slots, pool: ThreadPoolExecutor, slots: int, call: Call) -> None:
        self._processes, self._pool, self.slots, self._call = processes, pool, slots, call

    def submit(self, unit: Unit) -> Ticket:
        # A thread starts without the run that it belongs to; the copied context tells Prefect.
        return self._pool.submit(copy_context().run, self._call, score_unit, unit, self._processes.run)

    def first(self, tickets: Sequence[Ticket]) -> Ticket:
        ended: set[Future[Any]] = wait(tickets, return_when=FIRST_COMPLETED).done
        found = next(one for one in tickets if one in ended)
        found.result()
        return found


# ---------------------------------------------------------------- on a cluster


def on_cluster(runner: Runner, slots: int | None, body: Body) -> None:
    """Call `body` with the nodes of `runner`. slots: how many units it is to count on; None for what there is room for.

    Raises as `tasks.spread.spread` does, and EnvironmentFault where a node asked by other data than lie here.
    """
    asked: list[Unit] = []

    def take(position: int, answers: Answers) -> None:
        unit = asked[position]
        for name, content in answers.files.items():
            if at_hand(unit.cache / name) is None:
                write_atomically(unit.cache / name, content)
        if left := unit.missing():
            raise EnvironmentFault(
                f"{unit}: the node {answers.node} has other data of {', '.join(one.task for one in left)} than this "
                "machine; let all nodes see the same HF_HOME, or fetch the data sets here too"
            )

    hand_out(score_on_node, runner, lambda units: body(_Nodes(units, slots or units.room, asked)), take, twice=False)


class _Nodes:
    def __init__(self, units: Units, slots: int, asked: list[Unit]) -> None:
        self._units, self.slots, self._asked = units, slots, asked

    def submit(self, unit: Unit) -> Ticket:
        self._asked.append(unit)
        return self._units.submit((unit, unit.settings.measured_by()), str(unit))

    def first(self, tickets: Sequence[Ticket]) -> Ticket:
        return self._units.first(tickets)
