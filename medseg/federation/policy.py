"""What a site allows: its own file decides, and no coordinator can override it.

Knows nothing of how a site works. Every field's default is the strictest that still lets a training run.
"""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt

from medseg.documents import Record


class SitePolicy(Record):
    """The rules of one site."""

    actions: tuple[str, ...] = ("check", "fingerprint", "prepare", "train", "evaluate")
    """What the site answers at all."""
    min_count: PositiveInt = 5
    """Fewest patients over whom anything is counted or averaged before it leaves."""
    fingerprint_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of Gaussian noise on every bin of the histograms from which the plan is made; 0 for none."""
    suppress_below: PositiveInt = 1
    """Bins of fewer cases count as empty; 3 hides those of one or two, and moves quantiles where cases are few."""
    max_rounds: PositiveInt = 1000
    """Rounds of training in one run."""
    max_gigabytes: PositiveFloat = 100
    """What may leave the site in all its runs together."""
    max_hours: PositiveFloat = 1000
    """For how long the site works in all its runs together."""
    patient_privacy: bool = False
    """Whether the site trains only where its patients are protected (privacy=patient or secure_patient)."""
    epsilon_budget: PositiveFloat = 10.0
    """What all private runs together may cost its patients, at delta 1 / (10 patients); no round may pass it."""
    secure_aggregation: bool = False
    """Whether the site answers only where its change leaves masked, as part of a sum."""
    metrics: tuple[str, ...] = ("loss", "dice", "dice_low", "dice_high", "hd95_mm", "structures")
    """Measured numbers that may leave; of others the coordinator learns that there is none."""
    decimals: int = Field(default=4, ge=1, le=6)
    """Metrics are rounded to so many decimals before they leave."""
