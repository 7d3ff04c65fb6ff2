"""What a federated run does, in numbers that every site may see: they travel with each Request.

Knows nothing of sites. What a site allows is its own policy (``medseg.federation.policy``), never a setting here.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator

from medseg.documents import Record
from medseg.errors import SiteError
from medseg.federation.compression import Compression
from medseg.federation.messages import JSON
from medseg.federation.privacy.settings import PrivacySettings

_KEPT = {"norm": r"(^|\.)norm[\w]*\.", "head": r"(^|\.)heads?\."}
"""Names for what is often kept; anything else is a regular expression over names of tensors."""


class RunSettings(Record):
    """What sites and coordinator have agreed on for one run."""

    rounds: PositiveInt = 5
    """Exchanges of weights."""
    steps: PositiveInt = 20
    """Iterations that a site trains in a round."""
    proximal_mu: float = Field(default=0.0, ge=0)
    """FedProx: mu / 2 times the squared distance from the weights that were sent is added to the loss."""
    control: bool = False
    """SCAFFOLD: gradients are corrected by how a site's differ from all sites'."""
    keep_local: str = ""
    """Which tensors never leave a site: norm, head, or a regular expression over their names; empty for none."""
    compression: Compression = "none"
    """How a site's change is made smaller for the way: none, fp16, or int8."""
    server_rate: PositiveFloat = 1.0
    """Factor on the step of the server (strategies fedavgm and fedadam have their own)."""
    weighting: Literal["cases", "uniform"] = "cases"
    """Sites count by the number of cases that they declared, or all alike."""

    privacy: PrivacySettings = PrivacySettings()
    """Who is protected, and at what price."""
    secure_aggregation: bool = False
    """Whether the coordinator sees the sum of the sites' changes only (always with privacy.mode=secure_patient)."""

    @field_validator("keep_local")
    @classmethod
    def _readable(cls, pattern: str) -> str:
        try:
            re.compile(_KEPT.get(pattern, pattern))
        except re.error as error:
            raise ValueError(f"expected norm, head or a regular expression, but {error}") from None
        return pattern

    @property
    def iterations(self) -> int:
        """Of a site, over all rounds."""
        return self.rounds * self.steps

    @property
    def is_masked(self) -> bool:
        """Whether changes leave a site masked."""
        return self.secure_aggregation or self.privacy.mode == "secure_patient"

    def is_kept(self, name: str) -> bool:
        """Whether a tensor of this name stays at its site."""
        return bool(self.keep_local) and re.search(_KEPT.get(self.keep_local, self.keep_local), name) is not None


def read_settings(value: JSON) -> RunSettings:
    """The settings in a Request's header. Raises SiteError("bad-settings")."""
    try:
        return RunSettings.model_validate(value)
    except ValidationError:
        raise SiteError("bad-settings") from None
