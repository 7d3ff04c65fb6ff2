"""CT series whose voxels tell their own places, so that wrong stacking shows: 1100 (z + 1) + 32 y + x - 1024 HU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING = (2.5, 0.8, 0.7)
SHAPE = (8, 33, 32)


def uid(*names: object) -> str:
    """The same UID for the same names."""
    return generate_uid(entropy_srcs=["medseg", *map(str, names)])


def coded_voxels(shape: Sequence[int] = SHAPE) -> NDArray[np.uint16]:
    """Stored values (Z, Y, X) that tell z, y and x; 1024 more than the Hounsfield units."""
    z, y, x = np.indices(tuple(shape))
    return (1100 * (z + 1) + 32 * y + x).astype(np.uint16)


def make_series(
    voxels: NDArray[Any] | None = None,
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = (-30.0, 20.0, -100.0),
    name: str = "series",
    **attributes: Any,
) -> list[FileDataset]:
    """One dataset for each slice, z ascending along row x column; ``attributes`` are set on every one of them."""
    voxels = coded_voxels() if voxels is None else voxels
    normal = np.cross(orientation[:3], orientation[3:])
    series = []
    for z, plane in enumerate(voxels):
        dataset = _bare(CTImageStorage, uid(name, "slice", z))
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid(name)
        dataset.FrameOfReferenceUID = uid("frame of reference")
        dataset.PatientID, dataset.PatientName, dataset.Modality = "p1", "Muster^Ähnlich", "CT"
        dataset.SeriesDescription, dataset.SeriesNumber, dataset.InstanceNumber = "phantom", 1, z + 1
        dataset.AcquisitionNumber, dataset.ImageType = 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImagePositionPatient = [f"{value:.6g}" for value in np.add(origin, z * spacing[0] * normal)]
        dataset.ImageOrientationPatient = [f"{value:.9g}" for value in orientation]
        dataset.PixelSpacing, dataset.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        for key, value in attributes.items():
            setattr(dataset, key, value)
        dataset.code = z + 1  # not an element: what the voxels of this slice tell
        set_pixels(dataset, plane)
        series.append(dataset)
    return series


def set_pixels(dataset: Dataset, plane: NDArray[Any]) -> None:
    """Signed or unsigned pixels of 16 bits."""
    dataset.Rows, dataset.Columns = plane.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (
        1,
        dataset.get("PhotometricInterpretation", "MONOCHROME2"),
    )
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(np.issubdtype(plane.dtype, np.signedinteger))
    dataset.PixelData = np.ascontiguousarray(plane).tobytes()


def to_enhanced(slices: Sequence[FileDataset]) -> FileDataset:
    """The same slices as frames of one Enhanced CT file, in the order in which they are given."""
    first = slices[0]
    file = _bare(EnhancedCTImageStorage, uid("enhanced", first.SeriesInstanceUID))
    for name in (
        "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "Modality",
        "SeriesDescription", "SeriesNumber", "InstanceNumber", "ImageType",
    ):  # fmt: skip
        setattr(file, name, first[name].value)
    file.NumberOfFrames = len(slices)
    measures = _item(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    file.SharedFunctionalGroupsSequence = [_item(PixelMeasuresSequence=[measures])]
    file.PerFrameFunctionalGroupsSequence = [_frame_groups(one) for one in slices]
    set_pixels(file, np.stack([one.pixel_array for one in slices]))
    return file


def _frame_groups(one: Dataset) -> Dataset:
    content = _item(TemporalPositionIndex=one.get("TemporalPositionIdentifier", 1))
    rescale = _item(RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="HU")
    return _item(
        FrameContentSequence=[content],
        PlanePositionSequence=[_item(ImagePositionPatient=one.ImagePositionPatient)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=one.ImageOrientationPatient)],
        PixelValueTransformationSequence=[rescale],
    )


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for key, value in attributes.items():
        setattr(item, key, value)
    return item


def save(datasets: Iterable[FileDataset], folder: Path, stem: str = "") -> list[Path]:
    """Write files whose names have nothing to do with the order of slices."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets):
        paths.append(folder / f"{stem}{(number * 7919 + 13) % 10007:05d}")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def affine_of(
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = (-30.0, 20.0, -100.0),
) -> NDArray[np.float64]:
    """The RAS+ affine of (z, y, x, 1) that the standard gives such a series (PS3.3 C.7.6.2.1.1)."""
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    affine = np.eye(4)
    affine[:3, 0] = np.cross(along_row, along_column) * spacing[0]
    affine[:3, 1], affine[:3, 2] = along_column * spacing[1], along_row * spacing[2]
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _bare(sop_class: str, instance: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return dataset
