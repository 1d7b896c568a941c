"""What a merge would take on more and more nodes, and on how many it still pays."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from widen.outlook import PROCESS_BYTES
from widen.simulation.cluster import Cluster
from widen.simulation.run import bounds, play
from widen.simulation.work import MergeWork


@dataclass(frozen=True)
class Forecast:
    """One line of the table. Bytes and seconds. least: what no order of units could beat. network: over all nodes'
    wires. twice: read more than once, for shared tensors, file digests and lost nodes. memory: anonymous, of one node.
    disk: of one node. cost: in the currency of the node's price.
    """

    nodes: int
    workers: int
    seconds: float
    least: float
    bound: str
    read: int
    written: int
    network: int
    twice: int
    memory: int
    disk: int
    cost: float


def forecast(merge: MergeWork, cluster: Cluster, counts: Sequence[int]) -> Iterator[Forecast]:
    """For each number of nodes: those of the cluster, then more of its last."""
    for count in counts:
        yield _line(merge, cluster.of(count))


def useful(lines: Sequence[Forecast], gain: float) -> Forecast:
    """The fewest nodes beside which no larger number saves `gain` (a share, 0.1 for a tenth) of the time."""
    ordered = sorted(lines, key=lambda line: line.nodes)
    for place, line in enumerate(ordered):
        later = [other.seconds for other in ordered[place + 1 :]]
        if not later or min(later) > (1 - gain) * line.seconds:
            return line
    return ordered[-1]


def _line(merge: MergeWork, cluster: Cluster) -> Forecast:
    outcome = play(merge, cluster)
    most = max(cluster.workers.count(node) for node in set(cluster.workers))
    remote = cluster.inputs == "storage", cluster.output == "storage"
    price = sum(node.price for node in cluster.nodes)
    return Forecast(
        nodes=len(cluster.nodes),
        workers=outcome.workers,
        seconds=outcome.seconds,
        least=bounds(merge, cluster),
        bound=outcome.bound,
        read=outcome.read,
        written=outcome.written,
        network=outcome.read * remote[0] + outcome.written * remote[1],
        twice=outcome.read - merge.inputs,
        memory=most * (PROCESS_BYTES + cluster.lanes * merge.lane),
        disk=(0 if remote[0] else merge.inputs) + (0 if remote[1] else merge.write),
        cost=price * outcome.seconds / 3600,
    )
