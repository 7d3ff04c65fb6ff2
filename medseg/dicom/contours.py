"""Labels as the contours of an RT Structure Set, one closed line round each part of a structure on each slice.

Follows PS3.3 A.19. The line runs half way between the outermost voxels and those outside (contourpy); holes are lines
of their own, so a reader fills by the even-odd rule. Contours are in patient coordinates: LPS, millimetres.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from medseg import __version__
from medseg.arrays import Labels
from medseg.dicom.origin import MANUFACTURER, NOT_FOR_CLINICAL_USE, Origin, new_object
from medseg.dicom.segmentation import Segment
from medseg.dicom.sources import as_sources

_PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""SOP class that the referenced study sequence still has to name (PS3.3 C.8.8.5, note)."""


def make_structure_set(
    sources: Sequence[Dataset], labels: Labels, segments: Sequence[Segment], origin: Origin
) -> Dataset:
    """The object, not yet written; ``sources`` are one header for each row of ``labels`` (indices, (Z, Y, X))."""
    sources = as_sources(sources, labels)
    made = _header(sources[0], origin)
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(sources)]
    frame = sources[0].FrameOfReferenceUID
    made.StructureSetROISequence = [
        _item(ROINumber=s.number, ReferencedFrameOfReferenceUID=frame, ROIName=s.target.name[:64],
              ROIGenerationAlgorithm="AUTOMATIC", ROIGenerationDescription=NOT_FOR_CLINICAL_USE) for s in segments
    ]  # fmt: skip
    made.ROIContourSequence = [
        _item(ReferencedROINumber=s.number, ROIDisplayColor=list(s.color),
              ContourSequence=list(_contours(sources, s.target.mask(labels)))) for s in segments
    ]  # fmt: skip
    made.RTROIObservationsSequence = [
        _item(ObservationNumber=s.number, ReferencedROINumber=s.number, RTROIInterpretedType="", ROIInterpreter="")
        for s in segments
    ]
    return made


def _header(source: Dataset, origin: Origin) -> Dataset:
    made, identifiers, now = Dataset(), new_object("RTSTRUCT"), datetime.now(UTC)
    for keyword in _PATIENT_AND_STUDY:
        setattr(made, keyword, source.get(keyword, ""))
    if "SpecificCharacterSet" in source:
        made.SpecificCharacterSet = source.SpecificCharacterSet
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, identifiers["sop_instance_uid"]
    made.Modality, made.OperatorsName = "RTSTRUCT", ""
    made.SeriesInstanceUID, made.SeriesNumber = identifiers["series_instance_uid"], identifiers["series_number"]
    made.InstanceNumber, made.SeriesDescription = 1, origin.series_description
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = source.FrameOfReferenceUID, ""
    made.Manufacturer, made.ManufacturerModelName = MANUFACTURER, origin.name
    made.SoftwareVersions, made.DeviceSerialNumber = __version__, origin.checksum[:16]
    made.StructureSetLabel, made.StructureSetDescription = "MEDSEG", NOT_FOR_CLINICAL_USE
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.InstanceCreationDate, made.InstanceCreationTime = made.StructureSetDate, made.StructureSetTime
    made.ApprovalStatus = "UNAPPROVED"
    made.file_meta = _meta(made)
    return made


def _meta(made: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _frame_of_reference(sources: Sequence[Dataset]) -> Dataset:
    first = sources[0]
    series = _item(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[_reference(s) for s in sources])
    study = _item(
        ReferencedSOPClassUID=_DETACHED_STUDY,
        ReferencedSOPInstanceUID=first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contours(sources: Sequence[Dataset], mask: NDArray[np.bool_]) -> Iterator[Dataset]:
    number = 0
    for source, plane in zip(sources, mask, strict=True):
        for line in contour_lines(plane):
            points = _in_patient(source, line)
            number += 1
            yield _item(
                ContourNumber=number,
                ContourImageSequence=[_reference(source)],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(points),
                ContourData=[f"{value:.4f}" for value in points.ravel()],
            )


def contour_lines(plane: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Closed lines (N, 2) as (row, column), last point not repeated, round all that is set in a slice (Y, X)."""
    if not plane.any():
        return
    padded = np.pad(plane, 1).astype(np.float32)
    for line in contour_generator(z=padded).lines(0.5):
        yield np.asarray(line)[:-1, ::-1] - 1.0


def _in_patient(source: Dataset, line: NDArray[np.float64]) -> NDArray[np.float64]:
    """PS3.3 C.7.6.2.1.1: the first direction runs along a row, and is multiplied by the distance of columns."""
    along_row, along_column = np.reshape(np.asarray(source.ImageOrientationPatient, float), (2, 3))
    between_rows, between_columns = (float(value) for value in source.PixelSpacing)
    origin = np.asarray(source.ImagePositionPatient, float)
    return origin + line[:, 1:] * between_columns * along_row + line[:, :1] * between_rows * along_column


def _reference(source: Dataset) -> Dataset:
    return _item(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)


def _item(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made
