"""The merge methods, one file each; `widen.py` is the reason this project exists."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from widen.geometry import ColumnSums
from widen.methods.widen import widen_important, widen_weights

Weights = Callable[[Sequence[ColumnSums], bool, float, float], NDArray[np.float64]]
Important = Callable[[Sequence[ColumnSums], bool, float], NDArray[np.bool_]]

METHODS: dict[str, Weights] = {"widen": widen_weights}

IMPORTANT: dict[str, Important] = {"widen": widen_important}
"""Where a method gives a column its whole score; a method that knows no such columns is not in here."""
