"""MetaImage (``.mha``) and NRRD (``.nrrd``) files through SimpleITK, held to the same rules as NIfTI.

Knows nothing of labels' names. ITK's world is LPS+ with x first; here it becomes RAS+ with z first, and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the name that its whole documentation uses)
from numpy.typing import NDArray

from medseg.errors import ImageFileError, MedsegError
from medseg.files import written_whole
from medseg.images import values
from medseg.images.itk_stream import require_whole, tells_orientation
from medseg.images.volume import Volume

_ENGINES = {".mha": "MetaImageIO", ".nrrd": "NrrdImageIO"}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_ZYX = [2, 1, 0, 3]
_TYPES = {sitk.sitkUInt8, sitk.sitkInt8, sitk.sitkUInt16, sitk.sitkInt16, sitk.sitkUInt32, sitk.sitkInt32}
_TYPES |= {sitk.sitkUInt64, sitk.sitkInt64, sitk.sitkFloat32, sitk.sitkFloat64}
_VECTORS = {sitk.sitkVectorUInt8, sitk.sitkVectorInt8, sitk.sitkVectorUInt16, sitk.sitkVectorInt16}
_VECTORS |= {sitk.sitkVectorUInt32, sitk.sitkVectorInt32, sitk.sitkVectorFloat32, sitk.sitkVectorFloat64}


@dataclass(frozen=True)
class ItkGrid:
    """Geometry as ITK writes it, kept so that a file goes back with the very same numbers; x first."""

    spacing_xyz: tuple[float, ...]
    origin_xyz: tuple[float, ...]
    direction_xyz: tuple[float, ...]


def read_image(path: Path) -> Volume:
    """The file as float32 (C, Z, Y, X); vector components or a fourth axis become C. Raises ImageFileError."""
    array, affine, grid = _read(path)
    remarks = (f"{path.name} holds integers beyond 2**24, which float32 rounds.",) if values.is_rounded(array) else ()
    return _volume(values.to_image(array, path), affine, grid, path, remarks)


def peek_image(path: Path) -> Volume:
    """What ``read_image`` gives, by the header alone: its voxels are zeros without memory. Raises ImageFileError."""
    reader, components = _opened(path), 1
    sizes = [int(size) for size in reversed(reader.GetSize())]
    if len(sizes) < 4:
        components, sizes = reader.GetNumberOfComponents(), [*[1] * (3 - len(sizes)), *sizes]
    shape = (components, *sizes) if len(sizes) == 3 else tuple(sizes)
    grid = _spatial(reader)
    return _volume(np.broadcast_to(np.float32(0), shape), _affine_of(grid), grid, path)


def read_labels(path: Path) -> Volume:
    """The file as integers (Z, Y, X). Raises ImageFileError."""
    array, affine, grid = _read(path)
    if len(array) > 1:
        raise ImageFileError(
            "four-dimensional",
            f"{path} holds {len(array)} volumes or components, but labels should be one volume of whole numbers.",
            "Split it, or merge overlapping structures into one label file.",
        )
    labels = values.to_labels(array[0], path)
    found = labels if np.issubdtype(array.dtype, np.integer) else values.narrowed(labels)
    return _volume(found, affine, grid, path)


def _volume(
    array: NDArray[Any], affine: NDArray[np.float64], grid: ItkGrid, path: Path, remarks: tuple[str, ...] = ()
) -> Volume:
    known = tells_orientation(path)
    if not known:
        remarks = (values.no_orientation(path, "its header has no directions"), *remarks)
    return Volume(array, affine, grid, known, remarks)


def write(path: Path, array: NDArray[Any], like: Volume) -> None:
    """Write (Z, Y, X) or (C, Z, Y, X), channels as vector components; ``medseg.images.formats`` has checked it."""
    vector = array.ndim == 4 and len(array) > 1
    stored = np.moveaxis(array, 0, -1) if vector else array.reshape(array.shape[-3:])
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored), isVector=vector)
    grid = like.header if isinstance(like.header, ItkGrid) else _grid_of(like.affine)
    image.SetSpacing(grid.spacing_xyz)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.direction_xyz)
    with written_whole(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True, imageIO=_engine(path))
        except RuntimeError as error:
            raise MedsegError(f"Could not write {path}: {_reason(error)}.") from None


def _read(path: Path) -> tuple[NDArray[Any], NDArray[np.float64], ItkGrid]:
    """Array (C, Z, Y, X) as stored, affine, and ITK's own numbers."""
    reader = _opened(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    array = _channels_first(image)
    grid = _spatial(image)
    affine = _affine_of(grid)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageFileError(
            "sform-nan", f"{path} has a position or direction that is not finite or flat.", "Correct the header."
        )
    if values.is_sheared(affine[:3, :3]):
        raise values.sheared(path)
    return array, affine, grid


def _opened(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header and found it sound."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_engine(path))
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    _require_readable(reader, path)
    return reader


def _unreadable(path: Path, error: RuntimeError) -> ImageFileError:
    return ImageFileError(
        "unreadable-file", f"{path} can't be read: {_reason(error)}.", "Copy or export the file again."
    )


def _channels_first(image: sitk.Image) -> NDArray[Any]:
    """(C, Z, Y, X) of an image of 2 to 4 dimensions, with one component or several."""
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    elif image.GetDimension() < 4:
        array = array[None]
    return array[:, None] if image.GetDimension() == 2 else array


def _require_readable(reader: sitk.ImageFileReader, path: Path) -> None:
    sizes, pixel = reader.GetSize(), reader.GetPixelID()
    components = reader.GetNumberOfComponents()
    values.require_dimensions((*sizes, components), path)
    if pixel not in _TYPES | _VECTORS:
        raise values.unsupported_type(path, f"voxels of type '{sitk.GetPixelIDValueAsString(pixel)}'")
    if not 2 <= len(sizes) <= 4 or (len(sizes) == 4 and components > 1):
        raise ImageFileError(
            "four-dimensional",
            f"{path} has {len(sizes)} dimensions and {components} components; three, and one for channels, are read.",
            "Split it into one file per channel.",
        )
    if not all(np.isfinite(size) and size > 0 for size in reader.GetSpacing()):
        raise ImageFileError(
            "bad-pixdim", f"{path} has a voxel size of {reader.GetSpacing()} (x, y, z).", "Correct its header."
        )
    voxel_bytes = components * math.prod(sizes) * _bytes_per_value(sitk.GetPixelIDValueAsString(pixel))
    require_whole(path, voxel_bytes)


def _bytes_per_value(name: str) -> int:
    """From ITK's words, such as "vector of 16-bit signed integer"."""
    return int(next(bits for bits in (64, 32, 16, 8) if f"{bits}-bit" in name)) // 8


def _spatial(image: sitk.Image | sitk.ImageFileReader) -> ItkGrid:
    """The three spatial axes of a 2D, 3D or 4D image; the third axis of a flat one is 1 mm along its normal."""
    dimensions = image.GetDimension()
    direction = np.eye(max(3, dimensions))
    direction[:dimensions, :dimensions] = np.reshape(image.GetDirection(), (dimensions, dimensions))
    spacing = (*image.GetSpacing(), 1.0)[:3]
    origin = (*image.GetOrigin(), 0.0)[:3]
    return ItkGrid(spacing, origin, tuple(direction[:3, :3].ravel().tolist()))


def _affine_of(grid: ItkGrid) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.direction_xyz, (3, 3)) * np.asarray(grid.spacing_xyz)
    affine[:3, 3] = grid.origin_xyz
    return (_LPS_TO_RAS @ affine)[:, _ZYX]


def _grid_of(affine: NDArray[np.float64]) -> ItkGrid:
    itk = _LPS_TO_RAS @ affine[:, _ZYX]
    spacing = np.linalg.norm(itk[:3, :3], axis=0)
    direction = itk[:3, :3] / spacing
    return ItkGrid(tuple(spacing.tolist()), tuple(itk[:3, 3].tolist()), tuple(direction.ravel().tolist()))


def _engine(path: Path) -> str:
    return _ENGINES[path.suffix.lower()]


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, which is the one that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "unknown error"
