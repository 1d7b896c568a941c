"""The CUDA backend's kernels beside a copy: `python -m bench.gpu_kernels`, on a machine with a GPU; one line of JSON.

A 4096 x 11008 bfloat16 matrix, base and two models. Counted are the bytes that a pass must read and write, each once:
a copy reads and writes the matrix, the statistics read base and model, the combination reads three and writes one.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial

ROWS, COLUMNS, SETS, ROUNDS = 4096, 11008, 3, 30


def main() -> None:
    """Print the rates, in GB/s, as medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=int, default=0, help="the index of the CUDA device")
    import torch

    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(5, "expected a CUDA device, found none\n")
    with torch.cuda.device(arguments.device):
        print(json.dumps(measure()))


def measure() -> dict[str, str | float]:
    """Rates of copy, statistics and combination, each in both orientations where that makes a difference."""
    import torch

    from widen.dtypes import BF16
    from widen.geometry import Geometry
    from widen.kernels import triton_kernels

    # Sets take turns, so that a round finds none of its inputs in the second-level cache.
    values = [torch.randn(3, ROWS * COLUMNS, device="cuda").bfloat16().view(torch.int16) for _ in range(SETS)]
    sets = [[(bits, BF16) for bits in one] for one in values]
    out = torch.empty_like(values[0][0])
    sums = torch.zeros(3 * COLUMNS, dtype=torch.float64, device="cuda")
    tally = torch.zeros(3, dtype=torch.int64, device="cuda")
    weights = torch.rand(2 * COLUMNS, dtype=torch.float64, device="cuda")

    def statistics_of(shape: Geometry, number: int) -> None:
        base, model, _ = sets[number]
        triton_kernels.add_column_sums(base, model, shape, sums, shape.columns, tally)

    def combination_of(shape: Geometry, number: int) -> None:
        base, *models = sets[number]
        triton_kernels.combine(base, models, weights, shape, (out, BF16))

    rates: dict[str, str | float] = {"device": torch.cuda.get_device_name(), "unit": "GB/s"}
    rates["copy"] = _rate(2, lambda number: out.copy_(values[number][0]))
    for name, transposed in (("", False), ("_transposed", True)):
        shape = Geometry(1, ROWS, COLUMNS, transposed)
        rates["statistics" + name] = _rate(2, partial(statistics_of, shape))
        rates["combination" + name] = _rate(4, partial(combination_of, shape))
    return rates


def _rate(matrices: int, work: Callable[[int], object]) -> float:
    """GB/s of `matrices` matrices moved by `work`, which gets the number of a set of inputs."""
    import torch

    times = []
    for number in range(ROUNDS + SETS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work(number % SETS)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return float(round(matrices * 2 * ROWS * COLUMNS / statistics.median(times[SETS:]) / 1e6, 1))


if __name__ == "__main__":
    main()
