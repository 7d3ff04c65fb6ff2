"""The numbers of how sure a prediction is, as documents.

Knows nothing of how they are computed, and imports no torch: a page that shows them opens in a second.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from medseg.documents import Document, Record

Source = Literal["tta", "ensemble", "dropout", "snapshots", "evidential", "learned"]
"""What the members were."""


class StructureEstimate(Record):
    """One structure of one Case."""

    name: str
    prediction_ml: float
    """Volume of the predicted labels."""
    expected_ml: float
    """Sum of the probabilities."""
    low_ml: float
    """Lower end of the volume's 90 % credible interval: what is in the structure with 95 % probability."""
    high_ml: float
    """Upper end: what is in it with 5 % probability."""
    presence: float
    """Probability that it is there at all: the largest of any voxel."""
    expected_dice: float | None = None
    """Estimate of the prediction's Dice; null where nothing was found and nothing seems missed."""


class Guaranteed(Record):
    """What holds at the chosen rate, each statement by itself; null where there were too few held-out Cases."""

    volume_low_ml: float | None = None
    volume_high_ml: float | None = None
    dice_low: float | None = None


class StructureUncertainty(Record):
    """One structure of one Case."""

    estimate: StructureEstimate
    guaranteed: Guaranteed | None = None
    """Only with a calibrated model."""


class CaseUncertainty(Record):
    """One Case."""

    case: str
    review_score: float
    """0 to 1, the most urgent first: 1 minus the lowest expected Dice."""
    structures: tuple[StructureUncertainty, ...]
    warning: str | None = None
    """Where the image is unlike those that the model was checked on; such a Case comes before all others."""


class UncertaintySummary(Document):
    """``uncertainty.json``: every Case of one run, the most urgent first."""

    kind: ClassVar[str] = "uncertainty"

    source: Source
    is_calibrated: bool
    rate: float | None = None
    """Of what is guaranteed; only with a calibrated model."""
    assumption: str | None = None
    cases: tuple[CaseUncertainty, ...]
