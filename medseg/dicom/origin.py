"""Who made an object: medseg, its version, the model with its checksum; and the words that must stand in each.

Every object that medseg writes is unverified and says that it is not for clinical use (SECURITY.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import highdicom as hd

from medseg import __version__
from medseg.dicom.codes import ARTIFICIAL_INTELLIGENCE

MANUFACTURER = "medseg"
NOT_FOR_CLINICAL_USE = "AI result, unverified, not for clinical use"
_NOT_FOR_CLINICAL_USE = "Unverified, not for clinical use"
_SERIES_NUMBERS = {"SEG": 9001, "SR": 9002, "RTSTRUCT": 9003, "PMAP": 9004}
"""Far above what scanners count to, so that results stand behind the images."""


Made = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]


@dataclass(frozen=True)
class Origin:
    """The model that made a result, or the file that it was read from."""

    model: str
    """Its name for people, of a dataset and not of a patient."""
    checksum: str
    """``Networks.identity``: hash of the weights and of the preparation; or of the file."""
    made: Made = "AUTOMATIC"
    """By the model named here, or by whoever made the file."""

    @property
    def name(self) -> str:
        """At most 64 characters, as the attributes that hold it allow."""
        return f"medseg {self.model}"[:64]

    @property
    def series_description(self) -> str:
        ending = " (AI, not for clinical use)" if self.made == "AUTOMATIC" else " (not for clinical use)"
        return f"medseg {self.model}"[: 64 - len(ending)] + ending

    @property
    def notice(self) -> str:
        return NOT_FOR_CLINICAL_USE if self.made == "AUTOMATIC" else _NOT_FOR_CLINICAL_USE

    @property
    def parameters(self) -> dict[str, str]:
        return {"model_sha256": self.checksum, "notice": self.notice}

    def algorithm(self) -> hd.AlgorithmIdentificationSequence | None:
        """None for what a person has drawn."""
        if self.made == "MANUAL":
            return None
        return hd.AlgorithmIdentificationSequence(
            self.name, ARTIFICIAL_INTELLIGENCE, __version__, MANUFACTURER, self.parameters
        )

    def equipment(self) -> dict[str, Any]:
        """The equipment attributes as highdicom's constructors name them."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": self.name,
            "software_versions": __version__,
            "device_serial_number": self.checksum[:16],
        }


def new_object(kind: str) -> dict[str, Any]:
    """Identifiers of a new object in a series of its own, as highdicom's constructors name them."""
    return {
        "series_instance_uid": str(hd.UID()),
        "series_number": _SERIES_NUMBERS[kind],
        "sop_instance_uid": str(hd.UID()),
        "instance_number": 1,
    }
