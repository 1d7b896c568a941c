"""Shared capacities as a fluid: what rate each job has while all of them flow."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def shares(places: Integers, uses: Floats, capacities: Floats) -> tuple[Floats, Integers]:
    """Max-min fair shares by progressive filling: every job's rate grows alike until something that it needs is full.

    places: (jobs, k) which capacities each job uses. uses: (jobs, k) how much of each at its rate alone, per second; 0
    where it uses fewer than k. capacities: per second. Returns (jobs,) the share of its rate alone that each job gets,
    0 to 1, and (jobs,) the capacity that held it back, or -1. (Bertsekas and Gallager, Data Networks, 1992, 6.5.2.)
    """
    count, room = len(uses), capacities.astype(np.float64)
    share, held = np.ones(count), np.full(count, -1, np.int64)
    growing = np.ones(count, bool)
    while growing.any():
        asked = _sum(places[growing], uses[growing], len(room))
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.where(asked > 0, room / asked, np.inf)
        least = max(0.0, float(level.min()))
        if least >= 1.0:
            break
        full = (level <= least * (1 + 1e-12)) & (asked > 0)
        touched = full[places] & (uses > 0)
        stopped = growing & touched.any(axis=1)
        share[stopped] = least
        held[stopped] = places[stopped, touched[stopped].argmax(axis=1)]
        room = np.maximum(0.0, room - least * _sum(places[stopped], uses[stopped], len(room)))
        growing &= ~stopped
    return share, held


def _sum(places: Integers, uses: Floats, count: int) -> Floats:
    found: Floats = np.bincount(places.ravel(), uses.ravel(), minlength=count).astype(np.float64)
    return found
