"""95 % intervals of means by resampling Cases.

Knows nothing of what the numbers are. Percentile bootstrap (Efron & Tibshirani 1993, chapter 13): the Cases are drawn
with replacement, the mean is taken anew, and the interval holds the middle 95 % of those means. Cases are the unit, so
the structures of one Case stay together. With fewer than about ten Cases such intervals are too narrow; n stands
beside them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 12345
_CHUNK = 100


def resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of each column over 2000 draws of rows: (cases, columns) -> (2000, columns).

    NaN values are left out; a draw without a single value of a column gives NaN there. The draws are the same for all
    columns and, for a given number of rows, always.
    """
    cases = len(values)
    random = np.random.default_rng(SEED)
    present = np.isfinite(values)
    filled = np.where(present, values, 0.0)
    means = np.empty((RESAMPLES, values.shape[1]))
    for start in range(0, RESAMPLES, _CHUNK):
        draws = random.integers(0, cases, size=(_CHUNK, cases))
        weights = np.zeros((_CHUNK, cases))
        np.add.at(weights, (np.arange(_CHUNK)[:, None], draws), 1.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + _CHUNK] = (weights @ filled) / (weights @ present)
    return means


def interval(means: NDArray[np.float64]) -> tuple[float, float] | None:
    """The 2.5th and 97.5th percentile of resampled means (RESAMPLES,); None when no draw had a value."""
    finite = means[np.isfinite(means)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
