"""Foreground intensities of a Dataset: nnU-Net's sample of 100 million voxels, without ever holding it.

nnU-Net draws the same number of foreground voxels from every Case, with replacement, so that small Cases weigh as much
as large ones. Here the draws are only counted: a sample is its distinct values and how often each was drawn, and every
statistic is that of the expanded sample. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE = 100_000_000
"""Voxels drawn over all Cases of a Dataset."""
SEED = 1234
_CHUNK = 1 << 20
_BINS = 64


@dataclass(frozen=True)
class Sample:
    """Values in ascending order, float32, and how often each was drawn."""

    values: NDArray[np.float32]
    counts: NDArray[np.int64]


def draw_sample(voxels: NDArray[np.float32], size: int, stream: np.random.RandomState) -> Sample:
    """What ``stream.choice(voxels, size, replace=True)`` would draw, as counts; the stream moves on just as far.

    ``voxels`` are one channel's foreground voxels, in C order of the cropped array as stored.
    """
    drawn = np.zeros(len(voxels), dtype=np.int64)
    if len(voxels) == 0:
        return Sample(np.empty(0, np.float32), drawn)
    # Each chunk is counted over all voxels, so it should not be much smaller than they are many.
    chunk = min(max(len(voxels), _CHUNK), 16 * _CHUNK)
    for start in range(0, size, chunk):
        # RandomState.choice is randint; a bounded draw keeps nothing between calls, so chunks give the same stream.
        indices = stream.randint(0, len(voxels), size=min(chunk, size - start))
        drawn += np.bincount(indices, minlength=len(voxels))
    kept = drawn > 0
    return _distinct(voxels[kept], drawn[kept])


def merge_samples(samples: Iterable[Sample]) -> Sample:
    """One sample of several Cases; independent of their order."""
    samples = [sample for sample in samples if len(sample.values)]
    if not samples:
        return Sample(np.empty(0, np.float32), np.empty(0, np.int64))
    return _distinct(np.concatenate([s.values for s in samples]), np.concatenate([s.counts for s in samples]))


def _distinct(values: NDArray[np.float32], counts: NDArray[np.int64]) -> Sample:
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    first = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    return Sample(values[first], np.add.reduceat(counts, first))


@dataclass(frozen=True)
class Statistics:
    """Of an expanded sample; float64 arithmetic."""

    mean: float
    std: float
    minimum: float
    maximum: float
    percentiles: tuple[float, ...]


def describe_sample(sample: Sample, percentiles: tuple[float, ...] = (0.5, 50.0, 99.5)) -> Statistics:
    """Mean, standard deviation, range and percentiles (linear between neighbours, as numpy's) of the expanded sample.

    ``sample`` must not be empty.
    """
    values = sample.values.astype(np.float64)
    total = int(sample.counts.sum())
    mean = float(np.dot(values, sample.counts) / total)
    variance = float(np.dot((values - mean) ** 2, sample.counts) / total)
    ends = np.cumsum(sample.counts)

    def at(rank: int) -> float:
        return float(values[np.searchsorted(ends, rank, side="right")])

    found = []
    for percent in percentiles:
        place = percent / 100 * (total - 1)
        low = int(place)
        below, above = at(low), at(min(low + 1, total - 1))
        found.append(below + (above - below) * (place - low))
    return Statistics(mean, variance**0.5, float(values[0]), float(values[-1]), tuple(found))


def histogram_of(sample: Sample, low: float, high: float) -> tuple[int, ...]:
    """How many voxels of the expanded sample lie in each of 64 equal steps from low to high; none where low is high."""
    if not low < high:
        return ()
    found = np.histogram(sample.values, bins=_BINS, range=(low, high), weights=sample.counts)[0]
    return tuple(int(count) for count in found)
