"""How a federated run protects whom, in numbers that every site may see.

Knows nothing of how. What a site allows at most is its own policy (``medseg.federation.policy``).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medseg.documents import Record
from medseg.federation.privacy.accounting import Noise

PrivacyMode = Literal["none", "patient", "client", "secure_patient"]
Trainable = Literal["all", "decoder", "norm_head"]

_TRAINED: dict[Trainable, str] = {
    "all": "",
    "decoder": r"^decoder\.|(^|\.)norm\w*\.",
    "norm_head": r"(^|\.)(norm\w*|heads?)\.",
}


class PrivacySettings(Record):
    """What a run promises about those whose images it learns from."""

    mode: PrivacyMode = "none"
    """none; patient: each patient, also from the server; client: each hospital, from outsiders; secure_patient: each
    patient, with one noise for all hospitals together, under secure aggregation."""
    epsilon: PositiveFloat = 8.0
    """What the whole run may cost, from which the noise follows."""
    noise_multiplier: Noise | None = None
    """Standard deviation of the noise over the clip bound; by default it follows from epsilon."""
    clip: PositiveFloat = 1.0
    """Longest gradient of one patient, or longest change of one hospital in mode client."""
    sample_rate: float = Field(default=0.5, gt=0, le=1)
    """Probability with which a patient takes part in a step; the same everywhere."""
    patches: PositiveInt = 2
    """Patches of each patient in a step; however many, they make one gradient."""
    trained: Trainable = "all"
    """What is trained: all; decoder (with every norm), or norm_head, which need a start that has learned elsewhere."""
    overlapping: bool = False
    """Whether a patient may be at several hospitals: then what they spend adds up."""

    @property
    def per_patient(self) -> bool:
        """Whether patients, not hospitals, are protected."""
        return self.mode in ("patient", "secure_patient")

    def trains(self, name: str) -> bool:
        """Whether the parameter of this name is trained."""
        return re.search(_TRAINED[self.trained], name) is not None
