"""What a merge runs on: nodes, what a unit takes of one, shared storage, and what a processor manages."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

from widen.errors import RecipeError
from widen.outlook import REFERENCE_RATES

Place = Literal["disk", "storage"]


@dataclass(frozen=True)
class Rates:
    """What one processor manages. stages: bytes a second of each stage of a merge, as a profile names them.

    tensor: seconds a tensor takes beside them (ranks, weights, the interpreter). start: seconds until the first worker
    may start. worker, unit: seconds of one processor until a worker's process is ready, and before each unit's work.
    """

    stages: Mapping[str, float] = field(default_factory=lambda: REFERENCE_RATES)
    tensor: float = 0.005
    start: float = 2.0
    worker: float = 0.0
    unit: float = 0.0


@dataclass(frozen=True)
class Node:
    """One node. Bytes, and bytes a second: `read` and `write` of its own disk, `network` each way, `pcie` to one GPU,
    `kernel` the memory traffic that one GPU's kernels manage.

    scaling: the share of its speed alone that a processor keeps while all of them work, below 1 where two are threads
    of one core. speed: of everything in this node, beside what the figures say. price: of an hour. lost: seconds after
    which it is gone, with the unit that it works on.
    """

    cpus: int = 16
    gpus: int = 0
    memory: int = 64_000_000_000
    read: float = 2e9
    write: float = 1e9
    network: float = 1.25e9
    pcie: float = 0.0
    kernel: float = 0.0
    scaling: float = 0.75
    speed: float = 1.0
    price: float = 0.0
    lost: float = inf

    def __post_init__(self) -> None:
        rates = {"read": self.read, "write": self.write, "network": self.network, "speed": self.speed}
        counts = {"cpus": self.cpus, "memory": self.memory}
        for name, value in (rates | counts).items():
            if not 0 < value < inf:
                raise RecipeError(f"node: {name} must be a finite number above 0, found {value:g}")
        if not 0 < self.scaling <= 1:
            raise RecipeError(f"node: scaling must be above 0 and at most 1, found {self.scaling:g}")
        if min(self.gpus, self.pcie, self.kernel, self.price) < 0 or not self.price < inf or not self.lost >= 0:
            raise RecipeError("node: gpus, pcie, kernel, price and lost must be numbers of at least 0")

    @property
    def processors(self) -> float:
        """How many processors alone would manage what all of them manage together."""
        return self.cpus * self.scaling if self.cpus > 1 else 1.0


@dataclass(frozen=True)
class UnitShare:
    """What one unit takes of a node: processors, GPUs, bytes of memory."""

    cpus: int = 2
    gpus: int = 0
    memory: int | None = None

    def slots(self, node: Node) -> int:
        """How many a node does at a time. Raises RecipeError where not one fits."""
        room = [node.cpus // self.cpus]
        room += [node.gpus // self.gpus] if self.gpus else []
        room += [node.memory // self.memory] if self.memory else []
        if min(room) < 1:
            raise RecipeError(
                f"a unit of {self.cpus} processors, {self.gpus} GPUs and {(self.memory or 0) / 1e9:g} GB of memory "
                f"does not fit a node of {node.cpus}, {node.gpus} and {node.memory / 1e9:g} GB; ask for less, or for "
                "larger nodes"
            )
        return min(room)


@dataclass(frozen=True)
class Storage:
    """What all nodes share. read, write: bytes a second of all together. A request takes `latency` seconds before its
    `part` bytes flow, and one unit has `requests` of them under way.
    """

    read: float = 10e9
    write: float = 5e9
    latency: float = 0.03
    part: int = 8_000_000
    requests: int = 16

    def __post_init__(self) -> None:
        for name in ("read", "write", "part", "requests"):
            if not 0 < getattr(self, name) < inf:
                raise RecipeError(f"storage: {name} must be a finite number above 0, found {getattr(self, name):g}")
        if not 0 <= self.latency < inf:
            raise RecipeError(f"storage: latency must be a finite number of at least 0, found {self.latency:g}")


@dataclass(frozen=True)
class Cluster:
    """Nodes and what a unit takes of one. alone: one process on one node does all by so many lanes, without units.

    inputs, output: where they lie, on each node's disk or in the storage.
    """

    nodes: tuple[Node, ...]
    unit: UnitShare = UnitShare()
    storage: Storage = Storage()
    rates: Rates = field(default_factory=Rates)
    inputs: Place = "storage"
    output: Place = "storage"
    alone: bool = False

    def __post_init__(self) -> None:
        if not self.nodes:
            raise RecipeError("a cluster needs at least one node, found none")
        if self.alone and len(self.nodes) > 1:
            raise RecipeError(f"one process cannot use {len(self.nodes)} nodes; give it one")
        if self.output == "disk" and len(self.nodes) > 1:
            raise RecipeError("an output on a node's own disk is out of the other nodes' reach; put it in the storage")
        if self.unit.gpus and any(not node.pcie or not node.kernel for node in self.nodes):
            raise RecipeError(
                "what a GPU manages is not known: give a node pcie=BYTES and kernel=BYTES a second, as "
                "`python -m bench.gpu_kernels` measures it"
            )

    @property
    def ordered(self) -> tuple[Node, ...]:
        """The nodes in the order in which they are given work, whatever order they were named in."""
        return tuple(sorted(self.nodes, key=lambda one: (-one.speed, one.lost, str(one))))

    @property
    def workers(self) -> list[int]:
        """The node of each worker, a first worker of every node before a second."""
        slots = [1 if self.alone else self.unit.slots(node) for node in self.ordered]
        return [node for turn in range(max(slots)) for node, count in enumerate(slots) if turn < count]

    @property
    def lanes(self) -> int:
        """Threads of one worker."""
        return self.unit.cpus

    def of(self, count: int) -> "Cluster":
        """The same with so many nodes: the named ones, then more of the last."""
        more = (self.nodes[-1],) * max(0, count - len(self.nodes))
        return replace(self, nodes=(*self.nodes, *more)[:count])
