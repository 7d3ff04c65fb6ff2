"""How undecided the model was at each voxel: the entropy of the averaged probabilities.

Costs one more number a voxel: probabilities are taken row by row and never kept. It is the total predictive entropy;
what of it comes from the data and what from the model is not told apart here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.inference.restore import crop_view
from medseg.preprocessing.grid import Grid


class EntropyOfAverage:
    """Entropy ``(Z, Y, X)`` in nats of the members' mean probabilities, on the file's own grid."""

    def __init__(self, grid: Grid, labels: LabelTable) -> None:
        self.entropy = np.zeros(grid.file_shape, np.float32)
        self._crop, self._labels = crop_view(self.entropy, grid), labels

    def add(self, index: int, rows: Sequence[Tensor]) -> None:
        """Take one row of the crop box."""
        average = (sum(rows[1:]) + rows[0]) / len(rows)
        self._crop[index] = entropy_of(average, self._labels).cpu().numpy()


def entropy_of(probabilities: Tensor, labels: LabelTable) -> Tensor:
    """Entropy in nats ``(Y, X)`` of class probabilities ``(K, Y, X)``; of regions, the mean of each one's own."""
    inside = _plogp(probabilities)
    if labels.activation == "softmax":
        return -inside.sum(0)
    return -(inside + _plogp(1 - probabilities)).mean(0)


def _plogp(p: Tensor) -> Tensor:
    return torch.where(p > 0, p * p.clamp_min(torch.finfo(p.dtype).tiny).log(), torch.zeros_like(p))
