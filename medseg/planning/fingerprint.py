"""The Fingerprint: measurements of a Dataset, from which the Plan is made.

Rules: nnU-Net v2's fingerprint (Isensee et al., Nature Methods 2021). Knows nothing of networks.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Spacing, Triple
from medseg.cases.labels import Target
from medseg.documents import Document, Record
from medseg.errors import MedsegError, PlanError


class CaseMeasurements(Record):
    """One Case, in the Fingerprint's orientation."""

    name: str
    spacing: Spacing
    """mm, (z, y, x)."""
    shape: Triple
    """Voxels as stored, (z, y, x)."""
    cropped_shape: Triple
    """Voxels after cropping to the non-zero region."""
    label_voxels: tuple[int, ...]
    """Voxels of each label index, background first."""
    voxel_hash: str
    """SHA-256 of the image's and labels' voxels and affine; equal for equal data, whatever the file format."""
    thumbnail: str = ""
    """By which another file of the same examination is recognised (``medseg.cases.likeness``)."""


class ChannelIntensities(Record):
    """Foreground intensities of one channel over the Dataset, every Case weighing the same."""

    name: str
    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float
    histogram: tuple[int, ...] = ()
    """Voxels drawn in equal steps from the 0.5th to the 99.5th percentile; for pictures."""


class Fingerprint(Document):
    """Measurements of a Dataset; written as ``fingerprint.json``."""

    kind: ClassVar[str] = "fingerprint"
    error: ClassVar[type[MedsegError]] = PlanError

    dataset: str
    orientation: Literal["canonical", "stored"]
    """In which orientation the triples stand: nearest RAS, or as the files store it."""
    labels: tuple[str, ...]
    """Names in index order, background first."""
    channels: tuple[ChannelIntensities, ...]
    cases: tuple[CaseMeasurements, ...]
    median_relative_volume: float
    """Median over Cases of cropped volume / full volume."""

    # What the rules ask of a Fingerprint; one that was pooled over sites has no Cases to answer from, but histograms.

    @property
    def count(self) -> int:
        """How many Cases were measured."""
        return len(self.cases)

    def spacing_percentile(self, percent: float) -> NDArray[np.float64]:
        """Of the spacings of each axis, mm, (z, y, x)."""
        return np.percentile(np.array([case.spacing for case in self.cases], dtype=np.float64), percent, 0)

    def size_percentile(self, percent: float) -> NDArray[np.float64]:
        """Of the cropped sizes of each axis, voxels, (z, y, x)."""
        return np.percentile(np.array([case.cropped_shape for case in self.cases]), percent, 0)

    def median_resampled(self, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """Median over Cases of the cropped size at a target spacing, voxels, (z, y, x); halves occur."""
        resampled = [
            [round(old / new * n) for n, old, new in zip(case.cropped_shape, case.spacing, target, strict=True)]
            for case in self.cases
        ]
        return np.median(resampled, 0)

    def share_of(self, target: Target, number: int) -> tuple[float, int]:
        """(median share of the volume over the Cases that hold a target, how many do); ``number`` is its place.

        The share is 0 where no Case holds it.
        """
        del number  # label voxels tell
        shares = [
            sum(case.label_voxels[index] for index in target.indices) / np.prod(case.shape) for case in self.cases
        ]
        held = [share for share in shares if share > 0]
        return (float(np.median(held)) if held else 0.0), len(held)
