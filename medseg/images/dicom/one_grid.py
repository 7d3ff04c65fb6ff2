"""Several series of a study on one grid, through the frame of reference that they share.

Knows nothing of channels. Two series with the same FrameOfReferenceUID say where they lie in the same coordinates
(PS3.3 C.7.4.1), so one can be interpolated on the other's grid; without it nothing says how they lie to one another.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.images.dicom.pixels import AIR_HU
from medseg.images.dicom.series import Series
from medseg.images.volume import Volume, corner_distance_mm

_SAME_MM = 0.001


def onto_grid(volume: Volume, like: Volume) -> Volume:
    """``volume`` (C, Z, Y, X) on the grid of ``like``, linearly; air outside. Both are as ``Series.read`` gave them.

    Raises GeometryError unless they share a frame of reference.
    """
    if volume.shape == like.shape and corner_distance_mm(volume.affine, like.affine, like.shape) <= _SAME_MM:
        return volume
    source, target = volume.header, like.header
    if not isinstance(source, Series) or not isinstance(target, Series):
        raise GeometryError("Only series of DICOM can be brought to one grid.")
    if not source.frame_of_reference_uid or source.frame_of_reference_uid != target.frame_of_reference_uid:
        raise GeometryError(
            f"Series {source.uid} and {target.uid} do not share a frame of reference, so nothing says how they lie to "
            "one another. Register them first, or choose series of one examination."
        )
    matrix = np.linalg.inv(volume.affine) @ like.affine
    air = AIR_HU if source.modality == "CT" else min(0.0, float(volume.array.min()))
    offset: Any = matrix[:3, 3]  # scipy's own stub knows a single number only
    channels = [
        ndimage.affine_transform(
            channel, matrix[:3, :3], offset, output_shape=like.shape, order=1, mode="constant", cval=air
        )
        for channel in volume.array
    ]
    remark = f"series {source.uid} was interpolated on the grid of {target.uid}"
    array = np.stack(channels).astype(np.float32)
    return replace(volume, array=array, affine=like.affine, remarks=(*volume.remarks, remark))
