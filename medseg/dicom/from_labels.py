"""A label file of another program as a DICOM Segmentation of the series it was drawn on.

Knows nothing of models. The file may store its axes in any order and direction, as NIfTI does; its voxels have to be
those of the series. Nothing is resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Labels
from medseg.cases.labels import LabelTable
from medseg.dicom.origin import Made, Origin
from medseg.dicom.outputs import on_frames
from medseg.dicom.segmentation import make_segmentation, segments_of
from medseg.errors import DatasetError, GeometryError
from medseg.files import hash_file
from medseg.images.dicom.series import Series
from medseg.images.formats import read_labels
from medseg.images.volume import Volume

_TOLERANCE_VOXELS = 0.02
"""Headers round; half a voxel would be another place."""


def segmentation_of_file(
    path: Path,
    series: Sequence[Series],
    table: LabelTable,
    made: Made = "MANUAL",
) -> tuple[hd.seg.Segmentation, Series]:
    """The Segmentation of a label file, and the one of the series that it lies on.

    Raises GeometryError where it lies on none of them or on several, DatasetError for unknown values or no structure.
    """
    volume = read_labels(path)
    fitting: list[tuple[Series, Labels]] = []
    for one in series:
        labels = onto_series(volume, one)
        if labels is not None:
            fitting.append((one, labels))
    if len(fitting) != 1:
        what = "does not lie on the grid of any series" if not fitting else f"lies on the grid of {len(fitting)} series"
        raise GeometryError(
            f"{path.name} {what} there (spacing {volume.spacing} mm, shape {volume.shape}, both z, y, x). Give the "
            "folder of the series that it was drawn on; labels on another grid have to be resampled first."
        )
    chosen, values = fitting[0]
    indices = table.to_indices(values)
    segments = segments_of(indices, table)
    if not segments:
        raise DatasetError(f"{path.name} holds no structure, and a DICOM Segmentation can't be empty.")
    headers = chosen.read_headers()
    origin = Origin(path.name.split(".")[0], hash_file(path), made)
    return make_segmentation(headers, on_frames(chosen, headers, indices), segments, origin), chosen


def onto_series(volume: Volume, series: Series) -> NDArray[np.integer] | None:
    """Labels (Z, Y, X) in the order of the series' voxels; None where they are not the same voxels."""
    if series.geometry.affine is None or series.shape is None:
        return None
    to_file = np.linalg.inv(volume.affine) @ series.geometry.affine
    whole = np.rint(to_file[:3, :3]).astype(int)
    is_turn = bool((np.abs(whole).sum(axis=0) == 1).all() and (np.abs(whole).sum(axis=1) == 1).all())
    if not is_turn:
        return None
    order = np.abs(whole).argmax(axis=0)  # for each axis of the series, that of the file
    turned = np.transpose(volume.array, order)
    if turned.shape != series.shape:
        return None
    flips = tuple(slice(None, None, int(whole[order[axis], axis])) for axis in range(3))
    start = np.array([0 if whole[order[axis], axis] > 0 else turned.shape[axis] - 1 for axis in range(3)])
    expected = np.zeros(3)
    expected[order] = start
    corners = np.array(np.meshgrid(*[(0, extent - 1) for extent in series.shape], indexing="ij")).reshape(3, -1)
    exact = whole @ corners + expected[:, None]
    found = to_file[:3, :3] @ corners + to_file[:3, 3:]
    return turned[flips] if np.abs(exact - found).max() <= _TOLERANCE_VOXELS else None
