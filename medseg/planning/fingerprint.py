"""The Fingerprint: measurements of a Dataset, from which the Plan is made.

Rules: nnU-Net v2's fingerprint (Isensee et al., Nature Methods 2021). Knows nothing of networks.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from medseg.arrays import Spacing, Triple
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
