"""Rounds become medians, and medians become ratios."""

from collections.abc import Mapping, Sequence
from statistics import median

from bench.rounds import Round

FIRST = "widen-first"
"""What every entrant is set beside, after the floor."""
Line = dict[str, str | float | None]


def summarise(rounds: Sequence[Round], captions: Mapping[str, str]) -> dict[str, Line]:
    """For each entrant its caption, its medians over all rounds (seconds, bytes), and their ratios:

    over_floor: the whole process beside the floor; over_floor_without_start: without interpreter start and imports;
    over_first: whole processes beside this project's first merge, None where that did not run.
    """
    floor = median(one["floor"]["seconds"] for one in rounds)
    first = median(one[FIRST]["seconds"] for one in rounds) if FIRST in captions else None
    return {name: _line(caption, [one[name] for one in rounds], floor, first) for name, caption in captions.items()}


def floor_medians(rounds: Sequence[Round]) -> dict[str, float]:
    """The floor's parts and whole; the medians of the parts need not add up to that of the whole."""
    return medians([one["floor"] for one in rounds])


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each quantity."""
    return {key: median(sample[key] for sample in samples) for key in samples[0]}


def _line(caption: str, samples: Sequence[Mapping[str, float]], floor: float, first: float | None) -> Line:
    middle = medians(samples)
    seconds = [sample["seconds"] for sample in samples]
    ratios = {
        "over_floor": middle["seconds"] / floor,
        "over_floor_without_start": (middle["seconds"] - middle["start"]) / floor,
        "over_first": None if first is None else middle["seconds"] / first,
    }
    return {"caption": caption, **middle, "least": min(seconds), "most": max(seconds), **ratios}
