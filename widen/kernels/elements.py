"""What methods ask about single elements of a tensor: answered on the mapped bytes, for every backend."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import literal_unroll, njit
from numpy.typing import NDArray

from widen.combination import SMALLEST, Kept, Mark
from widen.geometry import Geometry, StoredTensor
from widen.kernels.bits import as_kernel_array, decode
from widen.kernels.elect import keep, rule_of
from widen.kernels.select import PIECE, find_mark, pieces


@dataclass(frozen=True)
class Elements:
    """One tensor of the base and of every model, element by element in storage order."""

    base: StoredTensor
    models: Sequence[StoredTensor]
    geometry: Geometry

    def mark(self, model: int, rank: int) -> Mark:
        """Where `rank` elements of a model's delta, the smallest, end."""
        return find_mark(self._sizes(model), self.geometry.elements, rank)

    def varied_mark(self, rank: int) -> Mark:
        """Where `rank` elements, those in which the models' deltas vary least, end."""
        return find_mark(self._variances, self.geometry.elements, rank)

    def varied(self) -> int:
        """In how many elements the models' deltas vary at all."""
        return sum(int(np.count_nonzero(piece)) for _, piece in pieces(self._variances, self.geometry.elements))

    def chosen(self, start: int, count: int, varied: Mark) -> NDArray[np.bool_]:
        """Which of `count` elements from an index on stand at or beyond a mark of the variance: of none when all do."""
        if varied == SMALLEST:
            return np.empty(0, np.bool_)
        found = np.empty(count)
        self._variances(start, found)
        later = np.arange(start, start + count) >= varied.index
        reached: NDArray[np.bool_] = (found > varied.size) | ((found == varied.size) & later)
        return reached

    def energies(self, varied: Mark) -> NDArray[np.float64]:
        """Each model's sum of squared deltas over the elements at or beyond a mark of the variance, (models,)."""
        totals = np.zeros(len(self.models))
        for start in range(0, self.geometry.elements, PIECE):
            count = min(PIECE, self.geometry.elements - start)
            chosen = self.chosen(start, count, varied)
            for model in range(len(self.models)):
                _add_squares(*self._pair(model, start, count), chosen, totals[model : model + 1])
        return totals

    def kept_size(self, model: int, kept: Kept) -> tuple[float, float]:
        """The sum of a model's abs(delta) over all elements, and over those kept, without factor and weight."""
        totals, columns = np.zeros(2), max(1, self.geometry.stored_columns)
        step = max(1, PIECE // columns) * columns
        for start in range(0, self.geometry.elements, step):
            base, other = self._pair(model, start, min(step, self.geometry.elements - start))
            left = np.empty(base.size)
            keep(base, other, start, rule_of(replace(kept, factor=1.0), base, other, columns), 0, left)
            _add_sizes(base, other, left, totals)
        return float(totals[0]), float(totals[1])

    def _pair(self, model: int, start: int, count: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        base, other = flat(self.base), flat(self.models[model])
        return base[start : start + count], other[start : start + count]

    def _sizes(self, model: int) -> Callable[[int, NDArray[np.float64]], None]:
        return lambda start, out: _delta_sizes(*self._pair(model, start, len(out)), out)

    def _variances(self, start: int, out: NDArray[np.float64]) -> None:
        models = tuple(flat(model)[start : start + len(out)] for model in self.models)
        _fill_variances(flat(self.base)[start : start + len(out)], models, np.empty((len(models), len(out))), out)


def flat(tensor: StoredTensor) -> NDArray[np.integer]:
    """All bits of a tensor in storage order, for a kernel."""
    return as_kernel_array(tensor.data.reshape(-1), tensor.kind)


@njit(nogil=True, cache=True)
def _delta_sizes(base, model, out):
    for c in range(out.size):
        out[c] = abs(np.float64(decode(model[c])) - np.float64(decode(base[c])))


@njit(nogil=True, cache=True)
def _deltas(base, model, out):
    for c in range(out.size):
        out[c] = np.float64(decode(model[c])) - np.float64(decode(base[c]))


@njit(nogil=True, cache=True)
def _fill_variances(base, models, deltas, out):
    """The variance of each element's delta over the models: the mean square about the mean, models in recipe order."""
    k = 0  # enumerate() does not unroll
    for model in literal_unroll(models):
        _deltas(base, model, deltas[k])
        k += 1  # noqa: SIM113
    count = deltas.shape[0]
    for c in range(out.size):
        mean = 0.0
        for k in range(count):
            mean += deltas[k, c]
        mean /= count
        total = 0.0
        for k in range(count):
            total += (deltas[k, c] - mean) * (deltas[k, c] - mean)
        out[c] = total / count


@njit(nogil=True, cache=True)
def _add_squares(base, model, chosen, total):
    for c in range(base.size):
        delta = np.float64(decode(model[c])) - np.float64(decode(base[c]))
        if chosen.size == 0 or chosen[c]:
            total[0] += delta * delta


@njit(nogil=True, cache=True)
def _add_sizes(base, model, left, totals):
    for c in range(base.size):
        totals[0] += abs(np.float64(decode(model[c])) - np.float64(decode(base[c])))
        totals[1] += abs(left[c])
