"""A DICOM file where an image or a label file is asked for: it stands for its series, or for the labels in it.

Knows nothing of Datasets. The other files of the series lie in the same folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medseg.errors import GeometryError, ImageFileError
from medseg.images.dicom.file import STRUCTURE_SET, FirstLook, look_at, read_header, series_uid_of
from medseg.images.dicom.intake import take_in_paths
from medseg.images.dicom.names import Structure
from medseg.images.dicom.segmentation import read_segmentation, segments_of
from medseg.images.dicom.series import Series
from medseg.images.dicom.structure_set import read_structure_set, regions_of
from medseg.images.volume import Volume


def read_image(path: Path) -> Volume:
    """The volume that a file is a slice of, float32 ``(1, Z, Y, X)``. Raises ImageFileError, GeometryError."""
    return series_of(path).read()


def series_of(path: Path) -> Series:
    """The series that a file is a slice of. Raises ImageFileError where it is none, or not safe to use."""
    look = look_at(path)
    if look.header is None:
        reason = look.reason or "it holds labels"
        raise ImageFileError("no-dicom-image", f"{path} is no image that can be used: {reason}.", "Name another file.")
    beside = (other for other in sorted(path.parent.iterdir()) if other.is_file())
    own = [other for other in beside if series_uid_of(other) == look.header.series_uid]
    found = take_in_paths(path.parent, own)
    for series in found.series:
        if path in series.files:
            return series
    entry = next(file for file in found.files if file.path == path.name)
    raise ImageFileError(
        "unsafe-series",
        f"The series of {path} is not safe to use ({entry.reason}).",
        "Turn it into NIfTI with 'medseg convert', where what may be interpolated can be allowed, or leave it out.",
    )


def read_labels(path: Path, image: Volume, values: Mapping[str, int]) -> Volume:
    """Labels ``(Z, Y, X)`` on the grid of ``image``, each structure with the value of its name.

    Raises ImageFileError for a file without labels, unknown names and overlaps, GeometryError for another grid.
    """
    look = _labels_in(path)
    read = read_structure_set if look.sop_class_uid == STRUCTURE_SET else read_segmentation
    series = image.header
    if isinstance(series, Series) and look.frame_of_reference_uid not in {"", series.frame_of_reference_uid}:
        raise GeometryError(f"{path} has another frame of reference than the image. Name the image that it belongs to.")
    return Volume(read(path, image, values), image.affine, image.header)


def structures_in(path: Path) -> list[Structure]:
    """What a label file names. Raises ImageFileError for a file without labels."""
    look = _labels_in(path)
    header = read_header(path)
    return regions_of(header) if look.sop_class_uid == STRUCTURE_SET else segments_of(header)


def _labels_in(path: Path) -> FirstLook:
    look = look_at(path)
    if look.kind != "labels":
        sentence = f"{path} should be a DICOM segmentation or structure set, but is not ({look.reason or 'an image'})."
        raise ImageFileError("no-dicom-labels", sentence, "Name another file.")
    return look
