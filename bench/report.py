"""A run's whole result: described, and left as JSON, as a table and as a picture."""

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.entrants import Entrant
from bench.machine import machine, versions
from bench.measure import run
from bench.models import Models
from bench.peers import peer_versions
from bench.plot import plot
from bench.rounds import Round
from bench.summary import floor_medians, summarise
from bench.table import table

ABSENT = "not in this run; `make bench-peers` installs it where the next run looks, `--peers` names another place"
GPU_KERNELS = "bench.gpu_kernels"


def describe(
    folder: Path, models: Models, rounds: Sequence[Round], entrants: Sequence[Entrant], peers: Path | None, device: str
) -> dict[str, Any]:
    """The content of result.json: the command, what it ran on, every figure of every round, medians and ratios.

    With device cuda it also runs the measuring of the kernels alone.
    """
    return {
        "command": shlex.join([Path(sys.executable).name, "-m", "bench", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "machine": machine(folder),
        "versions": versions() | (peer_versions(peers) if peers else {}),
        "models": models.facts(),
        "absent": {} if peers else {"mergekit": ABSENT},
        "floor": floor_medians(rounds),
        "entrants": summarise(rounds, {one.name: one.caption for one in entrants}),
        "gpu": _gpu_kernels() if device == "cuda" else None,
        "rounds": list(rounds),
    }


def _gpu_kernels() -> str:
    """What the measuring of the kernels alone printed, or why it did not: hours of other figures must not be lost."""
    try:
        return run([sys.executable, "-m", GPU_KERNELS]).output
    except SystemExit as end:
        return str(end)


def publish(stem: Path, result: dict[str, Any]) -> None:
    """Write `stem`.json, .md, .svg and .png, and print the table."""
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    told = table(result)
    stem.with_suffix(".md").write_text(told + "\n")
    plot(result, stem)
    print(told)
