"""What probabilities say of each structure: volume, presence, and how good the prediction can be expected to be.

Knows nothing of networks or files. Probabilities are counted into fine histograms of their logits while rows stream by.
From then on the truth is thought of as one of the sets ``{p > u}``, with u drawn uniformly from 0 to 1: every voxel
keeps its own probability, and neighbours are wrong together, as a contour that is drawn too wide or too narrow. (With
independent voxels the volume would be known to a fraction of a percent, which no reader would believe.) Then the
quantiles of the volume are volumes of such sets, and the expected Dice is the mean over u of the Dice with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from medseg.cases.labels import LabelTable
from medseg.uncertainty.summary import StructureEstimate

_STEP, _LARGEST = 0.01, 16.0
"""Of the histograms, in logits; in single precision no probability below 1 has a logit above 16.6."""
BINS = round(2 * _LARGEST / _STEP)
EDGES: NDArray[np.float64] = np.linspace(-_LARGEST, _LARGEST, BINS + 1)
"""Logits between the bins. The first stands for everything below it as well, the last for nothing at all."""
CREDIBLE = 0.9


def target_probabilities(probabilities: Tensor, table: LabelTable) -> Tensor:
    """Of each target ``(T, ...)``: the regions', else all classes' but the background's."""
    return probabilities if table.activation == "sigmoid" else probabilities[1:]


def target_masks(indices: Tensor, table: LabelTable) -> Tensor:
    """Where each target is in label indices ``(...)``: ``(T, ...)``."""
    found = [torch.isin(indices, torch.tensor(target.indices, device=indices.device)) for target in table.targets]
    return torch.stack(found)


def reaches(probabilities: Tensor, limit: float) -> Tensor:
    """Where the logit is at least ``limit``, one of EDGES: everywhere at the first of them, nowhere at the last."""
    return _bins_of(probabilities) >= round((limit + _LARGEST) / _STEP)


@dataclass(frozen=True)
class StructureCounts:
    """Voxels of each target by the logit of their probability: all of them, those predicted, and those in the truth."""

    everywhere: Float[np.ndarray, "T B"]
    predicted: Float[np.ndarray, "T B"]
    true: Float[np.ndarray, "T B"]
    both: Float[np.ndarray, " T"]
    """Voxels that are predicted and true."""

    @classmethod
    def empty(cls, targets: int) -> StructureCounts:
        """Of no voxel yet."""
        everywhere, predicted, true = np.zeros((3, targets, BINS))
        return cls(everywhere, predicted, true, np.zeros(targets))

    def add(self, probabilities: Tensor, predicted: Tensor, true: Tensor | None = None) -> None:
        """Count voxels ``(T, N)``; ``predicted`` and ``true`` say where the targets are, ``(T, N)``."""
        shape = self.everywhere.shape
        place = _bins_of(probabilities) + BINS * torch.arange(shape[0], device=probabilities.device)[:, None]
        self.everywhere[:] += _counted(place.reshape(-1), shape)
        self.predicted[:] += _counted(place[predicted], shape)
        if true is not None:
            self.true[:] += _counted(place[true], shape)
            self.both[:] += (predicted & true).sum(dim=1).cpu().numpy()

    def estimate(self, target: int, name: str, voxel_ml: float, temperature: float = 1.0) -> StructureEstimate:
        """What they say of one target, once its probabilities are calibrated by its own temperature."""
        above = voxels_above(self.everywhere[target])
        low, high = (float(np.interp(temperature * np.log(p / (1 - p)), EDGES, above)) for p in (1 - _TAIL, _TAIL))
        filled = np.flatnonzero(self.everywhere[target])
        presence = float(_sigmoid(_CENTRES[filled[-1]] / temperature)) if filled.size else 0.0
        return StructureEstimate(
            name=name,
            prediction_ml=float(self.predicted[target].sum()) * voxel_ml,
            expected_ml=self.expected_voxels(target, temperature) * voxel_ml,
            low_ml=low * voxel_ml,
            high_ml=high * voxel_ml,
            presence=presence,
            expected_dice=self._expected_dice(target, temperature, presence),
        )

    def expected_voxels(self, target: int, temperature: float = 1.0) -> float:
        """Sum of the probabilities."""
        return float((self.everywhere[target, 1:] * _sigmoid(_CENTRES[1:] / temperature)).sum())

    def doubtful_voxels(self, target: int) -> float:
        """Sum of p (1 - p): how many voxels could as well be otherwise."""
        p = _sigmoid(_CENTRES[1:])
        return float((self.everywhere[target, 1:] * p * (1 - p)).sum())

    def true_dice(self, target: int, true_voxels: float) -> float | None:
        """Dice of the prediction with the truth; None where neither holds the target."""
        total = float(self.predicted[target].sum()) + true_voxels
        return 2 * float(self.both[target]) / total if total else None

    def _expected_dice(self, target: int, temperature: float, presence: float) -> float | None:
        size = float(self.predicted[target].sum())
        if not size:
            return 0.0 if presence > 0.5 else None
        truth, both = (voxels_above(counts[target]) for counts in (self.everywhere, self.predicted))
        return float(np.trapezoid(2 * both / (size + truth), _sigmoid(EDGES / temperature)))


_CENTRES = (EDGES[:-1] + EDGES[1:]) / 2
_TAIL = (1 - CREDIBLE) / 2


def review_score(estimates: Sequence[StructureEstimate]) -> float:
    """By which a worklist is sorted, 0 to 1, the most urgent first: 1 minus the lowest expected Dice.

    1 where no structure was found at all, which somebody should look at.
    """
    found = [one.expected_dice for one in estimates if one.expected_dice is not None]
    return 1 - min(found) if found else 1.0


def voxels_above(counts: Float[np.ndarray, " B"]) -> Float[np.ndarray, " E"]:
    """Voxels above each of EDGES."""
    return np.concatenate([counts[::-1].cumsum()[::-1], [0.0]])


def _bins_of(probabilities: Tensor) -> Tensor:
    logits = torch.logit(probabilities.double(), eps=1e-9)
    return ((logits + _LARGEST) / _STEP).floor_().clamp_(0, BINS - 1).long()


def _counted(place: Tensor, shape: tuple[int, ...]) -> NDArray[np.integer]:
    return torch.bincount(place, minlength=int(np.prod(shape))).reshape(shape).cpu().numpy()


def _sigmoid(logits: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.asarray(logits))))
