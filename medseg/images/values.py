"""What the numbers of a file must fulfil before they become an image or Labels, the same for every format.

Knows nothing of files: it gets arrays and a name to blame. The allow-list of types and the refusals are rows 6, 16
and 22 of the catalogue of silent failures that the tests of this room are built on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ImageFileError

LARGEST_AXIS = 32767
LARGEST_PRODUCT = 2**34
"""Voxels times channels that a file may claim: 17 thousand million, 64 GB as float32."""
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def require_finite(values: NDArray[Any], path: Path) -> None:
    """Raise ImageFileError for NaN or infinite voxels."""
    if not np.issubdtype(values.dtype, np.floating) or np.isfinite(values).all():
        return
    code, name = ("nan", "NaN (not a number)") if np.isnan(values).any() else ("inf", "infinite")
    raise ImageFileError(
        code, f"{path} holds voxels that are {name}.", "Find out where they come from, and export the file again."
    )


def to_image(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Finite float32 voxels. Raises ImageFileError for NaN, Inf and anything float32 can't hold."""
    require_finite(values, path)
    if values.dtype == np.float64 and values.size and max(-values.min(), values.max()) > _LARGEST_FLOAT32:
        raise ImageFileError(
            "float-range",
            f"{path} holds values up to {max(-values.min(), values.max()):.3g}, more than single precision can hold "
            f"({_LARGEST_FLOAT32:.3g}).",
            "Correct or rescale the image.",
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def is_rounded(values: NDArray[Any]) -> bool:
    """Whether float32 can't hold some of these integers exactly (beyond 2**24)."""
    if not np.issubdtype(values.dtype, np.integer) or values.dtype.itemsize < 4 or not values.size:
        return False
    return max(-int(values.min()), int(values.max())) > 2**24


def to_labels(values: NDArray[Any], path: Path) -> NDArray[np.integer]:
    """Integer voxels in the machine's byte order; floating point becomes int64 where every value is an integer.

    Raises ImageFileError for NaN, Inf, and values more than 1e-6 from an integer.
    """
    if np.issubdtype(values.dtype, np.integer):
        return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    require_finite(values, path)
    rounded = np.rint(values)
    off = np.abs(values - rounded) > 1e-6
    if off.any() or (values.size and np.abs(rounded).max() >= 2**53):
        example = float(values[off][0]) if off.any() else float(np.abs(rounded).max())
        raise ImageFileError(
            "float-labels",
            f"{path} should hold whole numbers but has a value of {example:.6g} ({int(off.sum())} such voxels in this "
            "part of the file).",
            "It may be a probability map or was resampled with interpolation; export the labels again as integers.",
        )
    return rounded.astype(np.int64)


def narrowed(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """int64 Labels that came from floating point, in the smallest of the usual types that holds them."""
    if labels.dtype != np.int64 or not labels.size:
        return labels
    smallest, largest = int(labels.min()), int(labels.max())
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= smallest and largest <= np.iinfo(dtype).max:
            return labels.astype(dtype)
    return labels


def require_dimensions(shape: tuple[int, ...], path: Path) -> None:
    """Raise ImageFileError for sizes that no image has, before any memory is asked for."""
    product = 1
    for size in shape:
        product *= size
    if not shape or min(shape) < 1 or max(shape) > LARGEST_AXIS or product > LARGEST_PRODUCT:
        raise ImageFileError(
            "size-lie",
            f"{path} claims {' x '.join(map(str, shape))} voxels; every axis should have 1 to {LARGEST_AXIS} and all "
            f"together at most {LARGEST_PRODUCT}.",
            "The header is damaged; export the file again.",
        )


def unsupported_type(path: Path, found: str) -> ImageFileError:
    """The refusal of a voxel type outside the allow-list."""
    return ImageFileError(
        "unsupported-type",
        f"{path} holds {found}; images and labels should be integers of 8 to 64 bits or floats of 32 or 64 bits.",
        "Convert it to one of these; from complex data, save the magnitude.",
    )


def no_orientation(path: Path, why: str) -> str:
    """The remark on a file whose left and right nobody knows."""
    return f"{path.name} does not say how it lies in the patient ({why}); left and right are unknown."


def is_sheared(axes: NDArray[np.float64]) -> bool:
    """Whether the columns of a 3x3 matrix are not at right angles (more than 1e-3, about 0.06 degrees, apart)."""
    cosines = axes / np.linalg.norm(axes, axis=0)
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() > 1e-3)


def sheared(path: Path) -> ImageFileError:
    """The refusal of axes that are not at right angles."""
    return ImageFileError(
        "sheared",
        f"{path} has axes that are not at right angles (a tilted gantry, or a registration with shear).",
        "Resample it onto a rectangular grid first.",
    )
