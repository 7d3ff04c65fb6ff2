"""Keys by which equal images are recognised, whatever their file names and headers.

Knows no files. ``unordered_key`` is the same for a mirrored or turned copy: it does not depend on where a voxel lies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.images.volume import Volume

_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


_AFFINE_DECIMALS = 3
"""The hash sees affines in micrometres: headers of other formats differ by float32 roundings."""


def voxel_hash(image: Volume, labels: Volume) -> str:
    """SHA-256 of the voxels of an image and its labels and of where they lie; equal in every file format."""
    digest = hashlib.sha256()
    digest.update(repr((image.array.shape, (image.affine.round(_AFFINE_DECIMALS) + 0.0).tolist())).encode())
    digest.update(np.ascontiguousarray(image.array, dtype="<f4").data)
    digest.update(np.ascontiguousarray(labels.array, dtype="<u4").data)
    return digest.hexdigest()


def content_key(arrays: Sequence[NDArray[np.float32]]) -> str:
    """SHA-256 of voxels and shapes, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        for part in array.reshape(-1, *array.shape[-2:]):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def unordered_key(arrays: Sequence[NDArray[np.float32]]) -> str:
    """A key of which values occur how often, and of the shape up to the order of its axes."""
    total = 0
    for array in arrays:
        for part in array.reshape(-1, *array.shape[-2:]):
            bits = np.ascontiguousarray(part + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0: -0 becomes 0
            mixed = (bits + _ODD[0]) * _ODD[1]
            mixed = (mixed ^ (mixed >> np.uint64(29))) * _ODD[0]
            total += int((mixed ^ (mixed >> np.uint64(32))).sum(dtype=np.uint64))
    shapes = sorted(tuple(sorted(array.shape[-3:])) for array in arrays)
    return f"{shapes}-{total % 2**64:016x}"
