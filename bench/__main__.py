"""`make bench`: this project and its peers beside the byte floor, in turn, in one run, on models that it generates.

    python -m bench [--folder bench-data] [--size 0.43b] [--rounds 3] [--peers FOLDER|none] [--only NAME ...]
    [--methods]

Prints a table, and leaves result.json, result.svg and result.png in FOLDER/SIZE.
"""

import argparse
import sys
from pathlib import Path

from bench.entrants import Entrant, Workplace, widen_entrants
from bench.methods import EACH, own_entrant
from bench.models import Models, models_for
from bench.peers import find_peers, mergekit_entrant, mergekit_entrants
from bench.report import describe, publish
from bench.rounds import choose, measure_round, record_starts
from bench.sizes import SIZES

FIRST_MERGES = 2
"""Of this project's own entrants, those that merge for the first time."""


def main() -> None:
    """Generate, measure, tell."""
    asked = _asked()
    folder, peers = asked.folder / asked.size, find_peers(asked.peers, asked.folder)
    models = models_for(folder / "models", SIZES[asked.size])
    place = Workplace(folder / "work", models)
    entrants = choose(_entrants(asked, place, peers), asked.only)
    _record_on_small_models(asked, peers, folder / "starts")
    rounds = []
    for number in range(1, asked.rounds + 1):
        print(f"round {number} of {asked.rounds}", file=sys.stderr)
        rounds.append(measure_round(place, entrants, folder / "starts"))
    result = describe(folder, models, rounds, entrants, peers, asked.device)
    publish(folder / "result", result)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("bench-data"), help="everything goes there")
    parser.add_argument("--size", choices=SIZES, default="0.43b", help="parameters of each model")
    parser.add_argument("--rounds", type=int, default=3)
    peers = "mergekit's environment, made if missing; none: without it (by default FOLDER/mergekit, where that exists)"
    parser.add_argument("--peers", metavar="VENV|none", help=peers)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="entrants whose names begin so")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    methods = "every method that both have, this project's merge and mergekit's in turn"
    parser.add_argument("--methods", action="store_true", help=methods)
    return parser.parse_args()


def _entrants(asked: argparse.Namespace, place: Workplace, peers: Path | None) -> list[Entrant]:
    device = asked.device
    if not asked.methods:
        return widen_entrants(place, device) + (mergekit_entrants(place, peers, device) if peers else [])
    found = widen_entrants(place, device)[:FIRST_MERGES]
    for method in EACH:
        found.append(own_entrant(place, method, device))
        if peers:
            found.append(mergekit_entrant(place, peers, method, device))
    return found


def _record_on_small_models(asked: argparse.Namespace, peers: Path | None, lists: Path) -> None:
    models: Models = models_for(asked.folder / "tiny" / "models", SIZES["tiny"])
    place = Workplace(asked.folder / "tiny" / "warm-up", models)
    record_starts(place, choose(_entrants(asked, place, peers), asked.only), lists)


if __name__ == "__main__":
    main()
