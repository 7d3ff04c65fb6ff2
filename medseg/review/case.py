"""What there is to look at in one Case: its images, what models found in them, the reference, and earlier doubts.

Knows names and paths only; nothing here opens an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medseg.cases.case import Case
from medseg.cases.labels import LabelTable
from medseg.errors import DatasetError
from medseg.evaluation.measurements import VolumeInterval
from medseg.uncertainty.summary import CaseUncertainty

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Finding:
    """One label map of a Case: a prediction, a correction, or the reference."""

    name: str
    """What it is called on the page, such as "3d_fullres, fold 0"."""
    labels: Path
    table: LabelTable
    maps: Mapping[str, Path] = field(default_factory=dict)
    """Of uncertainty, on the same grid, by name: entropy, aleatoric, epistemic, variance."""
    uncertainty: CaseUncertainty | None = None
    intervals: Mapping[str, VolumeInterval] = field(default_factory=dict)
    """Of structures' volumes, where the model was calibrated."""
    remarks: tuple[str, ...] = ()
    """Warnings of the run that made it."""


@dataclass(frozen=True)
class ReviewCase:
    """One Case as the worklist knows it."""

    name: str
    images: tuple[Path, ...]
    channels: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    """What models found, the most telling first."""
    reference: Finding | None = None
    """Labels drawn by people."""
    description: str = ""
    """Text of a header, which anybody may have written: it is shown as text only."""

    def __post_init__(self) -> None:
        require_name(self.name)

    @property
    def urgency(self) -> float | None:
        """0 to 1, the largest first in the worklist; None where nobody has asked how sure the model is."""
        return next((one.uncertainty.review_score for one in self.findings if one.uncertainty is not None), None)

    @property
    def is_unusual(self) -> bool:
        """Whether a model was warned that the image is unlike those it has learned from."""
        return any(one.uncertainty is not None and one.uncertainty.warning is not None for one in self.findings)

    @property
    def as_case(self) -> Case:
        """The Case that is read."""
        return Case(self.name, self.images, self.reference.labels if self.reference else None)

    def finding(self, name: str) -> Finding | None:
        """The one of this name, the reference included."""
        known = (*self.findings, *([self.reference] if self.reference else ()))
        return next((one for one in known if one.name == name), None)


def require_name(name: str) -> str:
    """The name, where it is fit to name a file or folder. Raises DatasetError otherwise: no path may come in by it."""
    if not _NAME.fullmatch(name):
        raise DatasetError(
            f"{name[:140]!r} can't name a case. Use 1 to 128 letters, digits, dots, dashes and underscores, not "
            "starting with a dot."
        )
    return name
