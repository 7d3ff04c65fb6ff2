"""What is kept of a DICOM file while a folder is looked through: some values of its header, no pixels, no names.

Knows nothing of series. A file of several frames (enhanced multi-frame) tells position and orientation frame by frame
in its functional groups; here both kinds look alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

Numbers = tuple[float, ...]

SPLITTING = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "StackID",
    "EchoTime",
    "EffectiveEchoTime",
    "EchoNumbers",
    "ImageType",
    "FrameType",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "AcquisitionTime",
    "ContentTime",
)
"""What may tell the volumes of one series apart, the surest first; looked at only where positions repeat."""
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "Modality", "SeriesDescription", "ProtocolName", "SeriesNumber", "InstanceNumber", "BodyPartExamined",
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames", "PhotometricInterpretation",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ContrastBolusAgent",
    "BurnedInAnnotation", "NumberOfSeriesRelatedInstances", "ReferencedSeriesSequence", *_GROUPS, *SPLITTING,
)  # fmt: skip
"""All that the first look reads."""


@dataclass(frozen=True)
class Frame:
    """Where one frame lies; LPS+, mm, as the header says it. None where it does not."""

    number: int
    """Its place among the frames of its file, from 0."""
    position: Numbers | None
    """x, y, z of the first voxel's centre."""
    orientation: Numbers | None
    """Direction along a row, then along a column."""
    pixel_spacing: Numbers | None
    """Between rows, between columns."""
    traits: tuple[str, ...]
    """Values of ``SPLITTING``; empty texts where there is none."""


@dataclass(frozen=True)
class Header:
    """One image file."""

    path: Path
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    frame_of_reference_uid: str
    patient: str
    """SHA-256 of the patient's ID; empty without one."""
    modality: str
    description: str
    body_part: str
    contrast_agent: str
    image_type: tuple[str, ...]
    series_number: int | None
    instance_number: int | None
    instances_in_series: int | None
    rows: int
    columns: int
    samples: int
    burned_in: bool
    frames: tuple[Frame, ...]


def header_of(dataset: Dataset, path: Path) -> Header:
    """The values of a header. Raises ValueError or the like where one can't be understood."""
    patient = _text(dataset, "PatientID")
    return Header(
        path=path,
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        sop_class_uid=_text(dataset, "SOPClassUID"),
        frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
        patient=hashlib.sha256(patient.encode()).hexdigest() if patient else "",
        modality=_text(dataset, "Modality"),
        description=_text(dataset, "SeriesDescription") or _text(dataset, "ProtocolName"),
        body_part=_text(dataset, "BodyPartExamined"),
        contrast_agent=_text(dataset, "ContrastBolusAgent"),
        image_type=tuple(str(part).upper() for part in _listed(dataset.get("ImageType"))),
        series_number=_integer(dataset, "SeriesNumber"),
        instance_number=_integer(dataset, "InstanceNumber"),
        instances_in_series=_integer(dataset, "NumberOfSeriesRelatedInstances"),
        rows=int(dataset.get("Rows") or 0),
        columns=int(dataset.get("Columns") or 0),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        burned_in=_text(dataset, "BurnedInAnnotation").upper() == "YES",
        frames=tuple(_frames(dataset)),
    )


def _frames(dataset: Dataset) -> Iterator[Frame]:
    shared = _parts(dataset, _GROUPS[0])
    per_frame = dataset.get(_GROUPS[1]) or []
    count = int(dataset.get("NumberOfFrames") or 1)
    if per_frame and len(per_frame) != count:
        raise ValueError(f"it tells of {count} frames but describes {len(per_frame)}")
    for number in range(count):
        own = [dataset, *shared]
        if per_frame:
            own = [*_spread(per_frame[number]), *own]
        yield Frame(
            number,
            _numbers(own, "ImagePositionPatient", 3),
            _numbers(own, "ImageOrientationPatient", 6),
            _numbers(own, "PixelSpacing", 2),
            tuple("/".join(map(str, _listed(_first(own, name)))) for name in SPLITTING),
        )


def _parts(dataset: Dataset, name: str) -> list[Dataset]:
    return [part for item in dataset.get(name) or [] for part in _spread(item)]


def _spread(groups: Dataset) -> list[Dataset]:
    """The functional groups of one frame, each a sequence of (mostly) one item, as a list of datasets."""
    found = [item for element in groups if element.VR == "SQ" for item in element.value[:1]]
    nested = [item for part in found for element in part if element.VR == "SQ" for item in element.value[:1]]
    return [*found, *nested]


def _first(datasets: list[Dataset], name: str) -> Any:
    return next((dataset[name].value for dataset in datasets if name in dataset), None)


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str | bytes) or not hasattr(value, "__iter__") else list(value)


def _numbers(datasets: list[Dataset], name: str, count: int) -> Numbers | None:
    values = tuple(float(value) for value in _listed(_first(datasets, name)))
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def _text(dataset: Dataset, name: str) -> str:
    return "/".join(str(part).strip() for part in _listed(dataset.get(name)))


def _integer(dataset: Dataset, name: str) -> int | None:
    text = _text(dataset, name)
    return int(float(text)) if text else None
