"""The contours of an RT Structure Set as Labels on the grid of the image that they were drawn on.

Knows nothing of Datasets. Contours are in patient coordinates; turned into the image's own (z, y, x) they may lie
however they like, so oblique series need nothing special. A voxel is inside where its centre is, by the even-odd rule
over all contours of a structure in a plane, which makes holes of contours within contours (PS3.3 C.8.8.6).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.arrays import Labels, label_dtype
from medseg.errors import GeometryError, ImageFileError
from medseg.images.dicom.names import Structure, overlapping, values_of
from medseg.images.volume import Volume

_OFF_PLANE = 0.1
"""How far, in slices, points may lie beside the plane that they belong to."""
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
Polygon = NDArray[np.float64]


def regions_of(dataset: Dataset) -> list[Structure]:
    """What the file names, by ROINumber, where it has contours."""
    drawn = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence", [])}
    return [
        Structure(int(item.ROINumber), str(item.get("ROIName", "")).strip() or f"region {item.ROINumber}", None, color)
        for item in dataset.get("StructureSetROISequence", [])
        if int(item.ROINumber) in drawn and drawn[int(item.ROINumber)].get("ContourSequence")
        for color in [_color(drawn[int(item.ROINumber)])]
    ]


def read_structure_set(path: Path, image: Volume, values: Mapping[str, int]) -> Labels:
    """Labels ``(Z, Y, X)`` of the image's grid, with the value that each structure's name has.

    Raises ImageFileError for unknown names and structures that overlap, GeometryError for contours that are not in a
    plane of the image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        structures = regions_of(dataset)
        own_values = values_of(path, structures, values)
        items = {int(item.ReferencedROINumber): item for item in dataset.ROIContourSequence}
        polygons = {one.number: _polygons(path, one.name, items[one.number], image) for one in structures}
    labels = np.zeros(image.shape, dtype=label_dtype(max(values.values(), default=0)))
    for structure in structures:
        for plane, contours in polygons[structure.number].items():
            inside = fill(contours, (image.shape[1], image.shape[2]))
            if labels[plane][inside].any():
                raise overlapping(path, structure.name)
            labels[plane][inside] = own_values[structure.number]
    return labels


def fill(polygons: list[Polygon], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Voxels ``(rows, columns)`` whose centres are inside an odd number of polygons ``(n, 2)`` of (y, x) in voxels."""
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    inside = np.zeros(shape, dtype=bool)
    for row in range(shape[0]):
        # Half-open, so that a corner on the row counts for one of its two edges.
        crossing = (starts[:, 0] <= row) != (ends[:, 0] <= row)
        if not crossing.any():
            continue
        (y0, x0), (y1, x1) = starts[crossing].T, ends[crossing].T
        columns = np.sort(x0 + (row - y0) / (y1 - y0) * (x1 - x0))
        for left, right in zip(columns[::2], columns[1::2], strict=True):
            inside[row, max(0, int(np.ceil(left))) : max(0, int(np.ceil(right)))] ^= True
    return inside


def _polygons(path: Path, name: str, item: Dataset, image: Volume) -> dict[int, list[Polygon]]:
    """Closed contours of one structure by plane, (y, x) in voxels."""
    to_voxels = np.linalg.inv(image.affine)
    found: dict[int, list[Polygon]] = {}
    for contour in item.ContourSequence:
        if contour.get("ContourGeometricType") not in {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}:
            raise ImageFileError(
                "open-contour",
                f"{path}: '{name}' has a contour of type {contour.get('ContourGeometricType')}, not CLOSED_PLANAR.",
                "Take points and open lines out of the structure set.",
            )
        points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3) * _LPS_TO_RAS
        places = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        plane = round(float(places[:, 0].mean()))
        off = float(np.abs(places[:, 0] - plane).max())
        if off > _OFF_PLANE or not 0 <= plane < image.shape[0]:
            raise GeometryError(
                f"{path}: a contour of '{name}' lies {off:.2g} slices beside the nearest plane of the image "
                f"(plane {plane} of {image.shape[0]}). It was drawn on another series; name that one."
            )
        found.setdefault(plane, []).append(places[:, 1:])
    return found


def _color(item: Dataset) -> tuple[int, int, int] | None:
    value = item.get("ROIDisplayColor")
    if value is None or len(value) != 3:
        return None
    red, green, blue = (int(part) for part in value)
    return red, green, blue
