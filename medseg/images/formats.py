"""Reading and writing images and Labels, whatever the format: the file's suffix decides.

Knows no format itself; each has a module beside this one. Nothing is repaired, guessed or rounded in silence: a file
that can't be read safely is refused with a code, a sentence and a remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import label_dtype
from medseg.errors import GeometryError, ImageFileError, MedsegError
from medseg.images import metaimage, nifti, planar
from medseg.images.volume import Volume

_MODULES = {
    ".nii.gz": nifti,
    ".nii": nifti,
    ".mha": metaimage,
    ".nrrd": metaimage,
    ".png": planar,
    ".tif": planar,
    ".tiff": planar,
}
SUFFIXES: tuple[str, ...] = tuple(_MODULES)
"""Every suffix that can be read, the longest first where one ends in another."""


def stem_of(path: Path | str) -> str:
    """The file's name without its image suffix: "a_0000.nii.gz" -> "a_0000". An unknown suffix stays."""
    name = Path(path).name
    suffix = _suffix_of(name)
    return name[: -len(suffix)] if suffix else name


def can_tell_orientation(path: Path | str) -> bool:
    """Whether the file's format has room to say how it lies in the patient; pictures (PNG, TIFF) have none."""
    return _MODULES.get(_suffix_of(Path(path).name)) is not planar


def read_image(path: Path | str) -> Volume:
    """Read an image as float32 (C, Z, Y, X), exactly as it lies in the file; a fourth axis or colour becomes C.

    Raises ImageFileError for a file that is missing, damaged, ambiguous, of an unknown type, or not finite.
    """
    path = _existing(path)
    return _MODULES[_suffix_of(path.name)].read_image(path)


def read_labels(path: Path | str) -> Volume:
    """Read Labels (Z, Y, X) as the integers that the file holds, exactly as they lie in it.

    A file of floating point numbers is accepted when every value is within 1e-6 of an integer. Raises ImageFileError
    for anything that read_image refuses, for other fractions, and for more than three dimensions.
    """
    path = _existing(path)
    return _MODULES[_suffix_of(path.name)].read_labels(path)


def write_labels(path: Path | str, labels: NDArray[Any], like: Volume) -> None:
    """Write Labels (Z, Y, X) whole or not at all, on the very grid of ``like``; the suffix decides the format.

    The type in the file follows the largest value: uint8, uint16, uint32, or int32 where one is negative. The same
    Labels give the same bytes. Raises GeometryError for another shape, MedsegError when it can't be written.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise MedsegError(f"{path}: Labels are whole numbers, but the array to write is {labels.dtype}.")
    _require_shape(path, labels, like, ranks=(3,))
    smallest, largest = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    dtype = label_dtype(largest) if smallest >= 0 else np.int32
    if smallest < np.iinfo(dtype).min or largest > np.iinfo(dtype).max:
        raise MedsegError(f"{path}: label values from {smallest} to {largest} do not fit into {np.dtype(dtype).name}.")
    _writer(path).write(Path(path), labels.astype(dtype, copy=False), like)


def write_image(path: Path | str, image: NDArray[Any], like: Volume) -> None:
    """Write a map (Z, Y, X) or (C, Z, Y, X) as float32, whole or not at all, on the very grid of ``like``.

    Raises GeometryError for another shape, MedsegError when the format can't hold it or it can't be written.
    """
    _require_shape(path, image, like, ranks=(3, 4))
    _writer(path).write(Path(path), image.astype(np.float32, copy=False), like)


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise ImageFileError("missing-file", f"{path} is not a file.", "Correct the path, or restore the file.")
    if not _suffix_of(path.name):
        raise ImageFileError(
            "unknown-suffix",
            f"{path} has no suffix that can be read; known are {', '.join(SUFFIXES)}.",
            "Convert it, for example to .nii.gz.",
        )
    return path


def _suffix_of(name: str) -> str:
    lowered = name.lower()
    return next((suffix for suffix in SUFFIXES if lowered.endswith(suffix) and len(lowered) > len(suffix)), "")


def _writer(path: Path | str) -> Any:
    suffix = _suffix_of(Path(path).name)
    if not suffix:
        raise MedsegError(f"{path} has no suffix that can be written; known are {', '.join(SUFFIXES)}.")
    return _MODULES[suffix]


def _require_shape(path: Path | str, array: NDArray[Any], like: Volume, ranks: tuple[int, ...]) -> None:
    if array.ndim not in ranks or array.shape[-3:] != like.shape:
        raise GeometryError(
            f"{path}: an array of shape {array.shape} can't be written on a grid of {like.shape} voxels (z, y, x). "
            "Restore it to the file's own grid first."
        )
