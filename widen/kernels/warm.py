"""Compile the CPU backend's loops for 16- and 32-bit checkpoints and keep them on disk: `python -m widen.kernels.warm`.

An installation may run this; without it the first merge compiles what it needs, once, in some seconds.
"""

import numpy as np

from widen.dtypes import BF16, F32
from widen.geometry import Geometry, StoredTensor
from widen.kernels.cpu import CpuBackend


def warm() -> None:
    """Run both passes on one element of each width, read-only as a mapped file is."""
    with CpuBackend(1) as backend:
        for kind in (BF16, F32):
            data = np.zeros(1, kind.bits)
            data.flags.writeable = False
            tensor = StoredTensor(data, kind)
            geometry = Geometry.of(data.shape, transposed=False)
            backend.measure(tensor, tensor, geometry)
            list(backend.combine(tensor, [tensor], np.ones((1, 1, 1)), geometry, kind))


if __name__ == "__main__":
    warm()
