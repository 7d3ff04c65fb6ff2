"""A DICOM segmentation as Labels on the grid of the image that it was drawn on.

Knows nothing of Datasets. Every frame says where it lies; it has to be a plane of the image's grid, row for row and
column for column (to 5 % of a voxel). Planes that are absent hold nothing (PS3.3 C.8.20).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.arrays import Labels, label_dtype
from medseg.errors import GeometryError, ImageFileError
from medseg.images.dicom.geometry import affine_of, axes_of
from medseg.images.dicom.header import Frame, header_of
from medseg.images.dicom.names import Structure, overlapping, values_of
from medseg.images.volume import Volume

_OFF_VOXELS = 0.05


def segments_of(dataset: Dataset) -> list[Structure]:
    """What the file names, by SegmentNumber; number 0 of a label map is its background and left out."""
    return [_structure(item) for item in dataset.get("SegmentSequence", []) if int(item.SegmentNumber) > 0]


def read_segmentation(path: Path, image: Volume, values: Mapping[str, int]) -> Labels:
    """Labels ``(Z, Y, X)`` of the image's grid, with the value that each segment's name has.

    Raises ImageFileError for unknown names, probabilities, and segments that overlap, GeometryError for another grid.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        if dataset.get("SegmentationType") == "FRACTIONAL":
            sentence = f"{path} holds probabilities (SegmentationType FRACTIONAL), but labels are whole numbers."
            raise ImageFileError("fractional-labels", sentence, "Export it as BINARY or LABELMAP.")
        structures = segments_of(dataset)
        own_values = values_of(path, structures, values)
        frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
        header = header_of(dataset, path)
    names = {structure.number: structure.name for structure in structures}
    labels = np.zeros(image.shape, dtype=label_dtype(max(values.values(), default=0)))
    for frame, pixels in zip(header.frames, frames, strict=True):
        plane = labels[_plane(path, frame, pixels.shape, image)]
        for number, inside in _masks(dataset, frame.number, pixels):
            taken = plane[inside]
            if ((taken != 0) & (taken != own_values[number])).any():
                raise overlapping(path, names[number])
            plane[inside] = own_values[number]
    return labels


def _masks(
    dataset: Dataset, frame: int, pixels: NDArray[np.unsignedinteger]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Segment numbers of a frame and where they are."""
    if dataset.get("SegmentationType") == "LABELMAP":
        yield from ((int(number), pixels == number) for number in np.unique(pixels) if number)
        return
    groups = [dataset.PerFrameFunctionalGroupsSequence[frame], *dataset.get("SharedFunctionalGroupsSequence", [])]
    item = next(group for group in groups if "SegmentIdentificationSequence" in group)
    yield int(item.SegmentIdentificationSequence[0].ReferencedSegmentNumber), pixels > 0


def _plane(path: Path, frame: Frame, shape: tuple[int, ...], image: Volume) -> int:
    """Which plane of the image a frame is. Raises GeometryError where it is none."""
    if frame.position is None or frame.orientation is None or frame.pixel_spacing is None:
        raise GeometryError(f"{path}: frame {frame.number + 1} does not say where it lies.")
    normal = axes_of(frame.orientation)[2]
    own = affine_of(np.array(frame.position), normal, frame.orientation, frame.pixel_spacing)
    corners = np.array([[0, 0, 0, 1], [0, shape[0] - 1, 0, 1], [0, 0, shape[1] - 1, 1]], dtype=np.float64)
    found = (np.linalg.inv(image.affine) @ own @ corners.T)[:3].T
    plane = round(float(found[0, 0]))
    expected = corners[:, :3] + [plane, 0, 0]
    off = np.abs(found - expected).max()
    if shape != image.shape[1:] or not 0 <= plane < image.shape[0] or off > _OFF_VOXELS:
        raise GeometryError(
            f"{path} lies on another grid than the image: frame {frame.number + 1} of {shape[0]} x {shape[1]} voxels "
            f"is off by {off:.3g} voxels from the nearest plane of the image's {image.shape} (z, y, x). "
            "Export the segmentation on the image's own grid."
        )
    return plane


def _structure(item: Dataset) -> Structure:
    codes = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
    snomed = codes[0].get("CodingSchemeDesignator") == "SCT"
    return Structure(
        int(item.SegmentNumber),
        str(item.get("SegmentLabel", "")).strip() or f"segment {item.SegmentNumber}",
        str(codes[0].CodeValue) if snomed else None,
        _rgb(item.get("RecommendedDisplayCIELabValue")),
    )


def _rgb(lab: Sequence[int] | None) -> tuple[int, int, int] | None:
    if lab is None:
        return None
    red, green, blue = CIELabColor.from_dicom_value(lab).to_rgb()
    return red, green, blue
