"""Histograms on fixed grids, which add up over sites, and the quantiles that are read from their sum.

Knows nothing of what is counted. Every site counts on the same grid, so a sum over sites is the histogram of all cases;
a quantile of it is that of the cases to within a bin. A bin stands for the roundest number in it, so that 1 mm stays
1 mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]

_MOST_DIGITS = 6


@dataclass(frozen=True)
class LogGrid:
    """Bins of equal ratio, the k-th about ratio ** (first + k); values outside fall into the outermost."""

    ratio: float
    smallest: float
    largest: float

    @property
    def first(self) -> int:
        return round(math.log(self.smallest, self.ratio))

    @property
    def size(self) -> int:
        return round(math.log(self.largest, self.ratio)) - self.first + 1

    def bin_of(self, value: float) -> int:
        """In which bin a value above 0 lies."""
        place = round(math.log(max(value, self.smallest), self.ratio)) - self.first
        return min(max(place, 0), self.size - 1)

    def value_of(self, place: int) -> float:
        """The roundest number in a bin."""
        power = self.first + place
        return _roundest(self.ratio ** (power - 0.5), self.ratio ** (power + 0.5))


@dataclass(frozen=True)
class LinearGrid:
    """Bins of equal width, the k-th about smallest + k * width; values outside fall into the outermost."""

    width: float
    smallest: float
    largest: float

    @property
    def size(self) -> int:
        return round((self.largest - self.smallest) / self.width) + 1

    def bin_of(self, value: float) -> int:
        """In which bin a value lies."""
        return min(max(round((value - self.smallest) / self.width), 0), self.size - 1)

    def value_of(self, place: int) -> float:
        """The middle of a bin."""
        return round(self.smallest + place * self.width, 9)


Grid = LogGrid | LinearGrid


def count_on(grid: Grid, values: Sequence[float], weights: Sequence[float] | None = None) -> Counts:
    """How much weight (1 each by default) lies in each bin."""
    found = np.zeros(grid.size)
    for value, weight in zip(values, weights or [1.0] * len(values), strict=True):
        found[grid.bin_of(value)] += weight
    return found


def quantile(grid: Grid, counts: Counts, percent: float) -> float:
    """The percentile as numpy's (linear between neighbours), each case at its bin's value.

    Bins below 0, which noise may leave, count nothing. ``counts`` must not be empty.
    """
    low, high, share = neighbours(grid, counts, percent)
    return low + (high - low) * share


def neighbours(grid: Grid, counts: Counts, percent: float) -> tuple[float, float, float]:
    """The values of the two cases between which a percentile lies, and how far towards the second."""
    held = np.maximum(counts, 0.0)
    ends = np.cumsum(held)
    place = percent / 100 * max(float(ends[-1]) - 1, 0.0)
    rank = math.floor(place + 1e-9)

    def at(index: float) -> float:
        return grid.value_of(min(int(np.searchsorted(ends, index + 1e-9, side="right")), grid.size - 1))

    return at(rank), at(min(rank + 1, float(ends[-1]) - 1)), place - rank


def mean_and_std(grid: Grid, counts: Counts) -> tuple[float, float]:
    """Of the values, each case at its bin's."""
    held = np.maximum(counts, 0.0)
    values = np.array([grid.value_of(place) for place in range(grid.size)])
    mean = float(np.average(values, weights=held))
    return mean, float(np.sqrt(np.average((values - mean) ** 2, weights=held)))


def _roundest(low: float, high: float) -> float:
    """The number with the fewest digits in [low, high), halves and quarters before others, near the middle."""
    middle = math.sqrt(low * high)
    for digits in range(1, _MOST_DIGITS + 1):
        whole = 10.0 ** (math.floor(math.log10(middle)) - digits + 1)
        for step in (whole, whole / 2, whole / 4):
            for candidate in (round(middle / step) * step, math.ceil(low / step) * step):
                if low <= candidate < high:
                    return round(candidate, 12)
    return middle
