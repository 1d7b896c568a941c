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

LANES, TILE = 64, 1024


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
        found, chosen = np.empty(count), np.empty(count, np.bool_)
        self._variances(start, found)
        _reach(found, start, varied.size, varied.index, chosen)
        return chosen

    def energies(self, varied: Mark) -> NDArray[np.float64]:
        """Each model's sum of squared deltas over the elements at or beyond a mark of the variance, (models,)."""
        totals = np.zeros((len(self.models), LANES))
        for start in range(0, self.geometry.elements, PIECE):
            count = min(PIECE, self.geometry.elements - start)
            chosen = self.chosen(start, count, varied)
            for model in range(len(self.models)):
                _add_squares(*self._pair(model, start, count), chosen, totals[model])
        energies: NDArray[np.float64] = np.cumsum(totals, axis=1)[:, -1]
        return energies

    def kept_size(self, model: int, kept: Kept) -> tuple[float, float]:
        """The sum of a model's abs(delta) over all elements, and over those kept, without factor and weight."""
        totals, columns = np.zeros((2, LANES)), max(1, self.geometry.stored_columns)
        step = max(1, PIECE // columns) * columns
        for start in range(0, self.geometry.elements, step):
            base, other = self._pair(model, start, min(step, self.geometry.elements - start))
            left = np.empty(base.size)
            keep(base, other, start, rule_of(replace(kept, factor=1.0), base, other, columns), 0, left)
            _add_sizes(base, other, left, start, totals)
        whole, rest = np.cumsum(totals, axis=1)[:, -1]
        return float(whole), float(rest)

    def _pair(self, model: int, start: int, count: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        base, other = flat(self.base), flat(self.models[model])
        return base[start : start + count], other[start : start + count]

    def _sizes(self, model: int) -> Callable[[int, NDArray[np.float64]], None]:
        def fill(start: int, out: NDArray[np.float64]) -> None:
            _deltas(*self._pair(model, start, len(out)), out)
            np.abs(out, out=out)

        return fill

    def _variances(self, start: int, out: NDArray[np.float64]) -> None:
        models = tuple(flat(model)[start : start + len(out)] for model in self.models)
        _fill_variances(flat(self.base)[start : start + len(out)], models, out)


def flat(tensor: StoredTensor) -> NDArray[np.integer]:
    """All bits of a tensor in storage order, for a kernel."""
    return as_kernel_array(tensor.data.reshape(-1), tensor.kind)


@njit(nogil=True, cache=True)
def _deltas(base, model, out):
    for c in range(out.size):
        out[c] = np.float64(decode(model[c])) - np.float64(decode(base[c]))


@njit(nogil=True, cache=True)
def _fill_variances(base, models, out):
    """The variance of each element's delta over the models: the mean square about the mean, models in recipe order."""
    deltas = np.empty((len(models), TILE))
    mean = np.empty(TILE)
    for start in range(0, out.size, TILE):
        stop = min(out.size, start + TILE)
        k = 0  # enumerate() does not unroll
        for model in literal_unroll(models):
            _deltas(base[start:stop], model[start:stop], deltas[k, : stop - start])
            k += 1  # noqa: SIM113
        _variance(deltas[:, : stop - start], mean[: stop - start], out[start:stop])


@njit(nogil=True, cache=True)
def _variance(deltas, mean, out):
    count = np.float64(deltas.shape[0])
    mean[:] = 0.0
    out[:] = 0.0
    for k in range(deltas.shape[0]):
        for c in range(out.size):
            mean[c] += deltas[k, c]
    for c in range(out.size):
        mean[c] /= count
    for k in range(deltas.shape[0]):
        for c in range(out.size):
            apart = deltas[k, c] - mean[c]
            out[c] += apart * apart
    for c in range(out.size):
        out[c] /= count


@njit(nogil=True, cache=True)
def _reach(found, first, size, index, out):
    for c in range(out.size):
        out[c] = found[c] > size or (found[c] == size and first + c >= index)


# A sum has LANES partial sums, each of every LANES-th element in order, added up at last: one order for any pieces.


@njit(nogil=True, cache=True)
def _add_squares(base, model, chosen, totals):
    """The run begins at a multiple of LANES."""
    for start in range(0, base.size, LANES):
        for lane in range(min(LANES, base.size - start)):
            c = start + lane
            delta = np.float64(decode(model[c])) - np.float64(decode(base[c]))
            totals[lane] += delta * delta if chosen.size == 0 or chosen[c] else 0.0


@njit(nogil=True, cache=True)
def _add_sizes(base, model, left, first, totals):
    for c in range(base.size):
        lane = (first + c) % LANES
        totals[0, lane] += abs(np.float64(decode(model[c])) - np.float64(decode(base[c])))
        totals[1, lane] += abs(left[c])
