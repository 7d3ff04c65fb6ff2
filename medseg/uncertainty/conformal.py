"""Guarantees from held-out Cases: contours that contain the truth, and intervals that hold volume and Dice, at a rate.

Knows nothing of networks. Rule: split conformal prediction (Vovk et al. 2005; Angelopoulos & Bates 2023): the number of
a new Case lies, with a chance of at least the rate, on the right side of the k-th of n held-out ones, whatever the
network, as long as all n + 1 Cases are exchangeable. The numbers of one structure in one Case:

    outer    the largest t with 99 % of the true structure within {p >= t}
    inner    the smallest t from which on 99 % of {p >= t} lies in the true structure
    volume   (true - expected volume) / doubtful volume, the sum of p (1 - p)
    dice     true - expected Dice

Thresholds are logits of the network's own probabilities, before calibration, so that no temperature was fitted on the
Cases that they come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.documents import Record
from medseg.uncertainty.structures import EDGES, StructureCounts, voxels_above

SHARE = 0.99
"""Of a structure that counts as all of it: annotators themselves do not agree on the last percent."""
ASSUMPTION = (
    "Holds on average over new cases that are exchangeable with the held-out ones: the same hospital, scanners, "
    "protocol, patients and annotators. The numbers come from networks of single folds, each on cases it has "
    "not seen."
)


class CaseNumbers(Record):
    """What one structure of one held-out Case adds."""

    outer: float
    inner: float
    volume: float | None = None
    """Null where not every voxel was annotated."""
    dice: float | None = None
    """Null where neither the labels nor the prediction hold it."""


class Limits(Record):
    """What is guaranteed of one structure of a new Case; null where there were too few Cases for the rate."""

    outer: float | None = None
    """The true structure lies within the voxels whose logit is at least this."""
    inner: float | None = None
    """The voxels whose logit is at least this lie in the true structure."""
    volume_low: float | None = None
    """Times the doubtful volume, beside the expected volume: lower end of the true one."""
    volume_high: float | None = None
    dice_low: float | None = None
    """The Dice is at least the expected one plus this."""


class StructureNumbers(Record):
    """The numbers of one structure over held-out Cases, each in ascending order, so that none belongs to a Case."""

    name: str
    outer: tuple[float, ...]
    inner: tuple[float, ...]
    volume: tuple[float, ...]
    dice: tuple[float, ...]

    @classmethod
    def of(cls, name: str, cases: Sequence[CaseNumbers]) -> StructureNumbers:
        """Of all Cases together."""
        columns = {key: [getattr(one, key) for one in cases] for key in CaseNumbers.model_fields}
        return cls(
            name=name, **{key: tuple(sorted(x for x in column if x is not None)) for key, column in columns.items()}
        )

    def limits(self, rate: float) -> Limits:
        """What holds for a new Case with a chance of at least ``rate``, each statement by itself."""
        return Limits(
            outer=lower_limit(self.outer, rate),
            inner=upper_limit(self.inner, rate),
            volume_low=lower_limit(self.volume, (1 + rate) / 2),
            volume_high=upper_limit(self.volume, (1 + rate) / 2),
            dice_low=lower_limit(self.dice, rate),
        )


def lower_limit(ascending: Sequence[float], rate: float) -> float | None:
    """What a new number is not below, with a chance of at least ``rate``; None where too few are known."""
    place = int(np.floor((1 - rate) * (len(ascending) + 1) + 1e-9))
    return ascending[place - 1] if place >= 1 else None


def upper_limit(ascending: Sequence[float], rate: float) -> float | None:
    """What a new number is not above, with a chance of at least ``rate``; None where too few are known."""
    found = lower_limit([-one for one in reversed(ascending)], rate)
    return None if found is None else -found


def volume_interval(
    counts: StructureCounts, target: int, limits: Limits, voxel_ml: float
) -> tuple[float | None, float | None]:
    """Both ends in mL of what holds the true volume of one target."""
    expected, doubt = counts.expected_voxels(target), max(counts.doubtful_voxels(target), 1.0)
    low, high = (
        None if limit is None else max(expected + limit * doubt, 0.0) * voxel_ml
        for limit in (limits.volume_low, limits.volume_high)
    )
    return low, high


def case_numbers(
    counts: StructureCounts, target: int, true_voxels: float, expected_dice: float | None, is_annotated: bool
) -> CaseNumbers:
    """The numbers of one target; ``true_voxels`` may be more than the counts hold, where the image was cropped.

    ``is_annotated`` says whether all voxels are.
    """
    true_dice = counts.true_dice(target, true_voxels)
    residual = (true_voxels - counts.expected_voxels(target)) / max(counts.doubtful_voxels(target), 1.0)
    return CaseNumbers(
        outer=outer_number(counts.true[target], true_voxels),
        inner=inner_number(counts.everywhere[target], counts.true[target]),
        volume=residual if is_annotated else None,
        dice=None if true_dice is None or expected_dice is None else true_dice - expected_dice,
    )


def is_covered(case: CaseNumbers, limits: Limits) -> dict[str, bool]:
    """Which of the statements hold for a Case; those without a number, or without a limit, are left out."""
    held: dict[str, bool | None] = {
        "outer": None if limits.outer is None else case.outer >= limits.outer,
        "inner": None if limits.inner is None else case.inner <= limits.inner,
        "volume": None,
        "dice": None if limits.dice_low is None or case.dice is None else case.dice >= limits.dice_low,
    }
    if limits.volume_low is not None and limits.volume_high is not None and case.volume is not None:
        held["volume"] = limits.volume_low <= case.volume <= limits.volume_high
    return {what: one for what, one in held.items() if one is not None}


def outer_number(true: NDArray[np.float64], true_voxels: float) -> float:
    """The largest edge above which at least 99 % of the true voxels lie."""
    enough = np.flatnonzero(voxels_above(true) >= SHARE * true_voxels)
    return float(EDGES[enough[-1]]) if enough.size else float(EDGES[0])


def inner_number(everywhere: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The smallest edge from which on at least 99 % of the voxels above are true."""
    wrong = np.flatnonzero(voxels_above(true) < SHARE * voxels_above(everywhere))
    return float(EDGES[wrong[-1] + 1]) if wrong.size else float(EDGES[0])
