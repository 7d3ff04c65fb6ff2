"""Do probabilities keep what they promise, and is uncertainty where the errors are: counts that add up over Cases.

Knows nothing of networks or files. Voxels are counted into fine histograms, so that any number of them takes the same
memory; two counts of different Cases may be added. Rules: ECE with 15 bins of equal width (Guo et al. 2017) and with
15 bins of equal mass (Nixon et al. 2019), Brier score and negative log likelihood in nats, risk-coverage curve
(Geifman & El-Yaniv 2017), AUROC of uncertainty against error with ties counted half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Num
from numpy.typing import NDArray

from medseg.documents import Record
from medseg.errors import MedsegError

BINS = 15
_FINE = 100 * BINS
_SHARPNESS = 4
"""Entropies are counted by their fourth root: most voxels of an image are nearly certain, and still ordered."""
_SMALLEST = 1e-12


class ReliabilityBin(Record):
    """Voxels whose confidence lies in one bin."""

    share: float
    """Of all voxels."""
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Share of them that are right."""


class CalibrationScores(Record):
    """What probabilities are worth, over the voxels that were counted."""

    voxels: float
    """How many, or their total weight."""
    accuracy: float
    ece: float
    """Expected calibration error, 15 bins of equal width."""
    adaptive_ece: float
    """The same with 15 bins of equal mass."""
    brier: float
    """Mean squared distance to the truth, summed over classes: 0 to 2."""
    nll: float
    """Mean negative log likelihood, nats."""
    auroc: float | None = None
    """Chance that a wrong voxel is more uncertain (predictive entropy) than a right one; null without either."""
    aurc: float
    """Area under the risk-coverage curve: mean error rate of the most certain voxels, over all shares of them."""
    reliability: tuple[ReliabilityBin, ...]
    """Bins of equal width that hold a voxel, the least confident first."""


@dataclass(frozen=True)
class Outcomes:
    """What became of each voxel: one entry each (for regions one for each voxel and region)."""

    confidence: Float[np.ndarray, " N"]
    """Probability of what was chosen."""
    right: Bool[np.ndarray, " N"]
    brier: Float[np.ndarray, " N"]
    nll: Float[np.ndarray, " N"]
    uncertainty: Float[np.ndarray, " N"]
    """Predictive entropy over its largest possible value, 0 to 1."""


def class_outcomes(probabilities: Float[np.ndarray, "K N"], truth: Integer[np.ndarray, " N"]) -> Outcomes:
    """Outcomes of classes that exclude one another; ``truth`` holds the right class of each voxel."""
    voxels = np.arange(truth.size)
    p = probabilities.astype(np.float64)
    of_truth = p[truth, voxels]
    chosen = p.argmax(axis=0)
    return Outcomes(
        confidence=p[chosen, voxels],
        right=chosen == truth,
        brier=(p**2).sum(axis=0) - 2 * of_truth + 1,
        nll=-np.log(np.maximum(of_truth, _SMALLEST)),
        uncertainty=-(p * np.log(np.maximum(p, _SMALLEST))).sum(axis=0) / np.log(len(p)),
    )


def region_outcomes(probabilities: Float[np.ndarray, "R N"], truth: Bool[np.ndarray, "R N"]) -> Outcomes:
    """Outcomes of regions, each of which is found (above 1/2) or not by itself; ``truth`` says where each one is."""
    both = [
        class_outcomes(np.stack([1 - p, p]), found.astype(np.int64))
        for p, found in zip(probabilities, truth, strict=True)
    ]
    return Outcomes(*(np.concatenate([getattr(one, name) for one in both]) for name in Outcomes.__dataclass_fields__))


class CalibrationCounts:
    """Outcomes of any number of voxels, in histograms of fixed size."""

    def __init__(self) -> None:
        self._confidence = np.zeros((3, _FINE))  # weight, weighted confidence, weight of what is right
        self._uncertainty = np.zeros((2, _FINE))  # weight of what is right, and of what is wrong
        self._sums = np.zeros(2)  # Brier, negative log likelihood

    def add(self, outcomes: Outcomes, weight: Num[np.ndarray, " N"] | None = None) -> None:
        """Count voxels, each with its weight (1 when left out)."""
        weight = np.ones(outcomes.right.size) if weight is None else weight.astype(np.float64)
        place = np.clip((outcomes.confidence * _FINE).astype(np.int64), 0, _FINE - 1)
        for row, values in enumerate((weight, weight * outcomes.confidence, weight * outcomes.right)):
            self._confidence[row] += np.bincount(place, values, _FINE)
        level = np.clip(outcomes.uncertainty, 0, 1) ** (1 / _SHARPNESS)
        place = np.clip((level * _FINE).astype(np.int64), 0, _FINE - 1)
        for row, is_counted in enumerate((outcomes.right, ~outcomes.right)):
            self._uncertainty[row] += np.bincount(place, weight * is_counted, _FINE)
        self._sums += (weight * outcomes.brier).sum(), (weight * outcomes.nll).sum()

    def __add__(self, other: CalibrationCounts) -> CalibrationCounts:
        total = CalibrationCounts()
        for name in ("_confidence", "_uncertainty", "_sums"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        return total

    def scores(self) -> CalibrationScores:
        """The numbers. Raises MedsegError when nothing was counted."""
        total = float(self._confidence[0].sum())
        if total == 0:
            raise MedsegError("No voxel was counted, so there is no calibration to speak of.")
        equal_width = self._confidence.reshape(3, BINS, -1).sum(axis=2)
        brier, nll = (self._sums / total).tolist()
        bins = (column.tolist() for column in equal_width.T)
        return CalibrationScores(
            voxels=total,
            accuracy=float(self._confidence[2].sum()) / total,
            ece=_calibration_error(equal_width),
            adaptive_ece=_calibration_error(_equal_mass(self._confidence)),
            brier=brier,
            nll=nll,
            auroc=_auroc(self._uncertainty),
            aurc=_aurc(self._uncertainty),
            reliability=tuple(
                ReliabilityBin(share=weight / total, confidence=confidence / weight, accuracy=right / weight)
                for weight, confidence, right in bins
                if weight
            ),
        )

    def risk_coverage(self, points: int = 101) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shares of voxels, the most certain first, and the error rate among them."""
        counts = np.concatenate([np.zeros((2, 1)), self._uncertainty.cumsum(axis=1)], axis=1)
        coverage = np.linspace(0, 1, points)[1:]
        kept = coverage * counts.sum(axis=0)[-1]
        wrong = np.interp(kept, counts.sum(axis=0), counts[1])
        return coverage, wrong / kept


def _calibration_error(bins: NDArray[np.float64]) -> float:
    return float(np.abs(bins[2] - bins[1]).sum() / bins[0].sum())


def _equal_mass(fine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fine bins joined to groups of nearly equal weight; a fine bin is never split."""
    middle = fine[0].cumsum() - fine[0] / 2
    group = np.minimum((middle / fine[0].sum() * BINS).astype(np.int64), BINS - 1)
    return np.array([np.bincount(group, row, BINS) for row in fine], dtype=np.float64)


def _auroc(counts: NDArray[np.float64]) -> float | None:
    right, wrong = counts
    if not right.sum() or not wrong.sum():
        return None
    below = right.cumsum() - right / 2
    return float((wrong * below).sum() / (right.sum() * wrong.sum()))


def _aurc(counts: NDArray[np.float64]) -> float:
    """Exact for voxels of one bin in random order: the error rate is integrated over each bin."""
    voxels, wrong = counts.sum(axis=0), counts[1]
    voxels, wrong = voxels[voxels > 0], wrong[voxels > 0]
    before, wrong_before = voxels.cumsum() - voxels, wrong.cumsum() - wrong
    rate = wrong / voxels
    rest = np.zeros_like(rate)
    rest[1:] = (wrong_before - rate * before)[1:] * np.log1p(voxels[1:] / before[1:])
    return float((wrong + rest).sum() / voxels.sum())
