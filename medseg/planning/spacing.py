"""Target spacing, axis order and median shape of a Dataset, from its Fingerprint.

Knows nothing of networks. Rule: nnU-Net v2's: the median spacing of each axis, but the 10th percentile of a very coarse
axis with few slices; the coarsest axis comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.arrays import Spacing, Triple
from medseg.planning.fingerprint import Fingerprint

COARSE = 3.0
"""An axis is coarse with few slices when its spacing is more than this many times the others', and this many times its
size is still less than theirs."""


@dataclass(frozen=True)
class TargetGrid:
    """To which grid every Case is resampled, in network axes."""

    axis_order: Triple
    """Oriented axis that becomes network axis 0, 1, 2."""
    spacing: Spacing
    median_shape: tuple[float, float, float]
    """Median over Cases of the resampled size; halves occur."""
    stored_spacing: Spacing
    """Median of the Cases' own spacing."""
    finer_than_median: bool
    """Whether the coarse axis takes the 10th percentile."""
    flat: bool
    """Whether the images are single slices."""


def find_target_grid(fingerprint: Fingerprint) -> TargetGrid:
    """Target spacing, axis order and median shape of the Cases (in the Fingerprint's orientation)."""
    target, finer = _target_spacing(fingerprint)
    flat_axes = [a for a in range(3) if fingerprint.size_percentile(50)[a] == 1]
    coarsest = int(np.argmax(target)) if not flat_axes else max(flat_axes, key=lambda a: float(target[a]))
    order = ((0, 1, 2), (1, 0, 2), (2, 0, 1))[coarsest]
    median = fingerprint.median_resampled(target)
    stored = fingerprint.spacing_percentile(50)
    return TargetGrid(
        axis_order=order,
        spacing=_in_order(target, order),
        median_shape=_in_order(median, order),
        stored_spacing=_in_order(stored, order),
        finer_than_median=finer,
        flat=float(median[coarsest]) <= 1,
    )


def _target_spacing(fingerprint: Fingerprint) -> tuple[np.ndarray, bool]:
    target = fingerprint.spacing_percentile(50)
    size = fingerprint.size_percentile(50)
    coarsest = int(np.argmax(target))
    others = [a for a in range(3) if a != coarsest]
    coarse = target[coarsest] > COARSE * max(target[others]) and COARSE * size[coarsest] < min(size[others])
    if coarse:
        tenth = float(fingerprint.spacing_percentile(10)[coarsest])
        largest_other = float(max(target[others]))
        # nnU-Net keeps this axis the coarsest by a hair.
        target[coarsest] = tenth if tenth >= largest_other else largest_other + 1e-5
    return target, bool(coarse)


def _in_order(values: np.ndarray, order: Sequence[int]) -> tuple[float, float, float]:
    a, b, c = (float(values[axis]) for axis in order)
    return a, b, c
