"""Intervals that hold each structure's true volume, from the averaged probabilities alone: no maps, no members.

Knows nothing of networks or files. Rule: ``medseg.uncertainty.conformal``, with what ``medseg calibrate`` has learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.evaluation.measurements import VolumeInterval
from medseg.preprocessing.grid import Grid
from medseg.uncertainty.case import Trust
from medseg.uncertainty.conformal import volume_interval
from medseg.uncertainty.structures import StructureCounts, target_probabilities


class VolumesOfAverage:
    """Takes rows of every configuration's probabilities; an accumulator of ``medseg.inference``."""

    def __init__(self, grid: Grid, trust: Trust) -> None:
        self._trust, self._counts = trust, StructureCounts.empty(len(trust.table.targets))
        self._voxel_ml = float(np.prod(grid.cropped_spacing)) / 1000

    def add(self, index: int, rows: Sequence[Tensor]) -> None:  # noqa: ARG002 (where it lies does not matter)
        """Take one row of the crop box."""
        average = (sum(rows[1:]) + rows[0]) / len(rows)
        probabilities = target_probabilities(average, self._trust.table).flatten(1)
        self._counts.add(probabilities, torch.zeros_like(probabilities, dtype=torch.bool))

    def intervals(self) -> dict[str, VolumeInterval]:
        """By the name of the structure; without those that too few held-out Cases are known of for the rate."""
        found: dict[str, VolumeInterval] = {}
        for place, (name, limits) in enumerate(zip(self._trust.table.target_names, self._trust.limits, strict=True)):
            low, high = volume_interval(self._counts, place, limits, self._voxel_ml)
            if low is not None and high is not None:
                found[name] = VolumeInterval(low_ml=low, high_ml=high, rate=self._trust.rate)
        return found
