"""PNG and TIFF: pictures of 8 or 16 bits, grey or colour, and stacks of pages, without a place in the patient.

Knows nothing of labels' names. These formats say nothing reliable about millimetres or orientation, so the spacing is
1 mm and the orientation unknown, and a remark says so. Colour becomes three channels; pages become Z.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from medseg.errors import ImageFileError, MedsegError
from medseg.files import written_whole
from medseg.images import values
from medseg.images.volume import Volume

# Rows run to the back of the patient or not, nobody knows; this affine makes "canonical" mean "leave as it is".
_AFFINE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
_REMEDY = "Copy or export the file again."


def read_image(path: Path) -> Volume:
    """The picture as float32 (C, Z, Y, X); C is 1 for grey and 3 for colour. Raises ImageFileError."""
    array, oddities = _read(path, labels=False)
    return _volume(values.to_image(array, path), path, oddities)


def read_labels(path: Path) -> Volume:
    """The picture's values, or its palette's indices, as integers (Z, Y, X). Raises ImageFileError."""
    array, oddities = _read(path, labels=True)
    if len(array) > 1:
        raise ImageFileError(
            "unsupported-type",
            f"{path} is a colour picture, but labels should be one whole number per pixel.",
            "Save it as a grey or palette picture whose values are the labels.",
        )
    found = values.to_labels(array[0], path)
    found = found if np.issubdtype(array.dtype, np.integer) else values.narrowed(found)
    return _volume(found, path, oddities)


def write(path: Path, array: NDArray[Any], like: Volume) -> None:  # noqa: ARG001  (all formats are called alike)
    """Write (Z, Y, X) or (C, Z, Y, X); PNG takes one slice of uint8 or uint16. The place of ``like`` is not stored."""
    if path.suffix.lower() != ".png":
        _write_tiff(path, array)
        return
    if array.ndim != 3 or len(array) != 1 or array.dtype not in (np.uint8, np.uint16):
        raise MedsegError(
            f"{path}: a PNG holds one slice of whole numbers up to 65535, not {array.dtype} of shape {array.shape}. "
            "Write .nii.gz or .tif instead."
        )
    with written_whole(path) as temporary:
        Pillow.fromarray(np.ascontiguousarray(array[0])).save(temporary, format="PNG")


def _write_tiff(path: Path, array: NDArray[Any]) -> None:
    several = array.ndim == 4 and len(array) > 1
    pages = np.moveaxis(array, 0, -1) if several else array.reshape(array.shape[-3:])
    with written_whole(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(pages),
            photometric="minisblack",
            planarconfig="contig" if several else None,
            compression="zlib",
            metadata=None,
            software=False,
        )


def _volume(array: NDArray[Any], path: Path, oddities: tuple[str, ...]) -> Volume:
    remark = f"{path.name} does not say how large its voxels are or how it lies in the patient; 1 mm is assumed."
    return Volume(array, _AFFINE, None, orientation_known=False, remarks=(remark, *oddities))


def _read(path: Path, labels: bool) -> tuple[NDArray[Any], tuple[str, ...]]:
    """(C, Z, Y, X) as stored, and what tifffile found odd."""
    try:
        with _overheard("tifffile") as oddities:
            array = _read_png(path, labels) if path.suffix.lower() == ".png" else _read_tiff(path)
    except ImageFileError:
        raise
    except Exception as error:  # damaged files make both libraries fail in every way that Python knows
        raise ImageFileError("unreadable-file", f"{path} can't be read: {error}.", _REMEDY) from None
    if any("TiffPages" in oddity for oddity in oddities):  # the chain of pages breaks off; what is left looks whole
        raise _truncated_tiff(path)
    return array, tuple(f"{path.name}: {oddity}" for oddity in oddities)


class _Listener(logging.Handler):
    """Collects messages instead of printing them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def _overheard(name: str) -> Iterator[list[str]]:
    """Collect what a library logs inside the block, so that it becomes remarks and not lines on stderr."""
    listener, logger = _Listener(), logging.getLogger(name)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        yield listener.heard
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate


def _read_png(path: Path, labels: bool) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
        with Pillow.open(path, formats=["PNG"]) as picture:
            values.require_dimensions((picture.height, picture.width), path)
            picture.verify()  # every chunk's checksum; loading alone does not look at them
        with Pillow.open(path, formats=["PNG"]) as picture:
            bits, mode = _png_bits(path), picture.mode
            array = np.asarray(picture.convert("RGB") if mode == "P" and not labels else picture)
    if mode not in ("1", "L", "P", "I;16", "I", "RGB", "RGBA") or (bits == 16 and mode in ("RGB", "RGBA")):
        raise values.unsupported_type(path, f"a {bits}-bit picture of mode {mode}")
    if mode == "L" and bits < 8:  # Pillow stretches these to 0..255
        array = array // (255 // (2**bits - 1))
    if mode == "RGBA":
        if (array[..., 3] != 255).any():
            raise values.unsupported_type(path, "transparent pixels")
        array = array[..., :3]
    if array.dtype == bool:
        array = array.astype(np.uint8)
    return np.moveaxis(array[None] if array.ndim == 3 else array[None, ..., None], -1, 0)


def _png_bits(path: Path) -> int:
    with path.open("rb") as stream:
        return stream.read(25)[24]


def _read_tiff(path: Path) -> NDArray[Any]:
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise ImageFileError(
                "ambiguous-pages",
                f"{path} holds {len(file.series)} different pictures; one, or a stack of equal pages, is read.",
                "Save one series per file.",
            )
        series = file.series[0]
        values.require_dimensions(series.shape, path)
        if series.dtype is None or series.dtype.kind not in "uif" or series.dtype.itemsize > 8 or series.dtype == "f2":
            raise values.unsupported_type(path, f"voxels of type {series.dtype}")
        size = path.stat().st_size
        for page in series.pages:
            offsets = zip(page.dataoffsets, page.databytecounts, strict=True) if page is not None else ()
            if any(count == 0 or offset + count > size for offset, count in offsets):
                raise _truncated_tiff(path)
        array, axes = file.asarray(), series.axes
    return _ordered(array, axes, path)


def _truncated_tiff(path: Path) -> ImageFileError:
    return ImageFileError("truncated-tiff", f"{path} is cut off before its last page.", _REMEDY)


def _ordered(array: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """(C, Z, Y, X) from tifffile's named axes: S and C are channels, any other beside Y and X is Z."""
    channels = [i for i, axis in enumerate(axes) if axis in "SC" and array.shape[i] > 1]
    stack = [i for i, axis in enumerate(axes) if axis not in "SCYX" and array.shape[i] > 1]
    if len(channels) > 1 or len(stack) > 1 or not {"Y", "X"} <= set(axes):
        raise ImageFileError(
            "four-dimensional",
            f"{path} has the axes {axes} of {' x '.join(map(str, array.shape))}; pages, colour, y and x are read.",
            "Save one series per file.",
        )
    rest = [i for i, axis in enumerate(axes) if axis not in "YX" and i not in channels + stack]
    order = [*channels, *stack, axes.index("Y"), axes.index("X")]
    array = array.transpose([*rest, *order]).reshape([array.shape[i] for i in order])
    if not channels:
        array = array[None]
    return array if stack else array[:, None]
