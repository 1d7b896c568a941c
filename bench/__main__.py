"""`make bench`: the merge of a fine-tuned and a further trained model beside the byte floor, in turn, in one run.

    python -m bench [--folder FOLDER] [--layers 24] [--rounds 3]

The floor moves the same bytes and computes nothing: read all inputs, write and fsync one output, one after the other.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree

import yaml

from bench.measure import Run, run
from bench.models import generate

PIECE = 8 << 20


def main() -> None:
    """Generate the models, run the rounds, print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("bench-data"))
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    models = generate(asked.folder / f"models-{asked.layers}", asked.layers)
    recipe = _recipe(asked.folder, models)
    rounds = [_round(asked.folder, models, recipe) for _ in range(asked.rounds)]
    result = _summary(rounds, models)
    (asked.folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(_table(result))


def _recipe(folder: Path, models: dict[str, Path]) -> Path:
    base, *others = (str(path.resolve()) for path in models.values())
    content = {"merge_method": "widen", "base_model": base, "models": [{"model": one} for one in others]}
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _round(folder: Path, models: dict[str, Path], recipe: Path) -> dict[str, float]:
    """One floor and one merge, side by side; seconds, and bytes for the peak."""
    floor = _floor(folder, models)
    out = folder / "merged"
    rmtree(out, ignore_errors=True)
    imports = "import flows.cli, flows.merge, widen.api, widen.kernels.loops, transformers"
    started = run([sys.executable, "-c", imports])
    merged: Run = run([sys.executable, "-m", "flows", "merge", str(recipe), "--out", str(out), "--device", "cpu"])
    peak = float(merged.anonymous_peak)
    return {"floor": floor, "whole": merged.seconds, "start": started.seconds, "anonymous_peak": peak}


def _floor(folder: Path, models: dict[str, Path]) -> float:
    target = folder / "floor.bin"
    started = time.perf_counter()
    for path in models.values():
        with (path / "model.safetensors").open("rb", buffering=0) as file:
            while file.read(PIECE):
                pass
    block = os.urandom(PIECE)
    size = (models["base"] / "model.safetensors").stat().st_size
    with target.open("wb", buffering=0) as file:
        for start in range(0, size, PIECE):
            file.write(block[: min(PIECE, size - start)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


def _summary(rounds: list[dict[str, float]], models: dict[str, Path]) -> dict[str, object]:
    middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, {_processor()}",
        "versions": {name: version(name) for name in ("numba", "numpy", "torch", "transformers", "widen")},
        "input_bytes": sum((path / "model.safetensors").stat().st_size for path in models.values()),
        "rounds": rounds,
        "median": middle,
        "ratio_whole": middle["whole"] / middle["floor"],
        "ratio_without_start": (middle["whole"] - middle["start"]) / middle["floor"],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _table(result: dict[str, object]) -> str:
    middle = result["median"]
    assert isinstance(middle, dict)
    merging = middle["whole"] - middle["start"]
    return "\n".join([
        f"machine: {result['machine']}",
        "| what | seconds | over the floor |",
        "|---|---|---|",
        f"| byte floor: read all inputs, write and fsync one output | {middle['floor']:.2f} | 1.0 |",
        f"| widen merge, whole process | {middle['whole']:.2f} | {result['ratio_whole']:.1f} |",
        f"| widen merge, without start and imports | {merging:.2f} | {result['ratio_without_start']:.1f} |",
        f"peak of anonymous memory: {middle['anonymous_peak'] / 1e9:.2f} GB",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
