"""`widen simulate`: what a merge would take on so many nodes, before there is one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.amounts import parse_amounts
from flows.merge import MergeOptions, allow_config, open_inputs, parse_size
from flows.profile_picture import require_picture
from flows.recipe import load_recipe
from flows.simulate_options import NODE, OVERHEAD, STORAGE, UNIT, parse_nodes
from widen.checks import refuse
from widen.errors import RecipeError
from widen.outlook import rates_at
from widen.simulation.cluster import Cluster, Node, Place, Rates, Storage, UnitShare
from widen.simulation.demand import START, TAIL, UNITS
from widen.simulation.forecast import Forecast, forecast, useful
from widen.simulation.run import play
from widen.simulation.sizes import SIZES
from widen.simulation.work import MergeWork, work_of, work_of_shapes
from widen.workbench import planned

ON_A_CLUSTER = Rates(start=14.0, worker=4.0, unit=0.3)
"""Seconds that starting a cluster, a worker and a unit took where this was measured (docs/scaling.md)."""
HEAD = ("nodes", "workers", "time", "speed-up", "bound by", "read", "twice", "network", "memory", "disk", "cost")
REMEDIES = {
    TAIL: "there are too few units, or too large ones: a smaller --shard-size makes more",
    START: "starting takes most of the time: keep a cluster running, or use fewer nodes",
    UNITS: "units are too small: a larger --shard-size makes fewer",
    "storage latency": "more requests at a time, or larger parts",
    "storage read": "the storage gives no more: fewer nodes, or copies of the inputs on their disks (--inputs disk)",
    "storage write": "the storage takes no more: fewer nodes cost less and end as soon",
    "network in": "each node's network: more of them, or with a faster network",
    "network out": "each node's network: more of them, or with a faster network",
    "disk read": "each node's disk: faster ones, or more nodes",
    "disk write": "each node's disk: faster ones, or more nodes",
    "processors": "processors: more of them a unit or a node",
    "pcie": "bytes to and from the GPU: more GPUs, or none, since processors are not what is waited for",
    "gpu": "the GPU's kernels: more GPUs",
}


@dataclass(frozen=True)
class Asked:
    """What the command line says, as typed."""

    size: str | None
    models: int
    nodes: str
    node: str | None
    storage: str | None
    unit: str | None
    overhead: str | None
    inputs: str
    file_digests: bool
    slow: float | None
    lost: float | None
    gain: float


def simulate(recipe: Path | None, asked: Asked, options: MergeOptions, picture: Path | None) -> None:
    """Print the table, what bounds each line and how many nodes are useful; draw the curve."""
    if picture is not None:
        require_picture(picture)
    merge, counts = _work(recipe, asked, options), parse_nodes(asked.nodes)
    cache = options.resources.cache
    rates, rates_of = rates_at(Path(cache) if cache else None)
    overhead = parse_amounts("--overhead", asked.overhead, OVERHEAD)
    cluster = _cluster(asked, replace(ON_A_CLUSTER, stages=rates, **overhead))
    print("\n".join([*_told(merge, cluster, rates_of), _row(HEAD)]), flush=True)
    lines: list[Forecast] = []
    for line in forecast(merge, cluster, counts):
        lines.append(line)
        print(_row(_cells(line, lines[0])), flush=True)
    best = useful(lines, asked.gain)
    print(f"useful      {best.nodes} node{'s' * (best.nodes > 1)}: {_why(best, lines, asked.gain)}")
    if picture is not None:
        from flows.simulate_picture import draw

        draw(lines, best, _title(recipe, asked, merge), picture)
        print(f"drawn       {picture}")


def _work(recipe: Path | None, asked: Asked, options: MergeOptions) -> MergeWork:
    if (recipe is None) == (asked.size is None):
        raise RecipeError("widen simulate: expected a recipe or --size, one of both")
    if asked.size is not None:
        if asked.size not in SIZES:
            raise RecipeError(f"--size {asked.size!r} is unknown; expected one of {', '.join(SIZES)}")
        shard = parse_size("shard size", options.shard_size) if options.shard_size else None
        return work_of_shapes(SIZES[asked.size].shapes(), asked.models, 2, shard, asked.file_digests)
    assert recipe is not None
    found = load_recipe(recipe)
    inputs = open_inputs(found, options.workspace)
    with planned(inputs, options.settings(found), allow_config(found), options.resources) as (plan, problems):
        refuse(problems)
        return work_of(plan, asked.file_digests)


def _cluster(asked: Asked, rates: Rates) -> Cluster:
    """The nodes that are named: one that is slow, one that will be lost, then all others alike."""
    node = Node(**parse_amounts("--node", asked.node, NODE))
    named = [node]
    named += [replace(node, speed=node.speed * asked.slow)] if asked.slow is not None else []
    named += [replace(node, lost=asked.lost)] if asked.lost is not None else []
    storage = Storage(**parse_amounts("--storage", asked.storage, STORAGE))
    unit = UnitShare(**{"cpus": min(4, node.cpus), **parse_amounts("--unit", asked.unit, UNIT)})
    if unit.cpus < 1:
        raise RecipeError("--unit cpus: expected at least 1, found 0")
    return Cluster((*named, node), unit, storage, rates, _place(asked.inputs))


def _place(text: str) -> Place:
    if text == "disk":
        return "disk"
    if text == "storage":
        return "storage"
    raise RecipeError(f"--inputs {text!r}: expected storage, or disk for a copy of all inputs on every node")


def _told(merge: MergeWork, cluster: Cluster, rates_of: str) -> Iterator[str]:
    node, storage, last = cluster.nodes[0], cluster.storage, cluster.nodes[-1]
    units = f"{len(merge.files)} units, the largest {max(one.write for one in merge.files) / 1e9:.2f} GB"
    yield f"merge       reads {merge.inputs / 1e9:.1f} GB, writes {merge.write / 1e9:.1f} GB; {units}"
    yield (
        f"node        {node.cpus} processors (together as {node.processors:g}), {node.memory / 1e9:g} GB; GB a second: "
        f"network {node.network / 1e9:g}, disk {node.read / 1e9:g} and {node.write / 1e9:g}"
        + (f"; {node.gpus} GPUs, PCIe {node.pcie / 1e9:g}, kernels {node.kernel / 1e9:g}" if node.gpus else "")
    )
    yield (
        f"storage     all nodes together read {storage.read / 1e9:g} GB a second and write {storage.write / 1e9:g}, "
        f"{storage.latency * 1000:g} ms a request"
    )
    yield f"rates       of {rates_of}; a unit on {cluster.unit.cpus} processors; inputs on the {cluster.inputs}"
    whole = UnitShare(last.cpus, last.gpus)
    rates = replace(cluster.rates, start=Rates().start)
    alone = play(merge, replace(cluster, nodes=(last,), unit=whole, rates=rates, alone=True))
    yield f"one process {_time(alone.seconds)} on one such node by its own lanes (--runner local), by {alone.bound}"


def _cells(line: Forecast, first: Forecast) -> tuple[str, ...]:
    sizes = (line.read, line.twice, line.network, line.memory, line.disk)
    return (
        str(line.nodes), str(line.workers), _time(line.seconds), f"{first.seconds / line.seconds:.1f}", line.bound,
        *(f"{size / 1e9:,.1f}" for size in sizes), f"{line.cost:,.2f}",
    )  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    widths = (5, 8, 9, 9, -27, 9, 8, 9, 7, 8, 9)
    return "".join(
        f"{cell:>{width}}" if width > 0 else f"  {cell:<{-width}}" for cell, width in zip(cells, widths, strict=True)
    )


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.1f} min"


def _why(best: Forecast, lines: Sequence[Forecast], gain: float) -> str:
    if best is max(lines, key=lambda line: line.nodes):
        return f"the most that was asked about; more may gain more ({best.bound})"
    later = min(line.seconds for line in lines if line.nodes > best.nodes)
    saved = max(0.0, 1 - later / best.seconds)
    after = next(line for line in sorted(lines, key=lambda line: line.nodes) if line.nodes > best.nodes)
    remedy = REMEDIES.get(after.bound, after.bound)
    return f"more save {saved:.0%} of the time at most, under the {gain:.0%} asked for. From there: {remedy}"


def _title(recipe: Path | None, asked: Asked, merge: MergeWork) -> str:
    what = recipe.stem if recipe else f"{SIZES[asked.size or ''].model} with {asked.models} models"
    return f"{what}: reads {merge.inputs / 1e9:,.0f} GB, writes {merge.write / 1e9:,.0f} GB"
