"""How sure the prediction of one Case is: maps on its own grid and numbers of its structures, from streamed rows.

Knows nothing of networks or files. Calibration rescales the total entropy; the share of it that the members'
disagreement makes up stays the same. Outside of the crop box everything is certain background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.cases.labels import LabelTable
from medseg.inference.decision import decide, decision_of
from medseg.inference.entropy import entropy_of
from medseg.inference.restore import crop_view
from medseg.networks.dropout import DropoutSample
from medseg.networks.learned_noise import WithFactors
from medseg.planning.plan import FACTORS
from medseg.preprocessing.grid import Grid
from medseg.uncertainty.calibration import Calibration
from medseg.uncertainty.conformal import Limits, volume_interval
from medseg.uncertainty.members import (
    CHANNELS,
    finish_spread,
    join_configurations,
    with_alternatives,
    with_evidence,
    with_spread,
)
from medseg.uncertainty.structures import (
    StructureCounts,
    reaches,
    review_score,
    target_masks,
    target_probabilities,
)
from medseg.uncertainty.summary import (
    CaseUncertainty,
    Guaranteed,
    Source,
    StructureEstimate,
    StructureUncertainty,
    UncertaintySummary,
)
from medseg.uncertainty.temperature import tempered

MAPS = ("entropy", "aleatoric", "epistemic", "variance")
"""Nats, nats, nats; variance of the members' probabilities, summed over classes."""
OUTER, INNER = 1, 2
"""In a map of contours: within the outer one only, and within the inner one."""
_NOTHING = torch.zeros(())


@dataclass(frozen=True)
class Trust:
    """What is known of a model's probabilities: nothing, or what ``medseg calibrate`` has learned, at a rate."""

    table: LabelTable
    calibration: Calibration | None
    rate: float

    def summary(self, source: Source, cases: Sequence[CaseUncertainty]) -> UncertaintySummary:
        """All Cases, the most urgent first."""
        calibrated = self.calibration is not None
        return UncertaintySummary(
            source=source,
            is_calibrated=calibrated,
            rate=self.rate if calibrated else None,
            assumption=self.calibration.assumption if self.calibration is not None else None,
            cases=tuple(sorted(cases, key=lambda case: (case.warning is None, -case.review_score, case.case))),
        )

    @property
    def limits(self) -> tuple[Limits, ...]:
        return () if self.calibration is None else self.calibration.limits(self.rate)

    def temperature_of(self, target: int) -> float:
        return 1.0 if self.calibration is None else self.calibration.structures[target].temperature


class MemberSpread:
    """What ``medseg.inference`` is handed to watch the members' disagreement (``medseg.inference.options.Spread``)."""

    channels = CHANNELS

    def __init__(self, source: Source, trust: Trust, samples: int = 0, seed: int = 0) -> None:
        """``samples`` of each network where features are dropped; which ones follows from ``seed``."""
        self.source: Source = source
        self.trust, self.is_of_mirror_images = trust, source == "tta"
        self.takes_logits = source in ("evidential", "learned")
        self.logits_per_class = 1 + FACTORS if source == "learned" else 1
        self._samples, self._seed = samples, seed

    def members(self, networks: Sequence[nn.Module]) -> Sequence[nn.Module]:
        """The networks themselves, with what may be otherwise, or samples of each with some features dropped."""
        if self.source == "learned":
            return [WithFactors(network) for network in networks]
        if self.source != "dropout":
            return networks
        seeds = range(self._seed, self._seed + self._samples)
        return [DropoutSample(network, seed) for network in networks for seed in seeds]

    def of(self, probabilities: Tensor) -> Tensor:
        """``with_spread``."""
        return with_spread(probabilities, self.trust.table)

    def of_logits(self, logits: Tensor) -> Tensor:
        """``with_evidence`` or ``with_alternatives``."""
        return with_evidence(logits) if self.source == "evidential" else with_alternatives(logits)

    def finish(self, scores: Tensor) -> Tensor:
        """``finish_spread``."""
        return finish_spread(scores, self.trust.table)

    def accumulator(self, grid: Grid) -> CaseAccumulator:
        """What is to see the rows of one Case."""
        return CaseAccumulator(grid, self.trust)


class CaseAccumulator:
    """Takes rows of the members' probabilities as they are computed; an accumulator of ``medseg.inference``."""

    def __init__(self, grid: Grid, trust: Trust) -> None:
        self.maps: dict[str, NDArray[np.float32]] = {name: np.zeros(grid.file_shape, np.float32) for name in MAPS}
        """``(Z, Y, X)`` on the file's own grid."""
        self.contours: tuple[NDArray[np.uint8], ...] = tuple(np.zeros(grid.file_shape, np.uint8) for _ in trust.limits)
        """For each target, where its outer and inner contour lie; none without calibration."""
        self._trust, self._table, self._decision = trust, trust.table, decision_of(trust.table)
        self._maps = [crop_view(array, grid) for array in self.maps.values()]
        self._contours = [crop_view(array, grid) for array in self.contours]
        self._limits = trust.limits
        self._counts = StructureCounts.empty(len(trust.table.targets))
        self._voxel_ml = float(np.prod(grid.cropped_spacing)) / 1000
        for contour, limits in zip(self.contours, self._limits, strict=True):
            # A contour that has to hold everything does not end at the crop box.
            if limits.outer is not None and bool(reaches(_NOTHING, limits.outer)):
                contour[:] = OUTER

    def add(self, index: int, rows: Sequence[Tensor]) -> None:
        """Take in one row of the crop box: what ``finish_spread`` gave of every configuration, on the own grid."""
        parts = join_configurations(list(rows), self._table)
        temperature = 1.0 if self._trust.calibration is None else self._trust.calibration.temperature
        total = entropy_of(tempered(parts.mean, temperature, self._table.activation), self._table)
        epistemic = total * (parts.information / parts.entropy.clamp(min=1e-12)).clamp(0, 1)
        for view, row in zip(
            self._maps, (total, total - epistemic, epistemic, parts.variance.clamp(min=0)), strict=True
        ):
            view[index] = row.cpu().numpy()
        targets = target_probabilities(parts.mean, self._table)
        predicted = target_masks(decide(parts.mean, self._decision), self._table)
        self._counts.add(targets.flatten(1), predicted.flatten(1))
        for view, limits, probability in zip(self._contours, self._limits, targets[: len(self._limits)], strict=True):
            if limits.outer is not None:
                view[index] = OUTER * reaches(probability, limits.outer).cpu().numpy()
            if limits.inner is not None:
                view[index][reaches(probability, limits.inner).cpu().numpy()] = INNER

    def summary(self, case: str, warning: str | None = None) -> CaseUncertainty:
        """The numbers of the Case, once all rows are in; ``warning`` is what is said of its image."""
        found = []
        for place, name in enumerate(self._table.target_names):
            estimate = self._counts.estimate(place, name, self._voxel_ml, self._trust.temperature_of(place))
            guaranteed = self._guaranteed(place, self._limits[place], estimate) if self._limits else None
            found.append(StructureUncertainty(estimate=estimate, guaranteed=guaranteed))
        return CaseUncertainty(
            case=case,
            review_score=review_score([one.estimate for one in found]),
            structures=tuple(found),
            warning=warning,
        )

    def _guaranteed(self, place: int, limits: Limits, estimate: StructureEstimate) -> Guaranteed:
        dice = None
        if limits.dice_low is not None and estimate.expected_dice is not None:
            dice = min(max(estimate.expected_dice + limits.dice_low, 0.0), 1.0)
        low, high = volume_interval(self._counts, place, limits, self._voxel_ml)
        return Guaranteed(volume_low_ml=low, volume_high_ml=high, dice_low=dice)
