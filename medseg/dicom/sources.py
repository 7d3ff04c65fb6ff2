"""Headers of real series, made fit for new objects to be made from them.

Real series leave out attributes that every object must have, and round the direction cosines slice by slice; neither
highdicom nor an archive forgives that. Only copies are changed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medseg.errors import GeometryError

_ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines of one series may differ by as much: scanners round them to text slice by slice."""
_ALWAYS_THERE = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes of type 2: they may be empty but not missing, and still often are."""


def as_sources(headers: Sequence[Dataset], frames: NDArray[Any]) -> list[Dataset]:
    """``completed`` copies for an object that holds ``frames`` (Z, Y, X, ...).

    Raises GeometryError where headers and frames are not equally many or large, or orientations differ.
    """
    count = sum(int(header.get("NumberOfFrames") or 1) for header in headers)
    size = (int(headers[0].Rows), int(headers[0].Columns))
    if (count, *size) != frames.shape[:3]:
        raise GeometryError(
            f"What was found has shape {frames.shape[:3]} but the series has {count} frames of {size} (z, y, x). It "
            "has to be on the series' own grid."
        )
    return completed(headers)


def completed(headers: Sequence[Dataset]) -> list[Dataset]:
    """Copies with every attribute that must be there (empty where it was missing) and one orientation for all.

    Raises GeometryError without a frame of reference, or where orientations differ by more than rounding.
    """
    if "FrameOfReferenceUID" not in headers[0]:
        raise GeometryError("The series names no frame of reference, so no DICOM object can refer to its places.")
    sources = [copy.deepcopy(header) for header in headers]
    first = sources[0].get("ImageOrientationPatient")
    for source in sources:
        for keyword in _ALWAYS_THERE:
            if keyword not in source:
                setattr(source, keyword, None)
        if "SharedFunctionalGroupsSequence" in source:
            _share(source)
        if first is None:  # an enhanced image has it in its groups
            continue
        if np.abs(np.subtract(source.ImageOrientationPatient, first)).max() > _ORIENTATION_TOLERANCE:
            raise GeometryError("The slices of the series lie in different orientations; no object can hold them all.")
        source.ImageOrientationPatient = first
    return sources


def _share(source: Dataset) -> None:
    """Put what an enhanced image says of each frame where it says what all frames share, if it is the same."""
    shared, frames = source.SharedFunctionalGroupsSequence[0], source.get("PerFrameFunctionalGroupsSequence") or []
    for sequence, keyword in (
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    ):
        found = [frame[sequence].value[0] for frame in frames if sequence in frame]
        if sequence in shared or not found:
            continue
        first = found[0].get(keyword)
        for other in found:
            if np.abs(np.subtract(other.get(keyword), first)).max() > _ORIENTATION_TOLERANCE:
                raise GeometryError("The frames of the image do not lie alike; no DICOM object can hold them all.")
        setattr(shared, sequence, [copy.deepcopy(found[0])])
