"""An irregular stack of parallel slices on a regular grid, and Labels of that grid back on the slices.

Knows no files. Images are interpolated linearly, in the plane first and between the two nearest slices after; outside
of every slice is air. Labels take the nearest voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.images.dicom.geometry import Geometry, Vector
from medseg.images.dicom.pixels import AIR_HU


def resample_stack(stack: NDArray[np.float32], geometry: Geometry, modality: str) -> NDArray[np.float32]:
    """Slices ``(n, rows, columns)`` on the regular grid ``(Z, Y, X)`` of ``geometry``."""
    places = _places(geometry)
    air = AIR_HU if modality == "CT" else min(0.0, float(stack.min()))
    rows, columns = stack.shape[1] + geometry.margin[0], stack.shape[2] + geometry.margin[1]
    moved = np.stack([_moved(slice_, place, (rows, columns), air) for slice_, place in zip(stack, places, strict=True)])
    result = np.empty((geometry.planes, rows, columns), dtype=np.float32)
    for plane in range(geometry.planes):
        upper = int(np.clip(np.searchsorted(places[:, 0], plane), 1, len(places) - 1))
        low, high = places[upper - 1, 0], places[upper, 0]
        share = float(np.clip((plane - low) / (high - low), 0, 1))
        result[plane] = (1 - share) * moved[upper - 1] + share * moved[upper]
    return result


def resample_labels_back(labels: NDArray[Any], geometry: Geometry, shape: tuple[int, int]) -> NDArray[Any]:
    """Labels ``(Z, Y, X)`` of the regular grid on each slice ``(n, rows, columns)``."""
    result = np.zeros((len(_places(geometry)), *shape), dtype=labels.dtype)
    for slice_, place in zip(result, _places(geometry), strict=True):
        z, y, x = (int(index) for index in np.rint(place))
        plane = labels[min(max(z, 0), len(labels) - 1)]
        slice_[...] = plane[y : y + shape[0], x : x + shape[1]]
    return result


def _places(geometry: Geometry) -> Vector:
    assert geometry.places is not None  # told by the verdict
    return geometry.places


def _moved(slice_: NDArray[np.float32], place: Vector, shape: tuple[int, int], air: float) -> NDArray[np.float32]:
    """A slice put where it lies in the larger plane, by parts of a voxel."""
    larger = np.full(shape, air, dtype=np.float32)
    larger[: slice_.shape[0], : slice_.shape[1]] = slice_
    if not place[1:].any():
        return larger
    return np.asarray(ndimage.shift(larger, place[1:], order=1, mode="constant", cval=air), dtype=np.float32)
