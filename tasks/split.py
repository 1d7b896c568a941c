"""Which of a task's documents choose among candidates, and which judge the winner: told by a hash of each document."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from widen.errors import RecipeError

LEAST = 2
"""Independent groups of documents on each side: no interval has a width with fewer."""
Side = Literal["selection", "gate"]


@dataclass(frozen=True)
class Part:
    """One side of a split: `selection` is the share of documents that choose; the others are the gate's.

    A document's side is a function of `seed` and of the document alone, or of the cluster that it names: its place in
    the file, the task and the other documents do not matter. So one that two tasks ask about is on one side in both
    where its JSON is equal to the byte there and neither task names a cluster, or where both name the same one.
    """

    side: Side
    selection: float
    seed: int

    def holds(self, unit: str) -> bool:
        """Whether the document or cluster named `unit` is on this side."""
        drawn = hashlib.sha256(f"{self.seed}\0{unit}".encode()).digest()[:8]
        selects = int.from_bytes(drawn) < self.selection * 2**64
        return selects == (self.side == "selection")

    def content(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def chosen(task: str, documents: Sequence[Any], hashes: Sequence[str], field: str | None, part: Part) -> list[int]:
    """The places of the documents of `part`, in order.

    hashes: one a document, its identity. field: of the documents, names their clusters. Raises RecipeError where one
    side would have too few groups for an interval, or a document does not name its cluster.
    """
    pairs = zip(documents, hashes, strict=True)
    units = [unit if field is None else _cluster(task, field, document) for document, unit in pairs]
    held = {unit for unit in units if part.holds(unit)}
    if min(len(held), len(set(units)) - len(held)) < LEAST:
        what = "documents" if field is None else "clusters"
        raise RecipeError(
            f"task {task}: compare.selection {part.selection:g} leaves {len(held)} of its {len(set(units))} {what} on "
            f"the side of the {part.side}; each side needs at least {LEAST}: change compare.selection or compare.seed, "
            "raise evaluate.limit, or leave the task out"
        )
    return [place for place, unit in enumerate(units) if unit in held]


def _cluster(task: str, field: str, document: Any) -> str:
    if not isinstance(document, Mapping) or document.get(field) is None:
        found = json.dumps(document, default=str, ensure_ascii=False)[:80]
        raise RecipeError(
            f"task {task}: its clusters are named by the field {field!r}, which a document lacks: {found}"
        )
    return str(document[field])
