"""What each stage of a unit asks of its node and of the storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from math import ceil

from widen.simulation.cluster import Cluster, Node, Place, Storage
from widen.simulation.work import Work

OF_A_NODE = ("processors", "disk read", "disk write", "network in", "network out", "pcie", "gpu")
OF_ALL = ("storage read", "storage write")
"""What can be full: of each node, then of the storage."""
START, UNITS, LATENCY, TAIL = "start-up", "units' start", "storage latency", "waiting for the last units"
ON_A_GPU = ("measure", "combine")


@dataclass(frozen=True)
class Stage:
    """A part of a unit's work in which all that it uses flows at once.

    uses: what it takes of each capacity, in processor seconds or bytes. alone: seconds that it takes at least on an
    idle node of speed 1, by reason. read, written: bytes of inputs and output.
    """

    uses: Mapping[str, float]
    alone: Mapping[str, float] = field(default_factory=dict)
    read: int = 0
    written: int = 0

    def seconds(self, node: Node, storage: Storage) -> tuple[float, str]:
        """How long it takes at least on this node with nobody beside it, and what it waits for."""
        found = {name: value / (1.0 if name == LATENCY else node.speed) for name, value in self.alone.items()}
        for name, value in self.uses.items():
            found[name] = max(found.get(name, 0.0), value / capacity(name, node, storage) if value else 0.0)
        most = max(found, key=lambda name: found[name], default="processors")
        return found.get(most, 0.0), most


def capacity(name: str, node: Node, storage: Storage) -> float:
    """Processor seconds or bytes a second."""
    found = {
        "processors": node.processors, "disk read": node.read, "disk write": node.write, "network in": node.network,
        "network out": node.network, "pcie": node.gpus * node.pcie, "gpu": node.gpus * node.kernel,
    }  # fmt: skip
    return found[name] * node.speed if name in found else {"storage read": storage.read}.get(name, storage.write)


def starting(cluster: Cluster) -> list[Stage]:
    """Of a worker's process."""
    return _busy(START, cluster.rates.worker)


def stages_of(work: Work, cluster: Cluster) -> list[Stage]:
    """Of one unit: its start, the stream of its tensors, the hash of its file, and bringing that to its place."""
    if work.hashed:
        return [*_busy(UNITS, cluster.rates.unit), _hashing(work, cluster)]
    return [
        *_busy(UNITS, 0.0 if cluster.alone else cluster.rates.unit),
        _stream(work, cluster),
        *_finish(work, cluster),
    ]


def processor_seconds(work: Work, cluster: Cluster) -> float:
    """Of the stream: what its lanes' stages take of one processor; threads of their own read ahead."""
    sizes = {
        "hash inputs": work.read, "measure": work.measured, "combine": work.write,
        "hash outputs": work.write, "write": work.write,
    }  # fmt: skip
    rates, gpus = cluster.rates, cluster.unit.gpus
    own = sum(size / rates.stages[stage] for stage, size in sizes.items() if not (gpus and stage in ON_A_GPU))
    return own + rates.tensor * len(work.tensors)


def lanes_used(tensors: Sequence[int], lanes: int) -> float:
    """How many lanes work on average where each takes a whole tensor at a time, in order."""
    ends = [0] * lanes
    heapify(ends)
    for size in tensors:
        heapreplace(ends, ends[0] + size)
    return sum(tensors) / max(ends) if tensors and max(ends) else 1.0


def _busy(name: str, seconds: float) -> list[Stage]:
    return [Stage({"processors": seconds}, {name: seconds})] if seconds else []


def _stream(work: Work, cluster: Cluster) -> Stage:
    computing, ahead = processor_seconds(work, cluster), work.read / cluster.rates.stages["read"]
    # One process goes on to the next file while a lane is still in this one; a unit ends with its last tensor.
    used = float(cluster.lanes) if cluster.alone else lanes_used(work.tensors, cluster.lanes)
    uses, alone = {"processors": computing + ahead}, {"processors": computing / used}
    if gpus := cluster.unit.gpus:
        node = cluster.nodes[0]
        moved = {"pcie": float(work.read + work.write), "gpu": float(work.measured + work.read + work.write)}
        uses |= moved
        alone |= {"pcie": moved["pcie"] / (gpus * node.pcie), "gpu": moved["gpu"] / (gpus * node.kernel)}
    # Uploads flow while tensors are made; what lies in the page cache goes to the disk when the file is whole.
    uploaded = work.write if cluster.output == "storage" else 0
    return _moving(uses, alone, cluster.storage, (cluster.inputs, work.read), (cluster.output, uploaded))


def _hashing(work: Work, cluster: Cluster) -> Stage:
    seconds = work.hashed / cluster.rates.stages["hash files"]
    busy = {"processors": seconds}
    return _moving(busy, dict(busy), cluster.storage, (cluster.inputs, work.read), (cluster.output, 0))


def _finish(work: Work, cluster: Cluster) -> list[Stage]:
    seconds = work.write / cluster.rates.stages["hash files"]
    hashing = Stage({"processors": seconds}, {"processors": seconds})
    if cluster.output == "storage":
        return [hashing]
    return [hashing, _moving({}, {}, cluster.storage, (cluster.inputs, 0), ("disk", work.write))]


def _moving(
    uses: Mapping[str, float],
    alone: Mapping[str, float],
    storage: Storage,
    read: tuple[Place, int],
    written: tuple[Place, int],
) -> Stage:
    """A stage that also moves bytes, from and to the disk or the storage."""
    moved: dict[str, float] = {}
    parts = 0
    for (place, size), way, wire in ((read, "read", "network in"), (written, "write", "network out")):
        if place == "disk":
            moved[f"disk {way}"] = size
        else:
            moved |= {f"storage {way}": size, wire: size}
            parts += ceil(size / storage.part)
    waited = storage.latency * ceil(parts / storage.requests)
    flowing = {name: value for name, value in moved.items() if value}
    return Stage({**uses, **flowing}, {**alone, **({LATENCY: waited} if waited else {})}, read[1], written[1])
