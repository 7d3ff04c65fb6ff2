"""Reading and writing images and Labels, whatever the format: the file's suffix decides, or that it is DICOM.

Knows no format itself; each has a module beside this one. A DICOM file stands for its whole series; it is known by its
first bytes, since its name tells nothing. Nothing is repaired, guessed or rounded in silence: a file
that can't be read safely is refused with a code, a sentence and a remedy.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.arrays import label_dtype
from medseg.errors import GeometryError, ImageFileError, MedsegError
from medseg.images.dicom import require_extra
from medseg.images.volume import Volume

_MODULES = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mha": "metaimage",
    ".nrrd": "metaimage",
    ".png": "planar",
    ".tif": "planar",
    ".tiff": "planar",
}
"""The module beside this one that knows a format; it and its library are loaded when such a file is met."""
_DICOM_STARTS = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""Of a dataset without preamble: group 8 or 2, little or big endian."""
SUFFIXES: tuple[str, ...] = tuple(_MODULES)
"""Every suffix that can be read, the longest first where one ends in another."""


def stem_of(path: Path | str) -> str:
    """The file's name without its image suffix: "a_0000.nii.gz" -> "a_0000". An unknown suffix stays."""
    name = Path(path).name
    suffix = _suffix_of(name)
    return name[: -len(suffix)] if suffix else name


def is_dicom(path: Path | str) -> bool:
    """Whether a file begins as DICOM does, with its mark after a preamble or without both; no library is needed."""
    with Path(path).open("rb") as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or start[:2] in _DICOM_STARTS


def find_dicom(folder: Path) -> Path | None:
    """The first DICOM file in a folder and its folders; None where there is none."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return next((path for path in files if not _suffix_of(path.name) and is_dicom(path)), None)


def can_tell_orientation(path: Path | str) -> bool:
    """Whether the file's format has room to say how it lies in the patient; pictures (PNG, TIFF) have none."""
    return _MODULES.get(_suffix_of(Path(path).name)) != "planar"


def read_image(path: Path | str) -> Volume:
    """Read an image as float32 (C, Z, Y, X), exactly as it lies in the file; a fourth axis or colour becomes C.

    Raises ImageFileError for a file that is missing, damaged, ambiguous, of an unknown type, or not finite.
    """
    path = _existing(path)
    return _reader(path).read_image(path)


def peek_image(path: Path | str) -> Volume | None:
    """Size and place of an image without its voxels: to plan for memory before it is read.

    Its array has the shape that ``read_image`` gives, but is zero and takes no memory; None where a format (pictures,
    DICOM) tells that only as it is read. Raises ImageFileError for a header that can't be read; whether the voxels can
    be read is not known.
    """
    path = _existing(path)
    suffix = _suffix_of(path.name)
    return _module_of(suffix).peek_image(path) if suffix and can_tell_orientation(path) else None


def read_labels(path: Path | str) -> Volume:
    """Read Labels (Z, Y, X) as the integers that the file holds, exactly as they lie in it.

    A file of floating point numbers is accepted when every value is within 1e-6 of an integer. Raises ImageFileError
    for anything that read_image refuses, for other fractions, and for more than three dimensions.
    """
    path = _existing(path)
    if not _suffix_of(path.name):
        raise ImageFileError(
            "dicom-labels", f"{path} holds DICOM, whose labels need the image that they belong to.", "Name it as well."
        )
    return _module_of(_suffix_of(path.name)).read_labels(path)


def read_labels_for(path: Path | str, image: Volume, values: Mapping[str, int]) -> Volume:
    """The Labels (Z, Y, X) of an image; ``values`` are those of the names that DICOM labels tell instead of values.

    DICOM labels come on the image's grid, those of other formats on their own. Raises what read_labels raises, and
    GeometryError for DICOM labels that do not belong to the image.
    """
    path = _existing(path)
    if _suffix_of(path.name):
        return read_labels(path)
    return _dicom().read_labels(path, image, values)


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
    if not _suffix_of(path.name) and not is_dicom(path):
        raise ImageFileError(
            "unknown-suffix",
            f"{path} is no DICOM file and has no suffix that can be read; known are {', '.join(SUFFIXES)}.",
            "Convert it, for example to .nii.gz.",
        )
    return path


def _suffix_of(name: str) -> str:
    lowered = name.lower()
    return next((suffix for suffix in SUFFIXES if lowered.endswith(suffix) and len(lowered) > len(suffix)), "")


def _module_of(suffix: str) -> Any:
    return importlib.import_module(f"medseg.images.{_MODULES[suffix]}")


def _reader(path: Path) -> Any:
    suffix = _suffix_of(path.name)
    return _module_of(suffix) if suffix else _dicom()


def _dicom() -> ModuleType:
    require_extra()
    from medseg.images.dicom import reading

    return reading


def _writer(path: Path | str) -> Any:
    suffix = _suffix_of(Path(path).name)
    if not suffix:
        raise MedsegError(f"{path} has no suffix that can be written; known are {', '.join(SUFFIXES)}.")
    return _module_of(suffix)


def _require_shape(path: Path | str, array: NDArray[Any], like: Volume, ranks: tuple[int, ...]) -> None:
    if array.ndim not in ranks or array.shape[-3:] != like.shape:
        raise GeometryError(
            f"{path}: an array of shape {array.shape} can't be written on a grid of {like.shape} voxels (z, y, x). "
            "Restore it to the file's own grid first."
        )
