"""What WIDEN's `ranks` change where a parent is a merged LoRA, on the quickstart's checkpoints and tasks.

    python -m bench.tied_ranks [--adapters "linear:16:bfloat16"] [--t 0.5 1 1.5] [--limit 600]

The tagger's change is cut to a low rank on some matrices and left out elsewhere (`bench.low_rank`), and the result is
merged with `indonesian` in every way. Each merge is scored on the quickstart's four tasks; of what either parent
gained over the base on its own task, the table says how much the merge keeps. Scores that are at hand are not taken
again, so a run that was cut short goes on where it was.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch

import widen
from bench.low_rank import FILE, TARGETS, cut, unchanged_columns
from registry.scorecard import Scorecard
from tasks.evaluate import EvaluateSettings, evaluate
from widen.digests import hash_file
from widen.scores import Ranks

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"
CHECKPOINTS = QUICKSTART / "checkpoints"
TASKS = {"app_en": "acc", "app_id": "acc", "bpb_en": "bits_per_byte", "bpb_id": "bits_per_byte"}
ADAPTERS = [f"{targets}:{rank}:{kind}" for targets in TARGETS for rank in (4, 16) for kind in ("bfloat16", "float32")]
HEAD = (
    "| adapter | unchanged columns (of its matrices) | t | ranks | app_en | kept | app_id | bpb_en | bpb_id | kept |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)

Scores = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """Where everything is kept, and how many documents a task is asked."""

    folder: Path
    limit: int | None

    def scores(self, name: str, model: Path) -> Scores:
        """A checkpoint's scores by task."""
        asked = EvaluateSettings(tuple(TASKS), QUICKSTART / "evaluation", batch_size=16, limit=self.limit)
        out = self.folder / "scores" / f"{name}.json"
        evaluate.fn(name, model, hash_file(model / FILE).sha256, asked, self.folder / "kept", out)
        card = Scorecard.from_json(out.read_text(encoding="utf-8"))
        return {task: card.get(task, metric).value for task, metric in TASKS.items()}

    def merge(self, parent: Path, ranks: Ranks, t: float) -> Path:
        """The parent and `indonesian`, merged as the quickstart's recipe merges."""
        out = self.folder / "merged"
        asked = widen.Settings(t=t, out_dtype="bfloat16", parameters={"ranks": ranks})
        widen.merge(CHECKPOINTS / "base", [parent, CHECKPOINTS / "indonesian"], out, asked, any_settings=True)
        return out

    def rows(self, adapter: str, thresholds: list[float]) -> Iterator[str]:
        """The table's rows of one adapter, `TARGETS:RANK:TYPE`."""
        label, rank, kind = adapter.split(":")
        targets = TARGETS[label]
        place = self.folder / adapter.replace(", ", "").replace(":", "-")
        parent = cut(CHECKPOINTS / "base", CHECKPOINTS / "tagger-v1", int(rank), targets, getattr(torch, kind), place)
        everywhere, inside = unchanged_columns(CHECKPOINTS / "base", parent, targets)
        alone = self.scores("parent", parent)
        base, owner = (self.scores(one, CHECKPOINTS / one) for one in ("base", "indonesian"))
        start = f"| {label}, rank {rank}, {kind} | {everywhere:.3f} ({inside:.3f}) |"
        yield f"{start} | the parent itself | {_cells(alone, base, alone, owner)} |"
        for t in thresholds:
            for ranks in get_args(Ranks):
                found = self.scores("merge", self.merge(parent, ranks, t))
                yield f"| | | {t:g} | {ranks} | {_cells(found, base, alone, owner)} |"


def _cells(found: Scores, base: Scores, tagger: Scores, indonesian: Scores) -> str:
    kept = {task: _kept(task, found, base, owner) for task, owner in (("app_en", tagger), ("bpb_id", indonesian))}
    return " | ".join(
        f"{value:.3f}" + (f" | {kept[task]:.2f}" if task in kept else "") for task, value in found.items()
    )


def _kept(task: str, found: Scores, base: Scores, owner: Scores) -> float:
    """The share of what the owner gained over the base."""
    gained = owner[task] - base[task]
    return (found[task] - base[task]) / gained if gained else 0.0


def main() -> None:
    """Merge, score, and print the table row by row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--folder", type=Path, default=Path("bench-data/tied-ranks"))
    parser.add_argument("--adapters", nargs="+", default=ADAPTERS, metavar="TARGETS:RANK:TYPE")
    parser.add_argument("--t", nargs="+", type=float, default=[0.5, 1.0, 1.5])
    parser.add_argument("--limit", type=int, help="documents a task; all by default")
    asked = parser.parse_args()
    bench = Bench(asked.folder, asked.limit)
    print(HEAD, flush=True)
    for adapter in asked.adapters:
        for row in bench.rows(adapter, asked.t):
            print(row, flush=True)


if __name__ == "__main__":
    main()
