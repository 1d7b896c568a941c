"""The merge methods, one file each; `widen.py` is the reason this project exists."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from widen.geometry import ColumnSums
from widen.methods.widen import widen_weights

Weights = Callable[[Sequence[ColumnSums], bool, float, float], NDArray[np.float64]]

METHODS: dict[str, Weights] = {"widen": widen_weights}
