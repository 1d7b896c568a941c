"""Compile the CPU backend's loops for every storage type and keep them on disk: `python -m widen.kernels.warm`.

An installation may run this; without it the first merge compiles what it needs, once, in some seconds.
"""

from collections.abc import Mapping

import numpy as np

from widen.combination import Elected, Kept, Weighted
from widen.dtypes import BF16, F16, F32, StorageType
from widen.geometry import Geometry, StoredTensor
from widen.kernels.bits import as_kernel_array
from widen.kernels.cpu import CpuBackend
from widen.kernels.low_rank import add_column_squares, add_low_rank, row_squares, widened

MODELS = {BF16: 3, F16: 2, F32: 2}
"""Merges of up to so many models of a type are compiled ahead; of more, or of mixed types, when they are asked for."""


def warm(models: Mapping[StorageType, int] = MODELS) -> None:
    """Run both passes on one element of each type, read-only as a mapped file is."""
    backend = CpuBackend(1)
    for kind, most in models.items():
        data = np.zeros(1, kind.bits)
        data.flags.writeable = False
        tensor = StoredTensor(data, kind)
        for count in range(1, most + 1):
            with backend.resident(tensor, [tensor] * count, Geometry.of(data.shape, transposed=False)) as resident:
                resident.measure(0)
                list(resident.combine(Weighted(np.ones((count, 1, 1))), kind))
                list(resident.combine(Elected((Kept(1.0),) * count, consensus=False, normalize=False), kind))
        _warm_adapters(tensor)


def _warm_adapters(tensor: StoredTensor) -> None:
    """What lays an adapter on a matrix of this type."""
    bits, one = as_kernel_array(tensor.data, tensor.kind), np.ones((1, 1))
    widened(bits)
    add_low_rank(bits.reshape(1, 1), one, one, 1.0, one.copy())
    row_squares(one)
    add_column_squares(one, np.zeros(1))


if __name__ == "__main__":
    warm()
