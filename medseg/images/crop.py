"""Cutting a Volume's array to its non-zero region, and putting a part back into the whole.

Knows nothing of spacing. The region is nnU-Net's: a voxel belongs to it when any channel differs from zero there, or
when such voxels enclose it (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.arrays import Image, Mask, Triple
from medseg.errors import GeometryError


def nonzero_box(image: Image) -> tuple[Triple, Triple]:
    """First voxel and one past the last voxel (z, y, x) of the non-zero region; the whole image when all is zero.

    Enclosed holes need not be filled for this: filling never makes the box larger.
    """
    return _box(_differs_from_zero(image))


def nonzero_mask(image: Image) -> Mask:
    """The non-zero region (Z, Y, X) with enclosed holes filled; all True when the whole image is zero.

    Equals ``scipy.ndimage.binary_fill_holes`` on the union of the channels, at a fraction of its time: the background
    is labelled once, and what does not reach the border is a hole.
    """
    mask = _differs_from_zero(image)
    if not mask.any():
        return np.ones_like(mask)
    lower, upper = _box(mask)
    inside = crop(mask, lower, upper)
    background = cc3d.connected_components(np.pad(~inside, 1, constant_values=True), connectivity=6)
    outside = background[1:-1, 1:-1, 1:-1] == background[0, 0, 0]
    return paste(~outside, lower, _shape(mask), fill=False)


def crop(array: NDArray[Any], lower: Triple, upper: Triple) -> NDArray[Any]:
    """The box from ``lower`` up to, not including, ``upper`` (z, y, x) of (C, Z, Y, X) or (Z, Y, X); a view.

    Raises GeometryError for a box that is empty or reaches outside.
    """
    shape = array.shape[-3:]
    if not all(0 <= low < high <= size for low, high, size in zip(lower, upper, shape, strict=True)):
        raise GeometryError(f"The box from {lower} to {upper} does not lie within an array of shape {shape} (z, y, x).")
    return array[(..., *(slice(low, high) for low, high in zip(lower, upper, strict=True)))]


def paste(array: NDArray[Any], lower: Triple, shape: Triple, fill: int | float = 0) -> NDArray[Any]:
    """A new array of ``shape`` (z, y, x) full of ``fill`` with ``array`` at ``lower``: the way back from ``crop``.

    Raises GeometryError when it does not fit.
    """
    whole = np.full((*array.shape[:-3], *shape), fill, dtype=array.dtype)
    z, y, x = (low + size for low, size in zip(lower, array.shape[-3:], strict=True))
    crop(whole, lower, (z, y, x))[...] = array
    return whole


def _differs_from_zero(image: Image) -> Mask:
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return mask


def _box(mask: Mask) -> tuple[Triple, Triple]:
    if not mask.any():
        return (0, 0, 0), _shape(mask)
    (z0, z1), (y0, y1), (x0, x1) = (_extent(mask, axes) for axes in ((1, 2), (0, 2), (0, 1)))
    return (z0, y0, x0), (z1, y1, x1)


def _extent(mask: Mask, others: tuple[int, int]) -> tuple[int, int]:
    reached = np.flatnonzero(np.any(mask, axis=others))
    return int(reached[0]), int(reached[-1]) + 1


def _shape(array: NDArray[Any]) -> Triple:
    z, y, x = array.shape[-3:]
    return z, y, x
