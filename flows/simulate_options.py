"""What `widen simulate` is told of nodes, storage and units."""

from collections.abc import Mapping

from flows.amounts import Kind, number, size, whole
from widen.errors import RecipeError

MOST_NODES = 4096

NODE: Mapping[str, Kind] = {
    "cpus": whole, "gpus": whole, "memory": size, "read": size, "write": size, "network": size,
    "pcie": size, "kernel": size, "scaling": number, "speed": number, "price": number,
}  # fmt: skip
STORAGE: Mapping[str, Kind] = {
    "read": size, "write": size, "latency": number, "part": size, "requests": whole,
}  # fmt: skip
UNIT: Mapping[str, Kind] = {"cpus": whole, "gpus": whole, "memory": size}
OVERHEAD: Mapping[str, Kind] = {"start": number, "worker": number, "unit": number, "tensor": number}


def parse_nodes(text: str) -> list[int]:
    """`1-64` as 1, 2, 4 ... 64, and `1,3,8` as it stands. Raises RecipeError for anything else."""
    found: set[int] = set()
    for part in (one.strip() for one in text.split(",")):
        first, dash, last = part.partition("-")
        ends = [whole("--nodes", first), whole("--nodes", last if dash else first)]
        if not 1 <= ends[0] <= ends[1] <= MOST_NODES:
            raise RecipeError(f"--nodes {part!r}: expected numbers from 1 to {MOST_NODES}, as in 1-64 or 1,2,8")
        found |= {ends[0], ends[1]}
        while dash and 2 * ends[0] < ends[1]:
            ends[0] *= 2
            found.add(ends[0])
    return sorted(found)
